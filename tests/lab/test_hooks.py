"""Hooks of the controller's settings around real moves: live, cold and queued, and with controllers that die in one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.test_migrate import expire_leases

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

HOOKS = """
[hooks.notes]
command = ["{at}/notes", "a b"]
when = ["before", "after", "failure"]
timeout = "20s"
for_all = true

[hooks.gate]
command = ["{at}/gate"]
when = "before"
timeout = "20s"
"""


class Hooked:
    """The command with hooks in its settings, which write down what they are told."""

    def __init__(self, mudanza: Mudanza, directory: Path) -> None:
        self.directory = directory
        words = '"$1|$MUDANZA_WHEN|$MUDANZA_VM|$MUDANZA_SOURCE|$MUDANZA_TARGET|$MUDANZA_MODE|$MUDANZA_OUTCOME"'
        self.write(
            "notes", f"echo {words} >> {directory}/log\n[ ! -e {directory}/hold-$MUDANZA_WHEN ] || exec sleep 15"
        )
        self.write("gate", f"[ ! -e {directory}/closed ] || {{ echo closed; exit 1; }}")
        config = directory / "config.toml"
        config.write_text(mudanza.config.read_text() + HOOKS.format(at=directory))
        self.mudanza = Mudanza(mudanza.lab, config)

    def write(self, name: str, script: str) -> None:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def mark(self, name: str) -> Path:
        path = self.directory / name
        path.touch()
        return path

    @property
    def log(self) -> list[list[str]]:
        path = self.directory / "log"
        return [line.split("|") for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def hooked(mudanza: Mudanza, tmp_path: Path) -> Hooked:
    return Hooked(mudanza, tmp_path)


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("hooked", memory=128 * MIB, disk=16 * MIB), on="h1")
    yield made
    made.remove()


def host_of(guest: Guest) -> str:
    return next(host for host, state in guest.states().items() if state == "running")


def newest(hooked: Hooked) -> str:
    """The number of the newest job."""
    return str(hooked.mudanza("jobs", "-o", "json").data[0]["id"])


def other(host: str) -> str:
    return "h2" if host == "h1" else "h1"


def test_around_a_live_and_a_cold_move_they_are_told_what_it_is(hooked: Hooked, guest: Guest) -> None:
    here = host_of(guest)
    there = other(here)
    report = hooked.mudanza("migrate", "hooked", "--to", there, "-o", "json").report
    hooked.mudanza("migrate", "hooked", "--to", here, "--mode", "cold", "--force-off")
    about = ["a b", "hooked", here, there]
    assert [[line[0], *line[2:5]] for line in hooked.log[:2]] == [about, about]
    assert [[line[1], *line[5:]] for line in hooked.log] == [
        ["before", "live", ""],
        ["after", "live", "moved"],
        ["before", "cold", ""],
        ["after", "cold", "moved"],
    ]
    assert [words.partition(",")[0] for words in report["hooks"]] == ["notes (before)", "notes (after)"]
    assert guest.states() == {here: "running"}
    guest.await_answer()


def test_one_before_it_stops_it_and_nothing_is_touched(hooked: Hooked, guest: Guest) -> None:
    here = host_of(guest)
    hooked.mudanza("wish", "hooked", "--hook", "gate")
    closed = hooked.mark("closed")
    try:
        for mode in ("live", "cold"):
            ended = hooked.mudanza("migrate", "hooked", "--to", other(here), "--mode", mode, expect=4)
            assert "the hook 'gate', which is run before a move, failed (exit 1): closed" in ended.err
            assert guest.states() == {here: "running"}
            steps = [step["name"] for step in hooked.mudanza("jobs", "-o", "json").data[0]["steps"]]
            assert not {"create volume", "transfer", "shut down", "disarm"} & set(steps)
        assert [line[1] for line in hooked.log] == ["before", "failure"] * 2
        assert hooked.log[1][-1] == "stayed"
        assert "hook-unknown" in Mudanza(hooked.mudanza.lab)("migrate", "hooked", "--to", other(here), expect=3).err
        closed.unlink()
        job = hooked.mudanza("migrate", "hooked", "--to", other(here), "--detach", "-o", "name").out.strip()
        hooked.mudanza("work", "--once")
        assert hooked.mudanza("jobs", "-o", "json").data[0]["id"] == int(job)
        assert guest.states() == {other(here): "running"}
        assert [line[1] for line in hooked.log[4:]] == ["before", "after"]
    finally:
        hooked.mudanza("wish", "hooked", "--clear")


def test_one_that_changes_the_vm_is_noticed(hooked: Hooked, guest: Guest) -> None:
    here = host_of(guest)
    uri = hooked.mudanza.lab.uri(here)
    hooked.write("gate", f"virsh -c '{uri}' suspend {guest.uuid}")
    hooked.mudanza("wish", "hooked", "--hook", "gate")
    try:
        ended = hooked.mudanza("migrate", "hooked", "--to", other(here), expect=4)
        assert "was running when it was checked, and is paused" in ended.err
        assert guest.states() == {here: "paused"}
        assert [line[1] for line in hooked.log] == ["before", "failure"]
    finally:
        virsh(hooked.mudanza.lab.cell(here), "resume", guest.uuid)
        hooked.mudanza("wish", "hooked", "--clear")


def test_ctrl_c_in_one_before_it_ends_the_hook_and_the_move(hooked: Hooked, guest: Guest) -> None:
    here = host_of(guest)
    hooked.mark("hold-before")
    running = hooked.mudanza.start("migrate", "hooked", "--to", other(here), "-o", "json")
    running.until("hook notes")
    running.send(signal.SIGINT)
    assert "cancelled on request" in running.end(4).err
    assert [line[1] for line in hooked.log] == ["before", "failure"]
    assert guest.states() == {here: "running"}
    assert not [process for process in Path("/proc").glob("[0-9]*") if is_hook(process, hooked)]


def is_hook(process: Path, hooked: Hooked) -> bool:
    try:
        environment = (process / "environ").read_bytes()
        return b"MUDANZA_HOOK=notes" in environment and str(hooked.directory).encode() in environment
    except OSError:
        return False


def test_one_whose_controller_dies_is_run_again_after_the_move_was_settled(hooked: Hooked, guest: Guest) -> None:
    here = host_of(guest)
    hold = hooked.mark("hold-after")
    running = hooked.mudanza.start("migrate", "hooked", "--to", other(here), "-o", "json")
    running.until_event(lambda event: event.get("phase") == "hook notes" and len(hooked.log) == 2, "the second hook")
    running.send(signal.SIGKILL)
    running.end(-signal.SIGKILL)
    hold.unlink()
    expire_leases(hooked.mudanza)
    report = hooked.mudanza(
        "job", "resume", str(hooked.mudanza("jobs", "-o", "json").data[0]["id"]), "-o", "json"
    ).report
    assert [line[1] for line in hooked.log] == ["before", "after", "after"]
    assert guest.states() == {other(here): "running"}
    assert [words.partition(",")[0] for words in report["hooks"]] == ["notes (before)", "notes (after)"]


def test_one_whose_controller_dies_before_the_move_leaves_the_vm_where_it_is(hooked: Hooked, guest: Guest) -> None:
    here = host_of(guest)
    hold = hooked.mark("hold-before")
    running = hooked.mudanza.start("migrate", "hooked", "--to", other(here), "-o", "json")
    running.until("hook notes")
    running.send(signal.SIGKILL)
    running.end(-signal.SIGKILL)
    hold.unlink()
    expire_leases(hooked.mudanza)
    ended = hooked.mudanza("job", "resume", newest(hooked), expect=4)
    assert "its controller was interrupted" in ended.err
    assert [line[1] for line in hooked.log] == ["before", "failure"]
    assert guest.states() == {here: "running"}
