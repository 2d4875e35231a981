"""A plan that is carried out: what was asked beside it, and how far each of its moves is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from mudanza.model.plan import Plan, PlannedMove
from mudanza.model.times import is_within

_NO_WINDOWS: Mapping[str, tuple[str, ...]] = MappingProxyType({})

ENTERING = "maintenance enter"
"""The kind of a plan that empties a host for its maintenance."""
BRINGING_HOME = "maintenance leave"
"""The kind of a plan that brings VMs home."""


class CannotGo(StrEnum):
    """What becomes of a VM that cannot leave its host while it runs."""

    ASK = "ask"
    """Somebody at the terminal is asked; where nobody is there, nothing is begun."""
    REFUSE = "refuse"
    COLD = "cold"
    """It is shut down, moved, and started there."""
    SHUTDOWN = "shutdown"
    """It is shut down, stays, and is started again when maintenance is over."""
    STAY = "stay"
    """It runs on where it is."""


class OnFailure(StrEnum):
    """What becomes of the rest where one move fails."""

    GO_ON = "go-on"
    """The others are made; what waited for its room is tried all the same, and checked as every move is."""
    STOP = "stop"
    """What is under way ends; nothing more is begun."""


class RunState(StrEnum):
    """How a plan's carrying out stands."""

    ASKED = "waits for a yes"
    """It was proposed, and nothing of it is begun before somebody approves it."""
    RUNNING = "running"
    PAUSED = "paused"
    """What was under way ends; nothing is begun until somebody says so."""
    DONE = "done"
    PARTLY = "partly done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"
    """It was proposed, and is not wanted any more; nothing of it was begun."""


class MoveState(StrEnum):
    """How one of its moves stands."""

    WAITING = "waiting"
    BEGUN = "begun"
    """It has a job."""
    DONE = "done"
    FAILED = "failed"
    """Its VM is as its job says: as before, or in need of a person."""
    LEFT_OUT = "left out"
    """It was never begun."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self not in (MoveState.WAITING, MoveState.BEGUN)


class Wish(StrEnum):
    """What somebody else than its controller wants of it."""

    PAUSE = "pause"
    GO_ON = "go on"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """What was asked beside the plan itself."""

    on_failure: OnFailure = OnFailure.GO_ON
    out: int = 2
    """Moves from one host at once."""
    into: int = 2
    """Moves to one host at once."""
    total: int = 8
    """Moves at once in all."""
    elsewhere: bool = False
    """Whether a VM that cannot get to its target is sent to the best host instead: to empty a host is the aim."""
    comes_home: str = ""
    """The host whose VMs leave it for its maintenance, and are to be brought home after it; empty: none."""
    not_before: float | None = None
    """Seconds since the epoch before which nothing is begun; None: at once."""
    windows: tuple[str, ...] = ()
    """Windows of each day, such as ``22:00-06:00``, in which moves are begun; none: always."""
    cold: tuple[str, ...] = ()
    """UUIDs of running VMs that may be shut down for their move."""
    move: Mapping[str, Any] | None = None
    """What is asked of each move, as a job stores it; None: as is usual."""
    vm_windows: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NO_WINDOWS)
    """Windows of single VMs, by UUID, in which moves of theirs are begun; besides those of all."""
    ends_with_window: bool = False
    """Whether what was not begun while it might be is left out, and does not wait for the next day."""

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON values."""
        lists = {"cold": list(self.cold), "windows": list(self.windows)}
        own = {"vm_windows": {uuid: list(windows) for uuid, windows in self.vm_windows.items()}}
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain | {"on_failure": self.on_failure.value} | lists | own

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> RunPolicy:
        """Read what ``as_data`` returned; what a later version added is left out."""
        known = {each.name for each in fields(RunPolicy)}
        values = {name: value for name, value in data.items() if name in known}
        lists = {name: tuple(values.get(name, ())) for name in ("cold", "windows")}
        own = {"vm_windows": {uuid: tuple(windows) for uuid, windows in values.get("vm_windows", {}).items()}}
        return RunPolicy(**values | lists | own | {"on_failure": OnFailure(values.get("on_failure", OnFailure.GO_ON))})

    def allows(self, at: float) -> bool:
        """Return whether moves may be begun at an instant (seconds since the epoch)."""
        if self.not_before is not None and at < self.not_before:
            return False
        return not self.windows or any(is_within(each, at) for each in self.windows)

    def allows_vm(self, uuid: str, at: float) -> bool:
        """Return whether a VM's own windows, too, let its moves be begun at an instant (seconds since the epoch)."""
        windows = self.vm_windows.get(uuid, ())
        return self.allows(at) and (not windows or any(is_within(each, at) for each in windows))


@dataclass(frozen=True, slots=True)
class RunMove:
    """One move of a plan that is carried out. Times in seconds since the epoch, by the database's clock."""

    n: int
    about: PlannedMove
    waits_for: tuple[int, ...]
    """Numbers of the moves that must have ended before it begins."""
    state: MoveState
    job: int | None = None
    outcome: str = ""
    exit_code: int | None = None
    began_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One plan that is carried out, or was."""

    id: int
    kind: str
    """The command that asked for it: ``apply``, ``drain``, ``maintenance enter``…"""
    subject: str
    plan: Plan
    policy: RunPolicy
    asked_by: str
    state: RunState
    epoch: int
    owner: str
    started_at: float
    ended_at: float | None
    outcome: str
    exit_code: int | None
    wish: Wish | None
    wish_by: str | None
    moves: tuple[RunMove, ...]
    abandoned: bool
    """Unfinished, and whoever carried it out is gone."""
    read_at: float

    @property
    def in_words(self) -> str:
        """In one line, how far it is."""
        counts = [(state.value, self.count(state)) for state in MoveState]
        words = ", ".join(f"{count} {name}" for name, count in counts if count)
        is_paused = self.state is RunState.PAUSED
        paused = f", paused by {self.wish_by} (go on: mudanza run resume {self.id})" if is_paused else ""
        waits = "" if self.ended_at is not None or self.policy.allows(self.read_at) else f", {self._begins}"
        return f"plan {self.id}: {words or 'no moves'} of {len(self.moves)} moves{paused}{waits}"

    @property
    def _begins(self) -> str:
        """When moves will be begun again, in words."""
        first = self.policy.not_before
        if first is not None and self.read_at < first:
            return f"begins at {datetime.fromtimestamp(first, UTC).astimezone():%Y-%m-%d %H:%M}"
        return f"begins moves between {' and between '.join(self.policy.windows)} only"

    def move(self, n: int) -> RunMove:
        """Return the move of that number."""
        return next(each for each in self.moves if each.n == n)

    def count(self, *states: MoveState) -> int:
        """Return how many moves are in one of these states."""
        return sum(move.state in states for move in self.moves)
