"""A consistency group: two guests on two hosts write one sequence by turns, and come up as they were at one instant."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mudanza.lab import client, layout
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from mudanza.protection import scripts
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, know_by_ssh

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(600)]

IMAGES = "/var/lib/libvirt/images"
WRITING = 500.0
"""Seconds after which the guests stop to write by themselves."""
SOME = 20
"""Turns."""


@pytest.fixture(scope="module")
def by_ssh(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mudanza]:
    """The command as from the controller's seat, with time for hosts that share their CPUs with others."""
    mudanza = know_by_ssh(lab, tmp_path_factory.mktemp("patient"))
    with mudanza.config.open("a") as config:
        config.write("[limits]\nconnect = 60\nread = 120\n")
    yield mudanza
    lab.cell("h2").run(["rm", "-rf", "--", f"{IMAGES}/mudanza-replicas"])


@pytest.fixture
def pair(lab: Lab) -> Iterator[tuple[Guest, Guest]]:
    front = create_guest(lab, GuestSpec("front", memory=128 * MIB, disk=64 * MIB), on="h1")
    back = create_guest(lab, GuestSpec("back", memory=128 * MIB, disk=64 * MIB), on="h3")
    yield front, back
    for guest in (front, back):
        guest.remove()


@contextmanager
def writing_by_turns(lab: Lab, guests: tuple[Guest, ...], out: Path) -> Iterator[None]:
    argv, environment = client.command("turns", *(guest.address for guest in guests), "--limit", str(WRITING))
    with out.open("w") as file:
        program = lab.cell(layout.CLIENT).popen(
            argv, env=environment, stdout=file, stderr=subprocess.PIPE, stop_signal=signal.SIGTERM
        )
    try:
        yield
        assert program.poll() is None, program.stderr and program.stderr.read()
    finally:
        program.terminate()
        program.wait(30)


def turns(out: Path) -> int:
    """How many turns were told of."""
    return out.read_text().count("\n")


def states(by_ssh: Mudanza) -> dict[str, Any]:
    return {row["name"]: row for row in by_ssh("protections", "-o", "json").data if row["group"] == "shop"}


def guarded(lab: Lab, guest: Guest, host: str, limit: float) -> str:
    """Set a guardian, and have the guest stand still; return what the guardian goes by."""
    values = f"export LC_ALL=C uuid={guest.uuid} limit={limit}\n"
    said = lab.cell(host).run(["sh", "-c", values + scripts.GUARD]).stdout.split()
    virsh(lab.cell(host), "suspend", guest.uuid)
    assert said[:2] == ["@", "guardian"]
    return said[2]


def test_a_guest_whose_controller_is_gone_goes_on_by_its_guardian(lab: Lab, pair: tuple[Guest, Guest]) -> None:
    first, second = pair
    called_off = guarded(lab, second, "h3", 1.0)
    lab.cell("h3").run(["rm", "--", called_off])
    guarded(lab, first, "h1", 1.0)
    await_true(lambda: first.states() == {"h1": "running"}, "it goes on by itself", limit=60)
    # Of guardians at two hosts the one that was called off was begun before.
    await_true(lambda: not lab.cell("h3").run(["pgrep", "-f", "domstate --reason"], check=False).stdout, "it has gone")
    assert second.states() == {"h3": "paused"}
    virsh(lab.cell("h3"), "resume", second.uuid)


def test_the_cut_through_both_is_consistent(
    lab: Lab, by_ssh: Mudanza, pair: tuple[Guest, Guest], tmp_path: Path
) -> None:
    out = tmp_path / "turns"
    for guest in pair:
        guest.command("turn 0")
    by_ssh("protect", *(guest.uuid for guest in pair), "--to", "h2", "--group", "shop", "--every", "1h")
    first = {row["instant"] for row in states(by_ssh).values()}
    assert len(first) == 1
    assert first != {""}
    with writing_by_turns(lab, pair, out):
        await_true(lambda: turns(out) > SOME, "they take turns", limit=60)
        before = turns(out)
        by_ssh("protection", "sync", pair[0].uuid)
        after = turns(out)
        await_true(lambda: turns(out) > after + SOME, "they go on", limit=60)
        for guest, host in zip(pair, ("h1", "h3"), strict=True):
            assert guest.states() == {host: "running"}
            assert not lab.cell(host).run(["sh", "-c", "ls /run/mudanza-guardian.* 2>/dev/null"], check=False).stdout
    second = {row["instant"] for row in states(by_ssh).values()}
    assert len(second) == 1
    assert second != first
    by_ssh("failover", "group", "shop", "--source-is-dead", expect=3)
    for guest, host in zip(pair, ("h1", "h3"), strict=True):
        virsh(lab.cell(host), "destroy", guest.uuid)
    by_ssh("failover", "group", "shop", "--source-is-dead")
    found = []
    for guest in pair:
        guest.await_answer()
        found.append(int(guest.command("turn")))
        guest.verify()
    jobs = [job["id"] for job in by_ssh("jobs", "-o", "json").data if job["kind"] == "protect"]
    steps = [step for each in jobs for step in by_ssh("job", "show", str(each), "-o", "json").data["steps"]]
    print("stood still:", [step["outcome"]["seconds"] for step in steps if step["name"] == "stood still"])
    print(f"{found} of {turns(out)} turns, {before} before the round and {after} after it")
    assert abs(found[0] - found[1]) == 1, "neither knows of a turn that the other has not taken"
    assert before - 1 <= min(found) <= max(found) <= after + 1
    by_ssh("failover", "group", "shop", "--source-is-dead")
