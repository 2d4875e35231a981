"""Heartbeats on storage that is shared: here hosts are shells of this machine, and the storage is a directory."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mudanza.availability.heartbeats import Heartbeats
from mudanza.availability.observing import Observer
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.host_command import HostCommand, PassingCommand
from mudanza.model.host import HostEntry

LIMIT = 30.0


@pytest.fixture
def made() -> list[HostCommand]:
    return []


@pytest.fixture
def heartbeats(tmp_path: Path, made: list[HostCommand]) -> Iterator[Heartbeats]:
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    entries = [
        HostEntry("h1", f"qemu+ssh://h1/system?command={quote(str(program))}"),
        HostEntry("h2", f"qemu+ssh://h2/system?command={quote(str(program))}"),
        HostEntry("h3", "qemu+ssh://h3/system?command=/bin/false"),
        HostEntry("h4", "qemu:///system"),
    ]

    def command(entry: HostEntry, name: str) -> HostCommand:
        made.append(PassingCommand(entry, f"{name}-{entry.name}-{os.getpid()}"))  # they share one machine
        return made[-1]

    yield Heartbeats(entries, str(tmp_path), "journal", command)
    for each in made:
        if each.host in ("h1", "h2"):
            each.stop()
            each.forget()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_heart_that_beats_is_seen_by_others_and_one_that_stopped_is_not(
    heartbeats: Heartbeats, made: list[HostCommand]
) -> None:
    assert heartbeats.beats("h1", ["h2"]) is None, "nobody has counted yet"
    heartbeats.tend(["h1", "h3", "h4"])
    assert heartbeats.under_way is not None
    heartbeats.under_way.wait(LIMIT)
    until(lambda: heartbeats.beats("h1", ["h3", "h2"]) is True)
    assert heartbeats.beats("h1", ["h3", "h4"]) is None, "no host that can be asked"
    assert heartbeats.beats("h3", ["h2"]) is None
    made[0].stop()
    until(lambda: heartbeats.beats("h1", ["h2"]) is False)
    assert heartbeats.beats("h1", ["h2"]) is False


def test_hearts_are_looked_after_from_time_to_time_and_not_begun_twice(
    heartbeats: Heartbeats, made: list[HostCommand], monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeats.tend(["h1"])
    assert heartbeats.under_way is not None
    heartbeats.under_way.wait(LIMIT)
    first = heartbeats.under_way
    heartbeats.tend(["h1"])
    assert heartbeats.under_way is first, "it was looked after just now"
    monkeypatch.setattr("mudanza.availability.heartbeats.TEND_EVERY", 0.0)
    heartbeats.tend(["h1"])
    heartbeats.under_way.wait(LIMIT)
    until(lambda: heartbeats.beats("h1", ["h2"]) is True)
    made[0].stop()  # as a new start of the host would
    heartbeats.tend(["h1"])
    heartbeats.under_way.wait(LIMIT)
    heartbeats.beats("h1", ["h2"])
    until(lambda: heartbeats.beats("h1", ["h2"]) is True)


def test_signs_are_looked_for_at_once_and_one_that_hangs_hides_no_other(tmp_path: Path) -> None:
    lives, hangs = tmp_path / "lives", tmp_path / "hangs"
    # Of a host whose libvirt does not answer; a shell is asked for by its usual words.
    lives.write_text('#!/bin/sh\nfor last; do :; done\ncase $last in *"kill 0"*) exec sh -c "$last";; esac\nexit 1\n')
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    for program in (lives, hangs):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    entries = [
        HostEntry("h1.invalid", f"qemu+ssh://h1.invalid/system?command={quote(str(lives))}"),
        HostEntry("h2.invalid", f"qemu+ssh://h2.invalid/system?command={quote(str(hangs))}"),
    ]
    with Connections(entries) as connections:
        found = Observer(connections, ()).look(())
    signs = {name: (each.libvirt, each.ssh, each.ping) for name, each in found.hosts.items()}
    assert signs == {"h1.invalid": (False, True, False), "h2.invalid": (False, False, False)}
