"""Plans with what stands between: a script, a question, other addresses; and a site that shuts down and starts anew."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec, mac_of
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_agent import LASTING
from mudanza.lab.lab import Lab
from mudanza.model.recovery import Machine
from mudanza.model.units import MIB
from mudanza.protection.addressing import Back, readdress, take_back
from mudanza.protection.lasting import Card
from tests.lab.command import Mudanza
from tests.lab.conftest import REPLICAS, await_true, know_by_ssh

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ELSEWHERE = "10.99.0.77"
"""An address that is nobody's."""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "dns"
    path.write_text('#!/bin/sh\necho "$MUDANZA_PLAN $MUDANZA_GROUP $MUDANZA_RUN" | tee -a "$0.log"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def by_ssh(lab: Lab, script: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mudanza]:
    mudanza = know_by_ssh(lab, tmp_path_factory.mktemp("seat"))
    with mudanza.config.open("a") as config:
        config.write("[limits]\nconnect = 60\nread = 120\n")
        config.write(f'[hooks.dns]\ncommand = ["{script}"]\nwhen = "recovery"\n')
    yield mudanza
    for host in lab.hosts:
        lab.cell(host).run(["rm", "-rf", "--", REPLICAS])


@pytest.fixture
def guest(lab: Lab, by_ssh: Mudanza) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("planned", memory=128 * MIB, beat=0.05, disk=32 * MIB, guest_agent=True))
    yield made
    made.remove()


def addresses(lab: Lab, host: str, guest: Guest) -> dict[str, list[str]]:
    """The guest's addresses by its agent's word: MAC address → addresses."""
    answer = virsh(lab.cell(host), "qemu-agent-command", guest.uuid, '{"execute": "guest-network-get-interfaces"}')
    return {
        card.get("hardware-address", ""): [each["ip-address"] for each in card.get("ip-addresses", ())]
        for card in json.loads(answer)["return"]
    }


def rows(by_ssh: Mudanza) -> list[dict[str, Any]]:
    return list(by_ssh("protections", "-o", "json").data)


@pytest.fixture
def beside(lab: Lab, by_ssh: Mudanza) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("beside", memory=128 * MIB, beat=0.05, disk=32 * MIB, guest_agent=True), on="h3")
    yield made
    made.remove()


def have_done(lab: Lab, guest: Guest, script: str, host: str = "h2") -> str:
    """Have a guest at a host run a script, by its agent; return what it said."""

    def ask(command: str, **arguments: object) -> dict[str, Any]:
        question = json.dumps({"execute": command, "arguments": arguments})
        answer = json.loads(virsh(lab.cell(host), "qemu-agent-command", guest.uuid, question))["return"]
        return dict(answer)

    begun = ask("guest-exec", **{"path": "/bin/sh", "arg": ["-c", script], "capture-output": True})
    answers: list[dict[str, Any]] = []

    def has_run() -> bool:
        answers.append(ask("guest-exec-status", pid=begun["pid"]))  # told once, and then forgotten
        return bool(answers[-1]["exited"])

    await_true(has_run, "it has run")
    return base64.b64decode(answers[-1].get("out-data", "")).decode()


PRETENDING = {
    "ifupdown": """
mkdir -p /etc/network
cat >/etc/network/interfaces <<END
auto lo

iface eth0 inet static
    address 10.1.2.3
    netmask 255.255.255.0
END
""",
    "networkd": """
mkdir -p /run/systemd/netif/links
echo ADMIN_STATE=configured >/run/systemd/netif/links/$(cat /sys/class/net/eth0/ifindex)
""",
}
"""A guest that is looked after by somebody, as far as its files say: busybox has an ifup, and nobody is networkd."""


def readdressed_as_if(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    """Have a guest at h2 be given addresses, and its own back, by each way that it can pretend to go."""
    database = open_database(str(by_ssh.config.parent / "mudanza.db"))
    card = Card(mac_of(guest.address), "10.99.0.78/16", "", ("10.99.0.53",))
    machine = Machine(limit=120.0)
    with Connections(Inventory(database).hosts(), timeout=60) as connections:
        domains = connections.domains("h2")

        def give() -> str:
            [given] = readdress(domains, guest.uuid, machine, (card,))
            assert addresses(lab, "h2", guest)[card.mac] == ["10.99.0.78"]
            return str(given)

        assert give() == "10.99.0.78/16 (until it reboots)"
        assert take_back(domains, guest.uuid, [card.mac], 120.0) is Back.NOTHING

        have_done(lab, guest, PRETENDING["ifupdown"])
        before = have_done(lab, guest, "cat /etc/network/interfaces")
        assert give() == "10.99.0.78/16 (by ifupdown)"
        own = have_done(lab, guest, "cat /etc/network/interfaces.d/mudanza-eth0")
        assert own.splitlines()[:3] == ["auto eth0", "iface eth0 inet static", "    address 10.99.0.78"]
        assert "10.1.2.3" not in have_done(lab, guest, "cat /etc/network/interfaces")
        assert take_back(domains, guest.uuid, [card.mac], 120.0) is Back.DONE
        assert have_done(lab, guest, "cat /etc/network/interfaces") == before
        assert have_done(lab, guest, "find /etc/network/interfaces.d /var/lib/mudanza -type f") == ""

        have_done(lab, guest, PRETENDING["networkd"])
        assert give() == "10.99.0.78/16 (by systemd-networkd)"
        shown = have_done(lab, guest, "cat /etc/systemd/network/05-mudanza-*.network")
        assert "Address=10.99.0.78/16\nDNS=10.99.0.53\n" in shown
        assert take_back(domains, guest.uuid, [card.mac], 120.0) is Back.DONE
        assert have_done(lab, guest, "find /etc/systemd/network -type f") == ""


def test_a_script_a_question_and_another_address(
    lab: Lab, by_ssh: Mudanza, guest: Guest, beside: Guest, script: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "site.toml"
    plan.write_text(f"""
[[group]]
name = "all"
vms = ["{guest.name}", "{beside.name}"]
before = [{{ script = "dns" }}, {{ ask = "Is the storage up?", limit = "2m" }}]
wait = [{{ agent = "{guest.name}", limit = "2m" }}]
test_networks = {{ lan = "lan" }}

[vm.{guest.name}]
address = [{{ network = "lan", address = "{ELSEWHERE}/16" }}]
limit = "3m"
""")
    for each in (guest, beside):
        by_ssh("protect", each.uuid, "--to", "h2", "--keep", "2")
    by_ssh("recovery", "import", str(plan))
    assert "leads out of it" in by_ssh("test-failover", "plan", "site", expect=3).err
    plan.write_text(plan.read_text().replace('test_networks = { lan = "lan" }', ""))
    by_ssh("recovery", "import", str(plan))
    tried = by_ssh("test-failover", "plan", "site", "-o", "json", limit=400).data["vms"]
    assert [(each["as_before"], each["answered_seconds"] > 0) for each in tried] == [(True, True)] * 2
    by_ssh("failover", "plan", "check", "site", "--planned")
    run = by_ssh.start("failover", "plan", "site", "--planned", "-o", "json")
    await_true(lambda: by_ssh("recovery", "answer", "site", "yes", expect=None).code == 0, "it asks", 120)
    up = run.end(limit=400).data["vms"]
    assert [(each["name"], each["host"]) for each in up] == [(guest.name, "h2"), (beside.name, "h2")]
    assert all(0 < each["ran_seconds"] < each["rto_seconds"] for each in up)
    assert [each.states()["h2"] for each in (guest, beside)] == ["running", "running"]
    assert script.with_name("dns.log").read_text() == "site all recovery\n"
    assert addresses(lab, "h2", guest)[mac_of(guest.address)] == [ELSEWHERE]
    [job] = [job for job in by_ssh("jobs", "-o", "json").data if job["kind"] == "recovery"]
    steps = by_ssh("job", "show", str(job["id"]), "-o", "json").data["steps"]
    names = [step["name"] for step in steps]
    assert sorted(names[2:5]) == ["bring up", "bring up", "readdress"]
    assert (names[:2], names[5:]) == (["run script", "ask"], ["await", "through"])
    first, second = (step for step in steps if step["name"] == "bring up")
    assert second["at"] < first["ended_at"], "both were under way at once"
    assert steps[0]["outcome"] == {"exit": 0, "output": "site all recovery\n"}
    assert steps[1]["outcome"]["answer"] == "yes"
    readdressed_as_if(lab, by_ssh, guest)


OWN = "10.1.2.3"


@pytest.fixture
def lasting(lab: Lab, by_ssh: Mudanza, tmp_path: Path) -> Iterator[Guest]:
    """A protected guest whose address lasts, by ifupdown, and that gets another one by the plan ``away``."""
    spec = GuestSpec("lasting", memory=128 * MIB, disk=32 * MIB, extra_disk=32 * MIB, guest_agent=True)
    made = create_guest(lab, spec)
    await_true(lambda: has_agent(lab, made), "its agent answers", limit=120)
    interfaces = f"auto eth0\niface eth0 inet static\n    address {OWN}\n    netmask 255.255.255.0\n"
    keep = f"mkdir -p {LASTING}/network && cat >{LASTING}/network/interfaces && sync"
    have_done(lab, made, f"echo '{interfaces}' | {{ {keep}; }}", "h1")
    plan = tmp_path / "away.toml"
    plan.write_text(f"""
[[group]]
name = "all"
vms = ["{made.name}"]

[vm.{made.name}]
address = [{{ network = "lan", address = "{ELSEWHERE}/16" }}]
limit = "3m"
""")
    by_ssh("recovery", "import", str(plan))
    by_ssh("protect", made.uuid, "--to", "h2", "--keep", "2")
    yield made
    made.remove()
    for name in (spec.volume, spec.extra_volume):
        virsh(lab.cell("h1"), "vol-delete", "--pool", "default", name, check=False)


def has_agent(lab: Lab, guest: Guest) -> bool:
    return "return" in virsh(lab.cell("h1"), "qemu-agent-command", guest.uuid, '{"execute": "guest-ping"}', check=False)


def go_away(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    """Bring a guest up at h2 by its plan, where it gets another address that lasts, and protect it from there."""
    by_ssh("failover", "plan", "away", "--planned")
    assert addresses(lab, "h2", guest)[mac_of(guest.address)] == [ELSEWHERE]
    assert f"{LASTING}/mudanza" in have_done(lab, guest, f"find {LASTING}/mudanza/addresses -type f"), "it lasts"
    by_ssh("reprotect", guest.uuid)


def assert_own(lab: Lab, by_ssh: Mudanza, guest: Guest, said: str) -> None:
    """It is at h1 with its own address, on its disk, too, and it was said so."""
    assert f"{guest.name} has its own addresses again" in said
    mine = addresses(lab, "h1", guest)[mac_of(guest.address)]
    assert (OWN in mine, ELSEWHERE in mine) == (True, False), mine
    assert have_done(lab, guest, f"ls {LASTING}/network {LASTING}/mudanza", "h1").count("mudanza-eth0") == 0
    [row] = [row for row in by_ssh("protections", "-o", "json").data if row["uuid"] == guest.uuid]
    assert row["addresses_of"] == ""


def test_ctrl_c_on_a_terminal_leaves_alone_what_is_being_brought_up(
    lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    """It goes to all processes that are the terminal's, libvirt's ways to the hosts among them."""
    plan = tmp_path / "stopped.toml"
    plan.write_text(f'[[group]]\nname = "all"\nvms = ["{guest.uuid}"]\nwait = [{{ time = "10ms" }}]\n')
    by_ssh("recovery", "import", str(plan))
    by_ssh("protect", guest.uuid, "--to", "h2")
    running = by_ssh.start_argv(by_ssh.argv("failover", "plan", "stopped", "--planned"))

    def has_another_point() -> bool:
        return [row["points"][-1] for row in rows(by_ssh) if row["uuid"] == guest.uuid] == [2]

    await_true(has_another_point, "it was brought up to date, and is to shut down", limit=120)
    ways = subprocess.run(["ps", "-o", "sid=", "--ppid", str(running.pid)], capture_output=True, text=True, check=True)
    assert str(running.pid) not in ways.stdout.split(), "no way of its to a host is the terminal's"
    os.killpg(running.pid, signal.SIGINT)
    stopped = running.end(5)
    assert "was interrupted; nothing more is begun" in stopped.err
    assert "is not up" not in stopped.err
    assert guest.states() == {"h1": "shut off", "h2": "running"}
    by_ssh("failover", "plan", "stopped", "--resume")


@pytest.mark.soak
def test_a_plain_way_home_gives_its_own_addresses_back(lab: Lab, by_ssh: Mudanza, lasting: Guest) -> None:
    go_away(lab, by_ssh, lasting)
    assert_own(lab, by_ssh, lasting, by_ssh("failover", lasting.uuid, "--planned").err)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_whichever_way_it_comes_home_it_has_its_own_addresses_again(
    lab: Lab, by_ssh: Mudanza, lasting: Guest, tmp_path: Path
) -> None:
    plan = tmp_path / "home.toml"
    plan.write_text(f'[[group]]\nname = "all"\nvms = ["{lasting.name}"]\n')
    by_ssh("recovery", "import", str(plan))
    ways = [
        ("failback", lasting.uuid, "--mode", "live"),
        ("failback", lasting.uuid, "--mode", "cold"),
        ("failover", "plan", "home", "--planned"),
    ]
    for way in ways:
        go_away(lab, by_ssh, lasting)
        assert_own(lab, by_ssh, lasting, by_ssh(*way).err)
        by_ssh("reprotect", lasting.uuid)
    go_away(lab, by_ssh, lasting)
    faults.kill_host(lab, "h2")
    try:
        assert_own(lab, by_ssh, lasting, by_ssh("failover", lasting.uuid, "--source-is-dead").err)
    finally:
        faults.boot_host(lab, "h2")


@pytest.mark.soak
def test_a_site_shuts_down_by_a_plan_and_starts_after_a_power_cut(
    lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    with_other = create_guest(lab, GuestSpec("other", memory=128 * MIB, beat=0.05, disk=0), on="h2")
    plan = tmp_path / "power.toml"
    plan.write_text(f"""
[[group]]
name = "first"
vms = ["{guest.name}"]
wait = [{{ agent = "{guest.name}", limit = "3m" }}]

[[group]]
name = "second"
after = ["first"]
vms = ["{with_other.name}"]
""")
    try:
        by_ssh("recovery", "import", str(plan))
        down = by_ssh("recovery", "stop", "power", "--within", "3m", "-o", "json").data
        assert [each["name"] for each in down["vms"]] == [with_other.name, guest.name]
        assert (guest.states(), with_other.states()) == ({"h1": "shut off"}, {"h2": "shut off"})
        for host in lab.hosts:
            faults.kill_host(lab, host)
        for host in lab.hosts:
            faults.boot_host(lab, host)
        up = by_ssh("recovery", "start", "power", "-o", "json").data
        assert [each["name"] for each in up["vms"]] == [guest.name, with_other.name]
        assert (guest.states(), with_other.states()) == ({"h1": "running"}, {"h2": "running"})
        guest.await_answer()
        with_other.await_answer()
    finally:
        with_other.remove()
