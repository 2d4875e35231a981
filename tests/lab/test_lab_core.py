"""The lab itself: hosts that are really apart, faults that really bite, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from mudanza.lab import faults, layout, requirements
from mudanza.lab.cell import Cell
from mudanza.lab.construction import take_down
from mudanza.lab.lab import Lab, Via
from mudanza.lab.process import LabError, ProcessId
from mudanza.model.errors import UsageError
from mudanza.model.units import GIB, KIB, MIB
from tests.lab.conftest import await_true

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("needs_lab")]

SMALL = 64 * MIB
"""Pool size, bytes, of labs that hold no guests."""
NAMESPACES = ("net", "mnt", "pid", "uts")


def name(suffix: str) -> str:
    return f"t{os.getpid()}-{suffix}"


@pytest.fixture(autouse=True)
def sweep() -> Iterator[None]:
    """Take down what a failed test has left: the next one is not to suffer from it."""
    yield
    for status in Lab.list():
        if status.name.startswith(name("")):
            take_down(status.name)


@pytest.fixture
def own_lab() -> Iterator[Lab]:
    """A lab to break."""
    built = Lab.up(name("own"), hosts=2, pool_size=SMALL, tied=True)
    yield built
    built.down()


def root_network() -> tuple[object, ...]:
    """Interfaces, addresses, routes and listening sockets of the root network namespace."""
    interfaces = json.loads(subprocess.check_output(["ip", "-json", "address", "show"]))
    addresses = [(i["ifname"], sorted(a["local"] for a in i["addr_info"])) for i in interfaces]
    routes = subprocess.check_output(["ip", "route", "show", "table", "all"], text=True)
    listeners = subprocess.check_output(["ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric"], text=True)
    return addresses, routes, listeners, sorted(Path("/run").glob("netns/*"))


def namespaces(lab: Lab) -> set[str]:
    cells = [lab.cell(cell) for cell in (*lab.hosts, *layout.SEATS, layout.SWITCH)]
    return {str(Path(f"/proc/{cell.pid}/ns/{kind}").readlink()) for cell in cells for kind in NAMESPACES}


def members(wanted: set[str]) -> list[str]:
    """Return the processes that are in any of these namespaces, by process number and kind."""
    found = []
    for process in Path("/proc").iterdir():
        for kind in NAMESPACES if process.name.isdecimal() else ():
            try:
                if str((process / "ns" / kind).readlink()) in wanted:
                    found.append(f"{process.name} {kind}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def loop_files(directory: Path) -> list[str]:
    listed = subprocess.check_output(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], text=True)
    return [line for line in listed.splitlines() if line.startswith(f"{directory}/")]


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def virsh(cell: Cell, *arguments: str, uri: str = "qemu:///system") -> str:
    return cell.run(["virsh", "--quiet", "--connect", uri, *arguments]).stdout.strip()


def start_guest(cell: Cell, vm: str) -> str:
    """Start a guest that never gets beyond its BIOS; return its UUID."""
    uuid = str(uuid4())
    escaped = vm.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    xml = (
        f"<domain type='qemu'><name>{escaped}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>"
        "<os><type>hvm</type></os></domain>"
    )
    cell.run(["sh", "-c", 'cat >"$1"', "sh", f"/tmp/{uuid}.xml"], stdin=xml)
    virsh(cell, "define", f"/tmp/{uuid}.xml")
    virsh(cell, "start", uuid)
    return uuid


def pings(cell: Cell, address: str) -> bool:
    return cell.run(["ping", "-c", "1", "-W", "1", address], check=False).returncode == 0


def in_child(code: str) -> subprocess.Popen[str]:
    """Run code that builds labs in a process of its own, to end it the hard way."""
    # Whoever runs the tests in the background has them ignore Ctrl-C, and the child with them.
    heed_ctrl_c = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-c", f"import signal, time\nfrom mudanza.lab.lab import Lab\n{heed_ctrl_c}\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_up_and_down_leave_nothing() -> None:
    mounts_before, network_before = mounts(), root_network()
    lab = Lab.up(name("gone"), hosts=2, pool_size=SMALL)
    spaces = namespaces(lab)
    assert members(spaces)
    assert len(loop_files(lab.directory)) == 4
    assert root_network() == network_before
    assert mounts() == mounts_before

    lab.down()

    assert members(spaces) == []
    assert loop_files(lab.directory) == []
    assert not lab.directory.exists()
    assert root_network() == network_before
    assert mounts() == mounts_before
    assert take_down(lab.name) is False


def test_a_lab_outlives_the_process_that_built_it_unless_tied() -> None:
    lab_name = name("stays")
    with in_child(f"Lab.up({lab_name!r}, 1, pool_size={SMALL})") as child:
        assert child.wait() == 0
    lab = Lab.open(lab_name)
    try:
        assert virsh(lab.cell("h1"), "hostname") == "h1"
    finally:
        lab.down()


def test_a_tied_lab_dies_with_its_parent_and_down_removes_the_files() -> None:
    lab_name = name("tied")
    code = f"Lab.up({lab_name!r}, 1, pool_size={SMALL}, tied=True); print('up', flush=True); time.sleep(600)"
    with in_child(code) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        lab = Lab.open(lab_name)
        spaces = namespaces(lab)
        child.kill()
    await_true(lambda: not members(spaces), "no process of the lab is left")
    assert not lab.status().alive
    with pytest.raises(UsageError, match="dead"):
        Lab.open(lab_name)
    assert lab.directory.exists()

    assert take_down(lab_name) is True

    assert not lab.directory.exists()
    assert loop_files(lab.directory) == []


def half_built(lab_name: str) -> tuple[subprocess.Popen[str], set[str]]:
    """Start to build a lab in a child that stands still in the middle; return it and the lab's PID namespace."""
    # In small steps: a signal that comes just before one long sleep would be noticed only after it.
    hang = "lambda said: (print(said, flush=True), [time.sleep(0.1) for _ in range(6000)])"
    child = in_child(f"Lab.up({lab_name!r}, 2, pool_size={SMALL}, on_progress={hang})")
    assert child.stdout is not None
    assert child.stdout.readline()
    return child, pid_namespace_of_switch(lab_name)


def pid_namespace_of_switch(lab_name: str) -> set[str]:
    state = json.loads((layout.directory(lab_name) / "state.json").read_text())
    return {str(Path(f"/proc/{state['cells']['switch']['pid']}/ns/pid").readlink())}


def test_ctrl_c_in_the_middle_of_up_leaves_nothing() -> None:
    child, spaces = half_built(name("int"))
    with child:
        assert members(spaces)
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT
    assert members(spaces) == []
    assert not layout.directory(name("int")).exists()
    assert loop_files(layout.directory(name("int"))) == []


def test_a_kill_in_the_middle_of_up_leaves_only_files_and_down_removes_them() -> None:
    child, spaces = half_built(name("half"))
    with child:
        with pytest.raises(UsageError, match="another command"):
            Lab.up(name("half"))
        child.kill()
    await_true(lambda: not members(spaces), "no process of the lab is left")
    assert not next(status for status in Lab.list() if status.name == name("half")).alive
    assert take_down(name("half")) is True
    assert not layout.directory(name("half")).exists()
    assert loop_files(layout.directory(name("half"))) == []


def test_a_failure_in_the_middle_of_up_leaves_nothing() -> None:
    mounts_before, network_before = mounts(), root_network()
    too_small_for_a_filesystem = 4 * KIB
    with pytest.raises(LabError, match=r"mkfs\.ext4"):
        Lab.up(name("fails"), hosts=2, pool_size=too_small_for_a_filesystem)
    assert not layout.directory(name("fails")).exists()
    assert mounts() == mounts_before
    assert root_network() == network_before


def test_a_failure_at_the_very_end_of_up_leaves_nothing() -> None:
    spaces: set[str] = set()

    def fail_late(said: str) -> None:
        spaces.update(pid_namespace_of_switch(name("late")))
        if said.startswith("h1"):
            raise RuntimeError(said)

    with pytest.raises(RuntimeError, match="h1"):
        Lab.up(name("late"), hosts=1, pool_size=SMALL, on_progress=fail_late)
    assert spaces
    assert members(spaces) == []
    assert not layout.directory(name("late")).exists()


def test_two_labs_side_by_side_know_nothing_of_each_other(own_lab: Lab, lab: Lab) -> None:
    ours, theirs = (
        virsh(each.cell("controller"), "capabilities", uri=each.uri("h1", "tls")) for each in (own_lab, lab)
    )
    assert host_uuid(ours) != host_uuid(theirs)
    assert own_lab.hosts == ("h1", "h2")
    assert pings(lab.cell("client"), layout.address("h3"))
    assert not pings(own_lab.cell("client"), layout.address("h3"))
    assert {status.name for status in Lab.list() if status.alive} >= {own_lab.name, lab.name}


def host_uuid(capabilities: str) -> str:
    return capabilities.partition("<uuid>")[2].partition("</uuid>")[0]


def test_labs_that_come_and_go_meanwhile_do_not_disturb_a_list() -> None:
    code = f"[Lab.up({name('busy')!r}, 1, pool_size={SMALL}).down() for _ in range(4)]"
    seen = set()
    with in_child(code) as child:
        while child.poll() is None:
            seen |= {status.alive for status in Lab.list() if status.name == name("busy")}
        assert child.returncode == 0
    assert seen == {True, False}


def test_up_refuses_a_live_lab_and_sweeps_a_dead_one(own_lab: Lab) -> None:
    with pytest.raises(UsageError) as refused:
        Lab.up(own_lab.name)
    assert refused.value.remedy == f"mudanza lab down --lab {own_lab.name}"
    assert virsh(own_lab.cell("h1"), "hostname") == "h1"

    own_lab.cell("switch").kill()
    again = Lab.up(own_lab.name, hosts=1, pool_size=SMALL, tied=True)
    try:
        assert again.hosts == ("h1",)
        assert virsh(again.cell("h1"), "hostname") == "h1"
    finally:
        again.down()


def test_down_never_touches_a_stranger_with_a_reused_process_number() -> None:
    directory = layout.directory(name("reuse"))
    directory.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        mine = ProcessId.of(stranger.pid)
        switch = {"pid": mine.pid, "started": mine.started - 1}
        state = {"hosts": [], "tls": True, "tied": False, "pool_size": 0, "uplinks": {}, "cells": {"switch": switch}}
        (directory / "state.json").write_text(json.dumps(state))
        assert take_down(name("reuse")) is True
        assert stranger.poll() is None
        assert mine.alive
        stranger.kill()
    assert not mine.alive
    assert not directory.exists()


def test_down_refuses_to_reach_into_something_mounted_in_the_lab() -> None:
    directory = layout.directory(name("mount"))
    (directory / "here").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory / "here"], check=True)
    try:
        (directory / "here/precious").touch()
        with pytest.raises(LabError, match="mounted"):
            take_down(name("mount"))
        assert (directory / "here/precious").exists()
    finally:
        subprocess.run(["umount", directory / "here"], check=True)
        take_down(name("mount"))


@pytest.mark.parametrize("wrong", ["", "Lab", "a/b", "..", "a" * 17, "a_b", "lab\n"])
def test_names_that_cannot_work_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="name"):
        Lab.up(wrong)


def test_places_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(layout.PARENT_VARIABLE, f"/{'a' * 80}")
    with pytest.raises(UsageError, match="too long"):
        layout.directory("lab")
    monkeypatch.setenv(layout.PARENT_VARIABLE, "labs")
    with pytest.raises(UsageError, match="absolute"):
        layout.directory("lab")


def test_missing_programs_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_SEARCH_PATH", "/nowhere")
    with pytest.raises(UsageError) as refused:
        requirements.check()
    assert "apt-get install" in refused.value.remedy
    assert {"tini", "iproute2", "libvirt-daemon", "openssl"} <= set(refused.value.remedy.split())


def test_another_place_for_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(layout.PARENT_VARIABLE, str(tmp_path))
    lab = Lab.up("x", hosts=1, pool_size=SMALL, tls=False, tied=True)
    try:
        assert lab.directory == tmp_path / "x"
        assert not lab.cell("controller").run(["ls", str(tmp_path)]).stdout
        # Without certificates TCP is what the hosts have for each other.
        assert lab.peer_uri("h1") == "qemu+tcp://h1/system"
        assert virsh(lab.cell("controller"), "hostname", uri=lab.peer_uri("h1")) == "h1"
        with pytest.raises(LabError):
            virsh(lab.cell("controller"), "hostname", uri=lab.uri("h1", Via.TLS))
    finally:
        lab.down()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("via", [Via.TLS, Via.SSH, Via.TCP])
@pytest.mark.parametrize("place", ["h1", "controller"])
def test_hosts_are_reached_over_the_network(lab: Lab, place: str, via: Via) -> None:
    assert virsh(lab.cell(place), "hostname", uri=lab.uri("h2", via)) == "h2"


def test_certificates_are_checked(lab: Lab) -> None:
    address = layout.address("h2")
    assert virsh(lab.cell("controller"), "hostname", uri=f"qemu+tls://{address}/system") == "h2"
    alias = ["sh", "-c", f"echo {address} impostor >>/etc/hosts"]
    lab.cell("controller").run(alias)
    with pytest.raises(LabError, match="Certificate"):
        virsh(lab.cell("controller"), "hostname", uri="qemu+tls://impostor/system")


def test_the_controller_has_nothing_but_the_network(lab: Lab) -> None:
    controller = lab.cell("controller")
    socket = layout.libvirt_socket(lab.directory, "h1")
    assert socket.is_socket()
    assert controller.run(["test", "-e", str(socket)], check=False).returncode != 0
    assert controller.run(["ls", "-A", str(lab.directory.parent)]).stdout == ""
    with pytest.raises(LabError, match="connect"):
        virsh(controller, "hostname")
    assert not any("libvirtd" in process.argv[:1] for process in controller.processes())
    controller.run([sys.executable, "-c", "import mudanza.model"], env={"PYTHONPATH": os.pathsep.join(sys.path)})
    controller.run(["sh", "-c", 'touch "$XDG_STATE_HOME/database"'])


def test_hosts_are_machines_of_their_own(lab: Lab) -> None:
    for file in ("/etc/machine-id", "/etc/hostname", "/etc/ssh/host_key"):
        assert lab.cell("h1").run(["cat", file]).stdout != lab.cell("h2").run(["cat", file]).stdout
    lab.cell("h1").run(["sh", "-c", "echo here >/tmp/mine; echo ours >/srv/shared/ours"])
    assert lab.cell("h2").run(["test", "-e", "/tmp/mine"], check=False).returncode != 0
    assert lab.cell("h2").run(["cat", "/srv/shared/ours"]).stdout == "ours\n"
    for machines_own in ("/usr/mine", "/etc/alternatives/mine"):
        with pytest.raises(LabError, match="Read-only"):
            lab.cell("h1").run(["touch", machines_own])


def test_pools_and_networks(lab: Lab) -> None:
    common = {"lan", "lan2"}
    for host, own in (("h1", "blue"), ("h2", "green"), ("h3", "green")):
        assert set(virsh(lab.cell(host), "net-list", "--name").split()) == common | {own}
        assert set(virsh(lab.cell(host), "pool-list", "--name").split()) == {"default", "fast", "shared"}


def test_both_bridges_of_a_host_lead_to_the_switch(lab: Lab) -> None:
    h1, address = lab.cell("h1"), "10.77.0.250"
    # Without this Linux answers for any of its addresses on any of its interfaces.
    strict = ["sh", "-c", 'echo "$1" >/proc/sys/net/ipv4/conf/all/arp_ignore', "sh"]
    h1.run([*strict, "1"])
    h1.run(["ip", "address", "add", f"{address}/32", "dev", "br1"])
    try:
        assert pings(lab.cell("client"), address)
    finally:
        h1.run(["ip", "address", "delete", f"{address}/32", "dev", "br1"])
        h1.run([*strict, "0"])


def test_a_guest_moves_between_hosts_encrypted(lab: Lab) -> None:
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    uuid = start_guest(h1, "mover")
    try:
        flags = ["--live", "--p2p", "--tls", "--persistent", "--undefinesource"]
        virsh(h1, "migrate", *flags, uuid, lab.peer_uri("h2"))
        assert virsh(h2, "domstate", uuid) == "running"
        assert uuid not in virsh(h1, "list", "--all", "--uuid")
    finally:
        for cell in (h1, h2):
            cell.run(["virsh", "destroy", uuid], check=False)
            cell.run(["virsh", "undefine", uuid], check=False)


def test_a_command_that_takes_too_long_does_not_run_on(lab: Lab) -> None:
    h1 = lab.cell("h1")
    with pytest.raises(LabError, match="did not end"):
        h1.run(["sleep", "12345"], timeout=0.2)
    await_true(lambda: not sleeping(h1), "the command is gone")


def test_a_terminated_command_does_not_run_on(lab: Lab) -> None:
    h1 = lab.cell("h1")
    with h1.popen(["sleep", "12345"]) as process:
        await_true(lambda: sleeping(h1), "the command runs")
        process.terminate()
    await_true(lambda: not sleeping(h1), "the command is gone")


def sleeping(cell: Cell) -> bool:
    return any(process.argv == ("sleep", "12345") for process in cell.processes())


def test_kill_and_boot_a_host(own_lab: Lab) -> None:
    h1 = own_lab.cell("h1")
    uuid = start_guest(h1, "resident")
    h1.run(["sh", "-c", "echo kept >/var/lib/libvirt/images/kept"])
    spaces = {str(Path(f"/proc/{h1.pid}/ns/pid").readlink())}

    faults.kill_host(own_lab, "h1")

    assert not h1.alive
    await_true(lambda: not members(spaces), "nothing of the host is left")
    assert [cell.alive for cell in own_lab.status().cells] == [False, True, True, True]
    assert not pings(own_lab.cell("h2"), layout.address("h1"))
    with pytest.raises(LabError, match="dead"):
        h1.run(["true"])

    faults.boot_host(own_lab, "h1")

    again = own_lab.cell("h1")
    assert again.pid != h1.pid
    assert again.run(["cat", "/var/lib/libvirt/images/kept"]).stdout == "kept\n"
    assert virsh(again, "domstate", uuid) == "shut off"
    assert virsh(own_lab.cell("controller"), "hostname", uri=own_lab.uri("h1", Via.SSH)) == "h1"
    with pytest.raises(UsageError, match="is up"):
        faults.boot_host(own_lab, "h1")


def test_a_host_that_does_not_come_up_is_dead_and_can_be_mended(own_lab: Lab) -> None:
    settings = own_lab.directory / "h1/etc/libvirt/libvirtd.conf"
    good = settings.read_text()
    faults.kill_host(own_lab, "h1")
    settings.write_text(f"{good}nonsense = ]\n")
    with pytest.raises(LabError, match="libvirtd"):
        faults.boot_host(own_lab, "h1")
    assert not own_lab.cell("h1").alive
    await_true(lambda: len(loop_files(own_lab.directory)) == 2, "only the disks of h2 are in use")
    await_true(lambda: cells_within(own_lab) == 3, "only h2 and the seats are there")

    settings.write_text(good)
    faults.boot_host(own_lab, "h1")

    assert daemon(own_lab) == "running"


def cells_within(lab: Lab) -> int:
    return sum(process.argv[:1] == ("unshare",) for process in lab.cell("switch").processes())


@pytest.mark.parametrize("place", ["h2", "client"])
def test_cut_and_heal_a_link(lab: Lab, place: str) -> None:
    assert pings(lab.cell("h1"), layout.address(place))
    faults.cut(lab, place)
    try:
        assert not pings(lab.cell("h1"), layout.address(place))
        assert [cell.name for cell in lab.status().cells if not cell.link_up] == [place]
    finally:
        faults.heal(lab, place)
    await_true(lambda: pings(lab.cell("h1"), layout.address(place)), "the link is back")


def test_the_rate_of_an_uplink_shows_and_outlives_the_host(own_lab: Lab) -> None:
    slow, fast = 1 * MIB, 8 * MIB
    own_lab.set_uplink("h2", fast)
    at_full_rate = transfer_time(own_lab)
    faults.slow(own_lab, "h2", slow)
    slowed = transfer_time(own_lab)
    assert slowed > 2 * at_full_rate
    faults.kill_host(own_lab, "h2")
    faults.boot_host(own_lab, "h2")
    assert transfer_time(own_lab) > 2 * at_full_rate
    faults.slow(own_lab, "h2", None)
    assert transfer_time(own_lab) < slowed / 2


def transfer_time(lab: Lab) -> float:
    """Send 4 MiB from h1 to h2; return the seconds it took, and see that the switch has counted them."""
    size = 4 * MIB
    before, began = lab.switch_bytes(), time.monotonic()
    lab.cell("h1").run(["sh", "-c", f"head --bytes={size} /dev/zero | ssh h2 'cat >/dev/null'"])
    took, after = time.monotonic() - began, lab.switch_bytes()
    assert after["h1"].received - before["h1"].received > size
    assert after["h2"].sent - before["h2"].sent > size
    return took


def test_kill_stop_and_start_the_daemon_while_a_guest_runs(own_lab: Lab) -> None:
    h1 = own_lab.cell("h1")
    uuid = start_guest(h1, "survivor")

    faults.kill_daemon(own_lab, "h1")
    assert daemon(own_lab) == "dead"
    with pytest.raises(UsageError, match="dead"):
        faults.kill_daemon(own_lab, "h1")
    faults.start_daemon(own_lab, "h1")
    assert virsh(h1, "domstate", uuid) == "running"
    assert set(virsh(h1, "pool-list", "--name").split()) == {"default", "fast", "shared"}
    with pytest.raises(UsageError, match="is there"):
        faults.start_daemon(own_lab, "h1")

    faults.stop_daemon(own_lab, "h1")
    assert daemon(own_lab) == "stopped"
    with pytest.raises(LabError, match="did not end"):
        h1.run(["virsh", "list"], timeout=1)
    faults.cont_daemon(own_lab, "h1")
    assert virsh(h1, "domstate", uuid) == "running"


def daemon(lab: Lab) -> str | None:
    return next(cell.daemon for cell in lab.status().cells if cell.name == "h1")


@pytest.mark.parametrize("vm", ["plain", "a,b;$(id)", "--help", '">', "ñandú"])
def test_kill_and_stop_a_guests_qemu(lab: Lab, vm: str) -> None:
    h1 = lab.cell("h1")
    uuid = start_guest(h1, vm)
    try:
        faults.stop_qemu(lab, "h1", uuid)
        assert qemu_states(h1, uuid) == [True]
        faults.cont_qemu(lab, "h1", vm)
        await_true(lambda: qemu_states(h1, uuid) == [False], "QEMU goes on")
        faults.kill_qemu(lab, "h1", vm)
        assert qemu_states(h1, uuid) == []
        await_true(lambda: virsh(h1, "domstate", "--reason", uuid) == "shut off (crashed)", "libvirt has seen it")
        with pytest.raises(UsageError, match="no QEMU"):
            faults.kill_qemu(lab, "h1", uuid)
    finally:
        virsh(h1, "undefine", uuid)


def qemu_states(cell: Cell, uuid: str) -> list[bool]:
    """Return for each QEMU of that guest whether it stands still."""
    return [process.id.stopped for process in cell.processes() if uuid in process.argv and process.id.alive]


def test_fill_and_empty_a_disk(own_lab: Lab) -> None:
    h1 = own_lab.cell("h1")
    write = ["dd", "if=/dev/zero", "of=/var/lib/libvirt/images/more", "bs=1M", "count=4", "conv=fsync"]

    faults.fill(own_lab, "h1", "default")
    with pytest.raises(LabError, match="No space left"):
        h1.run(write)
    h1.run(["touch", "/var/lib/libvirt/fast/still-room"])
    own_lab.cell("h2").run(write)

    h1.run(["rm", "--", "/var/lib/libvirt/images/more"])
    faults.fill(own_lab, "h1", "default", 20 * MIB)
    h1.run(write)
    faults.unfill(own_lab, "h1", "default")
    h1.run(write)
    with pytest.raises(UsageError, match="no filesystem of its own"):
        faults.fill(own_lab, "h1", "shared")


def test_filling_a_large_disk_costs_the_machine_nothing() -> None:
    lab = Lab.up(name("large"), hosts=1, pool_size=20 * GIB, tied=True)
    try:
        faults.fill(lab, "h1")
        allocated = (lab.directory / "h1-default.img").stat().st_blocks * 512
        assert allocated < 256 * MIB
    finally:
        lab.down()


def test_faults_are_ordered_in_words(lab: Lab) -> None:
    assert faults.ALL["fill"].usage == "HOST [POOL] [LEAVE]"
    assert all(fault.summary for fault in faults.ALL.values())
    faults.ALL["slow"].apply(lab, ["h3", "16mbit"])
    assert [cell.uplink for cell in lab.status().cells if cell.name == "h3"] == [2_000_000]
    faults.ALL["slow"].apply(lab, ["h3", "none"])
    assert [cell.uplink for cell in lab.status().cells if cell.name == "h3"] == [None]
    for words in ([], ["h3"], ["h3", "1mbit", "more"], ["h3", "fast"], ["h9", "1mbit"]):
        with pytest.raises(UsageError):
            faults.ALL["slow"].apply(lab, words)
