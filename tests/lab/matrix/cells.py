"""The cells, and what is to come of each: thought out from the promises and docs/settling.md before any was seen.

A cell is a kind of move, a fault and the moment it strikes. ``command``: the exit codes that the command may end with;
``after``: those that its job may have in the end, once the fault is mended and ``mudanza job resume`` has done what
was left to do. Where the VM is follows from the latter:

0  it is at the target, and runs there if it ran before    4  it is at the source, as before
6  it is off where its QEMU was killed, its disks whole    5  a person must look (a host does not answer, mostly)

Several codes stand where either end is right and a race decides; never is anything right but one whole VM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab.matrix.moments import BOUNDARIES

KILLED = -9
"""What a command ends with that was killed."""

LIVE = ("preparing", "copying disks", "copying memory", "switchover", "settling", "cleaning up")
POSTCOPY = ("fetching memory",)
COLD = ("preparing", "carrying", "comparing", "handing over", "cleaning up")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix."""

    kind: str
    """``live``; ``post-copy``, live by that from the beginning; ``cold`` of a VM that is off; ``cold, running`` of one
    that is shut down for it."""
    fault: str
    moment: str
    command: frozenset[int]
    after: frozenset[int]
    off: bool | None = False
    """The fault has killed the guest where it is in the end: it is off there, its disks whole. None: it may have.

    Where nobody can tell from what both hosts say that this is where it belongs, a person starts it there.
    """

    @property
    def cold(self) -> bool:
        """Whether the VM is off on the way."""
        return self.kind.startswith("cold")

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by."""
        return self.kind, self.fault, self.moment

    @property
    def id(self) -> str:
        """Its name."""
        return ": ".join(self.key)

    @property
    def expected(self) -> str:
        """What is to come of it, in words."""
        command, after = words(self.command), words(self.after)
        return (after if command == after else f"{command}; then {after}") + (
            "; the guest is killed" if self.off else ""
        )


def words(codes: frozenset[int]) -> str:
    """Write exit codes for people."""
    return " or ".join("killed" if code == KILLED else str(code) for code in sorted(codes))


def _codes(text: str) -> frozenset[int]:
    return frozenset(KILLED if word == "K" else int(word) for word in text.split("|"))


def _row(kind: str, fault: str, phases: tuple[str, ...], outcomes: str) -> Iterator[Cell]:
    """Read a row: for each phase ``command>after``, or one of both for the same, or ``-`` for no such cell."""
    for phase, outcome in zip(phases, outcomes.split(), strict=True):
        if outcome != "-":
            command, _, after = outcome.rstrip("!").partition(">")
            yield Cell(kind, fault, phase, _codes(command), _codes(after or command), off=outcome.endswith("!"))


_LIVE_ROWS = """
                               preparing copying-disks copying-memory switchover   settling  cleaning-up
controller killed            | -         K>0           K>0            K>0          -         -
controller told to end       | 4         4             4              0|4          0         0
source's libvirtd killed     | 5>4       5>4           5>4            5>0|4        5>0       0
source's libvirtd restarted  | 0|4       4             4              0|4          0         0
source's libvirtd hangs      | 5>4       5>0|4         5>0|4          5>0|4        5>0       0
source's libvirtd slow       | 0         0             0              0            0         0
target's libvirtd killed     | 4         4             4              0|4|5>0|4    5>0       0
target's libvirtd restarted  | 0|4       4             4              0|4          0         0
target's libvirtd hangs      | 4|5>0|4   4|5>0|4       4|5>0|4        4|5>0|4      5>0       0
target's libvirtd slow       | 0         0             0              0            0         0
source's QEMU killed         | 6         6             6              0|6          -         -
target's QEMU killed         | -         4             4              4            6!        0!
link cut for 5 s             | 0         0             0|4            0|4          0         0
link cut for good            | 4         4             4              0|4          0         0
target cut off from all      | 4         4             4              4|5>0|4      5>0       0
source cut off from all      | 5>4       5>4           5>4            5>0|4        5>0       0
target's disk full           | 4         4             0|4            -            -         -
target's ports taken         | 4         -             -              -            -         -
target's certificates wrong  | 4         -             -              -            -         -
"""

_POSTCOPY_ROWS = """
                                         fetching-memory
controller killed                      | K>0
controller told to end                 | 0
source's libvirtd restarted            | 0
source's libvirtd dead for a minute    | 0|5>0
source's libvirtd hangs for a minute   | 0|5>0
source's libvirtd slow                 | 0
target's libvirtd restarted            | 0
target's libvirtd dead for a minute    | 0|5>0
target's libvirtd hangs for a minute   | 0|5>0
target's libvirtd slow                 | 0
source's QEMU killed                   | 6
target's QEMU killed                   | 6
link cut for 5 s                       | 0
link cut for a minute                  | 0
target cut off for a minute            | 0
source cut off for a minute            | 0|5>0
"""
# There is no way back in post-copy: whatever happens to either libvirt or to the wire, the guest is at the target in
# the end. It may be there, whole, before the source can be asked about its copy again.

_COLD_ROWS = """
                               preparing carrying comparing handing-over cleaning-up
controller killed            | -         K>0      -         -            -
controller told to end       | 4         4        4         0            0
source's libvirtd killed     | 5>0       5>0      5>0       5>0          0
source's libvirtd restarted  | 0|4>0     4>0      0|4>0     0|4>0        0
source's libvirtd hangs      | 5>0       5>0      5>0       5>0          0
source's libvirtd slow       | 0         0        0         0            0
target's libvirtd killed     | 4>0       4>0      4>0       5>0          0
target's libvirtd restarted  | 0|4>0     4>0      0|4>0     0|4>0        0
target's libvirtd hangs      | 4>0       4>0      4>0       5>0          0
target's libvirtd slow       | 0         0        0         0            0
source's QEMU killed         | -         4>0      -         -            -
target's QEMU killed         | -         4>0      -         -            -
link cut for 5 s             | 0         0        0         0            0
link cut for good            | 4>0       4>0      0         0            0
target cut off from all      | 4>0       4>0      4>0       5>0          0
source cut off from all      | 5>0       5>0      5>0       5>0          0
target's disk full           | 4>0       4>0      -         -            -
target's ports taken         | 4>0       -        -         -            -
target's certificates wrong  | 4>0       -        -         -            -
"""


def _table(kind: str, phases: tuple[str, ...], rows: str) -> Iterator[Cell]:
    for line in rows.strip().splitlines()[1:]:
        fault, _, outcomes = line.partition("|")
        yield from _row(kind, fault.strip(), phases, outcomes)


def _suspended() -> Iterator[Cell]:
    """Write down what comes of the source's libvirtd dying as the guest goes from one host to the other.

    One of these leaves a source that a plain resume would turn into a second running copy.
    """
    for fault, command in (("source's libvirtd killed", "5"), ("source's libvirtd restarted", "0|4")):
        for delay in (30, 80, 150, 300):
            moment = f"switchover + {delay} ms"
            # The later it dies, the more may have been said before: all of it, or all but the last word.
            yield Cell("live", fault, moment, _codes(f"{command}|0"), _codes("0|4"))


def _ordering() -> Iterator[Cell]:
    """Write down what comes of an order that lies with a libvirt which may carry it out when it goes on again."""
    yield Cell("live", "source's libvirtd hangs", "ordering it", _codes("5"), _codes("0|4"))
    yield Cell("live", "source's libvirtd slow", "ordering it", _codes("0"), _codes("0"))
    yield Cell("live", "target's libvirtd hangs", "ordering it", _codes("4|5"), _codes("0|4"))


def _dying() -> Iterator[Cell]:
    """Write down what comes of a controller that dies at a boundary of a step.

    Until libvirt is ordered to move it, a live move is given up by whoever finds it: nothing is lost by that. A cold
    one goes on, for what was carried is worth something.
    """
    for kind, boundaries in BOUNDARIES.items():
        for moment, goes_on in boundaries.items():
            yield Cell(kind, "controller killed", moment, _codes("K"), _codes("0" if goes_on else "4"))


CELLS: tuple[Cell, ...] = (
    *_table("live", LIVE, _LIVE_ROWS),
    *_ordering(),
    *_suspended(),
    *_table("post-copy", POSTCOPY, _POSTCOPY_ROWS),
    *(cell for cell in _dying() if cell.kind == "live"),
    *_table("cold", COLD, _COLD_ROWS),
    *(cell for cell in _dying() if cell.kind != "live"),
)
