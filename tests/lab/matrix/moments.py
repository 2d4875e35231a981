"""The moments at which a fault strikes: awaited by what journal, events and libvirt say, and never by the clock."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mudanza.lab.cell import Cell as Host
from mudanza.lab.process import LabError, readable
from mudanza.model.units import MIB

SUSPENDED_LIMIT = 180.0
"""Seconds from the beginning of a move until its guest must be suspended for the switchover."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When to strike: one of these."""

    stop: tuple[str, str] | None = None
    """The controller stands still there, see ``dying``; it goes on once the fault has struck."""
    phase: str = ""
    """It says that it is there, and that something has been copied in it."""
    runs_there: bool = False
    """And the target's libvirt says that the guest runs there."""
    suspended: float | None = None
    """So many seconds after libvirt has said that the guest is suspended for the switchover."""
    after: float | None = None
    """So many seconds after the move was decided: for who leaves it to chance."""


_MOMENTS: Mapping[tuple[str, str], Moment] = {
    ("live", "preparing"): Moment(stop=("after", "create volume")),
    ("live", "copying disks"): Moment(phase="copying disks"),
    ("live", "copying memory"): Moment(phase="copying memory"),
    ("live", "ordering it"): Moment(stop=("begun", "transfer")),
    ("post-copy", "fetching memory"): Moment(phase="fetching memory", runs_there=True),
    ("live", "settling"): Moment(stop=("after", "transfer")),
    ("live", "cleaning up"): Moment(stop=("begun", "delete volume")),
    ("cold", "preparing"): Moment(stop=("after", "create volume")),
    ("cold", "carrying"): Moment(phase="copying"),
    ("cold", "comparing"): Moment(stop=("begun", "compare")),
    ("cold", "handing over"): Moment(stop=("after", "define")),
    ("cold", "cleaning up"): Moment(stop=("begun", "delete volume")),
}


def _around(step: str) -> tuple[str, ...]:
    """Return the boundaries of a step: it is intended; it is done and nobody has written that down; it is written.

    The end of a job is one write.
    """
    ends = (f"before the end of {step}", f"after {step}")
    return ends if step == FINISH else (f"begun {step}", *ends)


def _boundaries(*steps: str) -> tuple[str, ...]:
    return tuple(boundary for step in steps for boundary in _around(step))


FINISH = "finish"
BOUNDARIES: Mapping[str, Mapping[str, bool]] = {
    "live": {
        **dict.fromkeys(_boundaries("decide", "create volume", "remember history"), False),
        **dict.fromkeys(_boundaries("transfer", "autostart", "delete volume", FINISH), True),
        "before the first word": False,
        "begun transfer": False,
    },
    "cold": {
        **dict.fromkeys(_boundaries("decide", "create volume", "carry", "compare", "define"), True),
        **dict.fromkeys(_boundaries("release source", "delete volume", FINISH), True),
        "before the first word": False,
    },
    "cold, running": dict.fromkeys(_boundaries("shut down", "disarm", "start", "autostart"), True),
}
"""Kind → where between two writes its controller dies → whether whoever finds the job goes on with it."""


def is_boundary(kind: str, name: str) -> bool:
    """Whether a moment is one at which a controller dies between two writes."""
    return name in BOUNDARIES.get(kind, ())


def moment_of(kind: str, name: str) -> Moment:
    """Return a moment by its name. Raises KeyError."""
    if name.startswith("switchover"):
        _, _, delay = name.partition(" + ")
        return Moment(suspended=int(delay.removesuffix(" ms")) / 1000 if delay else 0.0)
    return _MOMENTS[kind, name]


def death_of(name: str) -> tuple[str, str]:
    """Return when a controller dies at a boundary, and at which step: see ``dying``."""
    if name == "before the first word":
        return "before", "1"
    for word, when in (("begun ", "begun"), ("before the end of ", "before"), ("after ", "after")):
        if name.startswith(word):
            return when, name.removeprefix(word)
    raise KeyError(name)


def has_come(moment: Moment, event: Mapping[str, Any]) -> bool:
    """Whether an event of the controller says that a phase has come, and something was copied in it."""
    copied = event.get("memory_sent" if "memory" in moment.phase else "disk_sent", 0)
    return event.get("phase") == moment.phase and copied > MIB


class Suspension:
    """Waits for libvirt's word that a guest is suspended."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program

    def wait(self) -> None:
        """Return at that word. Raises LabError when it does not come within SUSPENDED_LIMIT."""
        out = self._program.stdout
        assert out is not None
        while readable(out.fileno(), SUSPENDED_LIMIT):
            line = out.readline()
            if "Suspended" in line:
                return
            if not line:
                break
        raise LabError("the guest was not suspended")


@contextmanager
def suspension(host: Host, uuid: str) -> Iterator[Suspension]:
    """Listen to what a host's libvirt says of a guest while a block runs."""
    argv = ["stdbuf", "-oL", "virsh", "-q", "-c", "qemu:///system", "event", "--loop", "--domain", uuid]
    program = host.popen([*argv, "--event", "lifecycle"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield Suspension(program)
    finally:
        program.kill()
        program.wait()
