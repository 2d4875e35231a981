"""A host that is lost is proven off, and its VMs run elsewhere, once."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select

from mudanza.cli.settings import load_settings
from mudanza.journal.database import now, open_database, transaction
from mudanza.journal.schema import reading
from mudanza.journal.sightings import Sightings
from mudanza.lab import faults, fence_agent
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import REPLICAS, await_true, know_by_ssh
from tests.lab.tiny import tiny

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def fenced_cluster(lab: Lab) -> str:
    """Return the lab as a cluster file has it: what switches its hosts' power, and which pool they share."""
    lines = ["[planning]", 'shared_pools = ["shared"]']
    for host in lab.hosts:
        lines += [
            f"[hosts.{host}]",
            f'uri = "{lab.uri(host)}"',
            f'peer_uri = "{lab.peer_uri(host)}"',
            f"[hosts.{host}.fence.power]",
            f'agent = "{fence_agent.NAME}"',
            f'options = {{lab = "{lab.name}", plug = "{host}"}}',
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def fencing(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    """The command with a database of its own, in which the hosts can be switched off."""
    place = tmp_path_factory.mktemp("fencing")
    config, cluster = place / "config.toml", place / "cluster.toml"
    agents = fence_agent.install(lab)
    config.write_text(f'database = "{place / "m.db"}"\n[fencing]\nagents = ["{agents}"]\noff = 20\nstatus = 10\n')
    cluster.write_text(fenced_cluster(lab))
    mudanza = Mudanza(lab, config)
    mudanza("import", str(cluster))
    return mudanza


@pytest.fixture
def moods(lab: Lab) -> Iterator[None]:
    """Agents are honest again afterwards."""
    yield
    for host in lab.hosts:
        fence_agent.fence_mood(lab, host, "honest")


def test_an_agent_that_lies_proves_nothing(lab: Lab, fencing: Mudanza, moods: None) -> None:
    assert [row["power"] for row in fencing("fence", "test", "h1", "-o", "json").data] == ["on"]
    assert "host h1 answers" in fencing("fence", "off", "h1", "--yes", expect=3).err
    fence_agent.fence_mood(lab, "h1", "lying")
    assert "yet h1 answers" in fencing("fence", "off", "h1", "--yes", "--force", expect=5).err
    fence_agent.fence_mood(lab, "h1", "idle")
    assert "says that it is on" in fencing("fence", "off", "h1", "--yes", "--force", expect=5).err
    assert not [row for row in fencing("fence", "show", "-o", "json").data if row["proven off"]]
    assert lab.cell("h1").alive


def test_the_machine_behind_a_device_is_the_host_it_is_said_to_be(lab: Lab, fencing: Mudanza, moods: None) -> None:
    words = ("--agent", fence_agent.NAME, "--option", f"lab={lab.name}", "--option")
    assert "UUID" in fencing("fence", "set", "h1", "power", *words, "plug=h1").err
    assert "switches another machine" in fencing("fence", "set", "h1", "other", *words, "plug=h2", expect=3).err
    fencing("fence", "set", "h1", "other", *words, "plug=h2", "--unmatched", expect=3)
    fence_agent.fence_mood(lab, "h2", "dumb")
    assert "cannot be told" in fencing("fence", "set", "h1", "other", *words, "plug=h2", expect=3).err
    assert [row["machine"][:10] for row in fencing("fence", "test", "h1", "-o", "json").data] == ["the host's"]
    fence_agent.fence_mood(lab, "h1", "strange")  # somebody has plugged it in elsewhere
    assert "another machine than h1" in fencing("fence", "test", "h1", expect=3).err
    assert "switch another machine" in fencing("fence", "off", "h1", "--yes", "--force", expect=5).err
    assert lab.cell("h1").alive
    fence_agent.fence_mood(lab, "h1", "honest")
    fencing("fence", "test", "h1")


def test_a_lost_hosts_vms_run_elsewhere_once(lab: Lab, fencing: Mudanza, tmp_path: Path) -> None:
    guests: list[Guest] = []
    plan = str(tmp_path / "plan.json")
    try:
        for number in (1, 2):
            spec = GuestSpec(f"lost{number}", memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared")
            guests.append(create_guest(lab, spec, "h1"))
        fencing("plan", "balance")  # which writes down what is where
        faults.kill_host(lab, "h1")
        made = fencing("plan", "evacuate", "h1", "--save", plan, "-o", "json").data
        assert sorted(move["vm"] for move in made["moves"]) == ["lost1", "lost2"]
        assert "mudanza fence off h1" in fencing("apply", plan, expect=3).err
        fencing("fence", "off", "h1", "--yes")
        fencing("apply", plan)
        for guest in guests:
            guest.await_answer()
        running = {
            guest.name: [host for host, state in guest.states().items() if state == "running"] for guest in guests
        }
        assert running == {move["vm"]: [move["target"]] for move in made["moves"]}
        faults.boot_host(lab, "h1")
        for guest in guests:
            assert guest.states()["h1"] == "shut off", "it does not start there by itself"
        fencing("plan", "balance")
        assert not [row for row in fencing("fence", "show", "-o", "json").data if row["proven off"]]
        assert sorted(each["vm"] for each in fencing("ha", "status", "-o", "json").data["stale"]) == ["lost1", "lost2"]
        fencing("ha", "clean", "h1", "--yes")
        for guest in guests:
            assert guest.states() == {running[guest.name][0]: "running"}
            guest.verify()
    finally:
        if not lab.cell("h1").alive:
            faults.boot_host(lab, "h1")
        for guest in guests:
            guest.remove()


def test_a_vm_whose_qemu_was_killed_is_started_again_where_it_was(lab: Lab, fencing: Mudanza) -> None:
    with tiny(lab, "crasher", run=True) as uuid:
        fencing("ha", "enable", "crasher")
        faults.kill_qemu(lab, "h1", "crasher")
        await_true(lambda: "crashed" in state_of(lab, uuid), "libvirt has noticed")
        fencing("ha", "run", "--once")
        assert "running" in state_of(lab, uuid)
        virsh(lab.cell("h1"), "destroy", uuid)
        fencing("ha", "run", "--once")
        assert "shut off (destroyed)" in state_of(lab, uuid), "it was shut down, and stays down"
        fencing("ha", "disable", "crasher")


def test_a_guest_that_hangs_is_restarted_where_it_is_and_answers(lab: Lab, fencing: Mudanza, tmp_path: Path) -> None:
    spec = GuestSpec("hanger", memory=128 * MIB, beat=0.05, disk=32 * MIB, guest_agent=True)
    guest = create_guest(lab, spec, "h1")
    said = tmp_path / "said"
    try:
        await_true(lambda: agent_of(lab, guest, "guest-ping") is not None, "its agent answers")
        fencing("ha", "enable", "hanger", "--on-hang", "restart", "--hang-after", "30s", "--answers", "agent")
        with said.open("w") as told:
            watching = subprocess.Popen(
                fencing.argv("ha", "run"), env=fencing.environment, stdout=subprocess.DEVNULL, stderr=told
            )
        try:
            await_true(lambda: "hanger on h1 is heard" in said.read_text(), "it is listened to", limit=120)
            # Its kernel dies, and does not boot again by itself.
            crash = "echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger"
            agent_of(lab, guest, "guest-exec", path="/bin/busybox", arg=["sh", "-c", crash])
            await_true(lambda: agent_of(lab, guest, "guest-ping") is None, "it is silent")
            await_true(lambda: "hanger runs on h1, started anew" in said.read_text(), "it is restarted", limit=300)
            await_true(lambda: "hanger on h1 answers (agent)" in said.read_text(), "its agent answers", limit=120)
        finally:
            watching.send_signal(signal.SIGTERM)
            watching.wait(60)
        [row] = [row for row in fencing("ha", "restarts", "-o", "json").data if row["vm"] == "hanger"]
        assert (row["source"], row["target"], row["answer"]) == ("h1", "h1", "agent")
        assert row["answering"] > 0
        guest.await_answer()
        fencing("ha", "disable", "hanger")
    finally:
        guest.remove()


def agent_of(lab: Lab, guest: Guest, command: str, **arguments: object) -> object:
    """Return what the guest's agent answers; None: nothing."""
    question = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    said = virsh(lab.cell("h1"), "qemu-agent-command", guest.uuid, question, "--timeout", "3", check=False)
    return json.loads(said)["return"] if said.strip() else None


@pytest.mark.soak
def test_a_lost_hosts_vm_comes_up_from_its_replica_by_itself(lab: Lab, tmp_path: Path) -> None:
    """Its disk dies with its host; what is lost is said, and the old copy does not start."""
    mudanza = know_by_ssh(lab, tmp_path)
    agents = fence_agent.install(lab)
    with mudanza.config.open("a") as config:
        config.write(f'[fencing]\nagents = ["{agents}"]\n')
    words = ("--agent", fence_agent.NAME, "--option", f"lab={lab.name}", "--option", "plug=h1")
    mudanza("fence", "set", "h1", "power", *words)
    guest = create_guest(
        lab, GuestSpec("copied", memory=128 * MIB, beat=0.05, disk=64 * MIB, disk_write_rate=MIB), "h1"
    )
    try:
        assert "no replica" in mudanza("ha", "enable", "copied", "--from-replica", expect=3).err
        virsh(lab.cell("h1"), "autostart", guest.uuid)
        mudanza("protect", "copied", "--to", "h2")
        mudanza("ha", "enable", "copied", "--from-replica", "--max-loss", "1ms")
        mudanza("ha", "run", "--once")
        faults.kill_host(lab, "h1")
        mudanza("ha", "run", "--once")
        assert "running" not in guest.states().values(), "without proof nothing is started"
        mudanza("fence", "off", "h1", "--yes")
        assert "would be lost" in mudanza("ha", "run", "--once").err
        assert "running" not in guest.states().values()
        mudanza("ha", "enable", "copied", "--from-replica", "--answers", "tcp:127.0.0.1:1")
        told = mudanza("ha", "run", "--once").err
        assert "copied runs on h2 from restore point 1 of its replica; at most" in told
        guest.await_answer()
        mudanza("ha", "run", "--once")
        [row] = mudanza("ha", "restarts", "-o", "json").data
        assert (row["source"], row["target"]) == ("h1", "h2")
        assert row["starting"] >= 0
        assert "are lost with h1" in mudanza("audit").out
        faults.boot_host(lab, "h1")
        mudanza("ha", "run", "--once")
        assert guest.states() == {"h1": "shut off", "h2": "running"}, "the old copy does not start"
        assert "has left by failover" in mudanza("doctor", expect=None).out
    finally:
        if not lab.cell("h1").alive:
            faults.boot_host(lab, "h1")
        guest.remove()
        virsh(lab.cell("h1"), "vol-delete", "--pool", "default", GuestSpec("copied").volume, check=False)
        lab.cell("h2").run(["rm", "-rf", "--", REPLICAS])


def state_of(lab: Lab, uuid: str) -> str:
    return str(virsh(lab.cell("h1"), "domstate", "--reason", uuid)).strip()


@pytest.mark.soak
def test_the_daemon_has_a_dead_hosts_vms_run_elsewhere(lab: Lab, tmp_path: Path) -> None:
    """From the controller's seat, so that other hosts can be asked whether they reach the silent one."""
    mudanza = know_by_ssh(lab, tmp_path)
    agents = fence_agent.install(lab)
    with mudanza.config.open("a") as config:
        config.write(
            f'[fencing]\nagents = ["{agents}"]\n[availability]\nconfirm = 5\nevery = 2\n[service]\nrefresh = 5\n'
        )
    cluster = tmp_path / "rules.toml"
    cluster.write_text('[planning]\nshared_pools = ["shared"]\n')
    mudanza("import", str(cluster))
    for host in lab.hosts:
        options = (f"lab={lab.name}", f"plug={host}")
        words = [word for option in options for word in ("--option", option)]
        mudanza("fence", "set", host, "power", "--agent", fence_agent.NAME, *words)
    guest = create_guest(lab, GuestSpec("kept", memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared"), "h1")
    daemon = None
    try:
        virsh(lab.cell("h1"), "autostart", guest.uuid)
        mudanza("ha", "enable", "kept")
        daemon = mudanza.start("serve", "--no-balance", "--socket", str(tmp_path / "socket"))
        await_true(lambda: "h1" in remembered(mudanza), "the daemon has seen h1", limit=180)
        faults.kill_host(lab, "h1")
        await_true(lambda: "running" in guest.states().values(), "it runs elsewhere", limit=300)
        guest.await_answer()
        assert list(guest.states().values()).count("running") == 1
        faults.boot_host(lab, "h1")
        assert guest.states()["h1"] == "shut off"
    finally:
        if daemon is not None:
            daemon.send(signal.SIGTERM)
            told = daemon.end(expect=None)
            print(told.err)
        if not lab.cell("h1").alive:
            faults.boot_host(lab, "h1")
        guest.remove()
    assert "h1 is confirmed dead" in told.err


@pytest.mark.soak
def test_a_host_that_is_cut_from_everybody_lives_by_its_heartbeat(lab: Lab, tmp_path: Path) -> None:
    mudanza = know_by_ssh(lab, tmp_path)
    with mudanza.config.open("a") as config:
        config.write('[availability]\nconfirm = 5\nevery = 2\nheartbeat = "/srv/shared"\n')

    def beats() -> int:
        found = lab.cell("h2").run(["sh", "-c", "cat /srv/shared/.mudanza-*-h1"], check=False).stdout.split()
        return int(found[1]) if len(found) == 2 else 0

    with tiny(lab, "hearted", run=True):
        mudanza("ha", "enable", "hearted")
        watching = mudanza.start("ha", "run")
        try:
            await_true(lambda: beats() > 0, "its heart beats", limit=180)
            faults.cut(lab, "h1")
            before = beats()
            await_true(lambda: beats() > before + 20, "it goes on", limit=180)
        finally:
            faults.heal(lab, "h1")
            watching.send(signal.SIGTERM)
            told = watching.end(expect=None)
            for host in lab.hosts:
                lab.cell(host).run(["sh", "-c", "kill -- -$(cat /run/mudanza/heartbeat-*/pid)"], check=False)
            lab.cell("h2").run(["sh", "-c", "rm -f /srv/shared/.mudanza-*"], check=False)
        assert "h1 lives (its heartbeat on the storage), and its libvirt does not answer" in told.err, told.err
        assert "confirmed dead" not in told.err


def remembered(mudanza: Mudanza) -> dict[str, object]:
    """Return what the controller remembers of hosts."""
    loaded = load_settings(mudanza.config)
    return dict(Sightings(open_database(loaded.settings.database)).last())


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_host_that_is_not_needed_sleeps_and_is_woken_again(lab: Lab, tmp_path: Path) -> None:
    """Emptied, shut down from within and seen off; nobody takes it for dead; woken, and found well, it gets VMs."""
    mudanza = know_by_ssh(lab, tmp_path)
    agents = fence_agent.install(lab)
    with mudanza.config.open("a") as config:  # a lab's host has no system of its own but its first process
        config.write(f'[fencing]\nagents = ["{agents}"]\n[power]\nshutdown = "kill -TERM 1"\noff = 40\nboot = 120\n')
    cluster = tmp_path / "rules.toml"
    cluster.write_text('[planning]\nshared_pools = ["shared"]\n')
    mudanza("import", str(cluster))
    options = ("--option", f"lab={lab.name}", "--option", "plug=h3")
    mudanza("fence", "set", "h3", "power", "--agent", fence_agent.NAME, *options)
    for host in lab.hosts:
        mudanza("power", "set", host, "--watts", "100,200")
    guests = [
        create_guest(lab, GuestSpec(name, memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared"), host)
        for name, host in (("stays", "h1"), ("leaves", "h3"))
    ]
    try:
        assert "can be off" in mudanza("plan", "consolidate", "--power").out
        mudanza("power", "off", "h3")
        assert not lab.cell("h3").alive
        assert [row["is"] for row in mudanza("power", "show", "-o", "json").data if row["host"] == "h3"] == ["asleep"]
        assert "running" in {state for host, state in guests[1].states().items() if host != "h3"}
        guests[1].await_answer()
        watched = {row["host"]: row["is"] for row in mudanza("ha", "status", "-o", "json").data["hosts"]}
        assert watched == {"h1": "well", "h2": "well", "h3": "asleep"}
        assert "off on purpose" in mudanza("plan", "consolidate").out
        mudanza("power", "on", "h3")
        mudanza("migrate", "leaves", "--to", "h3")
        assert guests[1].states()["h3"] == "running"
    finally:
        if not lab.cell("h3").alive:
            faults.boot_host(lab, "h3")
        for guest in guests:
            guest.remove()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_rounds_of_saving_empty_a_host_switch_it_off_and_wake_it(lab: Lab, tmp_path: Path) -> None:
    """By itself: a plan empties it, the next round shuts it down, and one that finds a host too busy wakes it."""
    mudanza = know_by_ssh(lab, tmp_path)
    agents = fence_agent.install(lab)
    with mudanza.config.open("a") as config:
        config.write(f'[fencing]\nagents = ["{agents}"]\n[power]\nshutdown = "kill -TERM 1"\noff = 40\nboot = 120\n')
        config.write('saving = "auto"\nreserve = 0\nleast_on = 1\n')
    cluster = tmp_path / "rules.toml"
    cluster.write_text('[planning]\nshared_pools = ["shared"]\n')
    mudanza("import", str(cluster))
    options = ("--option", f"lab={lab.name}", "--option", "plug=h3")
    mudanza("fence", "set", "h3", "power", "--agent", fence_agent.NAME, *options)
    for host in ("h1", "h2"):
        mudanza("power", "set", host, "--keep-on")
    guests = [
        create_guest(lab, GuestSpec(name, memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared"), host)
        for name, host in (("steady", "h1"), ("mover", "h3"))
    ]
    try:
        used_for_an_hour(mudanza, {guest.uuid: 0.1 for guest in guests})
        assert "empties it" in mudanza("power", "once").err
        mudanza("work", "--once")
        assert "h3 is off" in mudanza("power", "once").err
        assert not lab.cell("h3").alive
        used_for_an_hour(mudanza, {guests[0].uuid: 64.0})
        assert "h3 is to be woken" in mudanza("power", "once").err
        assert lab.cell("h3").alive
        assert [row["is"] for row in mudanza("power", "show", "-o", "json").data if row["host"] == "h3"] == ["awake"]
    finally:
        if not lab.cell("h3").alive:
            faults.boot_host(lab, "h3")
        for guest in guests:
            guest.remove()


def used_for_an_hour(mudanza: Mudanza, cpus: Mapping[str, float]) -> None:
    """Have it kept that VMs used so much, instead of what was kept of them before."""
    engine = open_database(load_settings(mudanza.config).settings.database)
    with transaction(engine) as connection:
        instant = connection.scalar(select(now(connection))) or 0.0
        connection.execute(delete(reading).where(reading.c.subject.in_(list(cpus))))
        for vm, used in cpus.items():
            for span in range(1, 13):
                values = {"kind": "vm", "subject": vm, "name": vm, "host": "h1", "cpus": used, "span": 30.0}
                rest = {"memory": 1.0, "disk": 0.0, "network": 0.0, "steal": 0.0, "at": instant - span * 300.0}
                connection.execute(insert(reading).values(**values, **rest))
