"""What is written down about a lab: ``state.json`` in its directory, and the lock that guards it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mudanza.lab.process import LabError, ProcessId
from mudanza.model.errors import UsageError

LOCK_LIMIT = 10.0
"""Seconds to wait for another command that changes the same lab."""
_LOCK_INTERVAL = 0.05


@dataclass(frozen=True, slots=True)
class LabState:
    """A lab's settings, and the init processes of its cells by cell name."""

    hosts: tuple[str, ...]
    tls: bool
    tied: bool
    pool_size: int
    """Bytes of each host's pools ``default`` and ``fast``."""
    uplinks: Mapping[str, int | None]
    """Bytes per second by cell name; None or absent: not capped."""
    cells: Mapping[str, ProcessId]
    qemu_user: str = "root"
    """Who QEMU runs as on the hosts."""
    virtlockd: bool = False
    """Whether its hosts lock disks, in a directory that all share."""

    def with_cell(self, name: str, init: ProcessId) -> LabState:
        """Return the state after a cell was started (again)."""
        return replace(self, cells={**self.cells, name: init})

    def with_uplink(self, name: str, rate: int | None) -> LabState:
        """Return the state after an uplink was capped."""
        return replace(self, uplinks={**self.uplinks, name: rate})


def load(directory: Path) -> LabState | None:
    """Read a lab's state; None if it never got as far as having one."""
    try:
        raw = json.loads((directory / "state.json").read_text())
    except FileNotFoundError:
        return None
    cells = {name: ProcessId(**process) for name, process in raw.pop("cells").items()}
    return LabState(hosts=tuple(raw.pop("hosts")), cells=cells, **raw)


def save(directory: Path, state: LabState) -> None:
    """Write a lab's state so that a reader sees the old or the new one, never half of it."""
    draft = directory / "state.json.new"
    draft.write_text(json.dumps(asdict(state), indent=2))
    draft.replace(directory / "state.json")


@contextmanager
def locked(directory: Path, *, limit: float = LOCK_LIMIT) -> Iterator[None]:
    """Hold the lab against other commands. Raises UsageError when another holds it for more than ``limit`` seconds.

    The lock is on the directory itself and ends with the process that holds it: nothing is left to clear away.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise LabError(f"the lab {directory.name} is gone") from error
    try:
        _lock(descriptor, directory.name, time.monotonic() + limit)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, name: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"another command is building, changing or removing the lab {name}",
                    remedy="wait for it to end and try again",
                ) from None
            time.sleep(_LOCK_INTERVAL)
        else:
            return
