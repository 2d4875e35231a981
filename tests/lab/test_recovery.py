"""Plans with what stands between: a script, a question, other addresses; and a site that shuts down and starts anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec, mac_of
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
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
    made = create_guest(lab, GuestSpec("planned", memory=128 * MIB, disk=32 * MIB, guest_agent=True))
    yield made
    made.remove()


def addresses(lab: Lab, host: str, guest: Guest) -> dict[str, list[str]]:
    """The guest's addresses by its agent's word: MAC address → addresses."""
    answer = virsh(lab.cell(host), "qemu-agent-command", guest.uuid, '{"execute": "guest-network-get-interfaces"}')
    return {
        card.get("hardware-address", ""): [each["ip-address"] for each in card.get("ip-addresses", ())]
        for card in json.loads(answer)["return"]
    }


def test_a_script_a_question_and_another_address(
    lab: Lab, by_ssh: Mudanza, guest: Guest, script: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "site.toml"
    plan.write_text(f"""
[[group]]
name = "all"
vms = ["{guest.name}"]
before = [{{ script = "dns" }}, {{ ask = "Is the storage up?", limit = "2m" }}]
wait = [{{ agent = "{guest.name}", limit = "2m" }}]

[vm.{guest.name}]
test_networks = {{ lan = "lan" }}
address = [{{ network = "lan", address = "{ELSEWHERE}/16" }}]
limit = "3m"
""")
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    by_ssh("recovery", "import", str(plan))
    assert "leads out of it" in by_ssh("test-failover", "plan", "site", expect=3).err
    plan.write_text(plan.read_text().replace('test_networks = { lan = "lan" }', ""))
    by_ssh("recovery", "import", str(plan))
    [tried] = by_ssh("test-failover", "plan", "site", "-o", "json").data["vms"]
    assert (tried["as_before"], tried["answered_seconds"] > 0) == (True, True)
    by_ssh("failover", "plan", "check", "site", "--planned")
    run = by_ssh.start("failover", "plan", "site", "--planned", "-o", "json")
    await_true(lambda: by_ssh("recovery", "answer", "site", "yes", expect=None).code == 0, "it asks", 120)
    [up] = run.end().data["vms"]
    assert (up["name"], up["host"]) == (guest.name, "h2")
    assert guest.states()["h2"] == "running"
    assert script.with_name("dns.log").read_text() == "site all recovery\n"
    assert addresses(lab, "h2", guest)[mac_of(guest.address)] == [ELSEWHERE]
    [job] = [job for job in by_ssh("jobs", "-o", "json").data if job["kind"] == "recovery"]
    steps = by_ssh("job", "show", str(job["id"]), "-o", "json").data["steps"]
    names = [step["name"] for step in steps]
    assert names == ["run script", "ask", "bring up", "readdress", "await", "through"]
    assert steps[0]["outcome"] == {"exit": 0, "output": "site all recovery\n"}
    assert steps[1]["outcome"]["answer"] == "yes"


@pytest.mark.soak
def test_a_site_shuts_down_by_a_plan_and_starts_after_a_power_cut(
    lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    with_other = create_guest(lab, GuestSpec("other", memory=128 * MIB, disk=0), on="h2")
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
