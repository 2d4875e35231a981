"""Maintenance that rolls over hosts: a command run on one after the other, each emptied before and filled after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from mudanza.model.carrying import CannotGo, RunPolicy

BRANDS = "#!"
"""What a script begins with that names its own interpreter."""
SHELL = ("sh",)


class Stage(StrEnum):
    """How far one host is: what is done, or to be done, next."""

    WAITING = "waits"
    EMPTYING = "is being emptied"
    COMMAND = "runs the command"
    HEALING = "is to be well again"
    RETURNING = "gets its VMs back"
    DONE = "is done"


class RollingState(StrEnum):
    """How the whole stands."""

    RUNNING = "running"
    STOPPED = "stopped"
    """At a fault, or because somebody wanted it; nothing more is done until somebody says so."""
    DONE = "done"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked. Seconds."""

    hosts: tuple[str, ...]
    """In their order."""
    text: str
    """The script."""
    shown: str
    """What people call it: the command, or the script's file."""
    reboot: bool = False
    """Whether the command is to have the host start anew."""
    limit: float = 3600.0
    """How long the command may take, with the start that it is to bring about."""
    healthy: float = 600.0
    """How long the host may take to be as it was."""
    cannot_go: CannotGo = CannotGo.REFUSE
    policy: RunPolicy = field(default_factory=RunPolicy)

    @property
    def interpreter(self) -> tuple[str, ...]:
        """Who reads the script, as the kernel would understand its first line; else the shell."""
        first = self.text.partition("\n")[0]
        if not first.startswith(BRANDS):
            return SHELL
        program, _, argument = first[len(BRANDS) :].strip().partition(" ")
        return (program, argument.strip()) if argument.strip() else (program,) if program else SHELL

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON values."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain | {"hosts": list(self.hosts), "cannot_go": self.cannot_go.value, "policy": self.policy.as_data()}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Order:
        """Read what ``as_data`` returned; what a later version added is left out."""
        values = {each.name: data[each.name] for each in fields(Order) if each.name in data}
        nouns = {"cannot_go": CannotGo(data["cannot_go"]), "policy": RunPolicy.from_data(data["policy"])}
        return Order(**values | nouns | {"hosts": tuple(data["hosts"])})


@dataclass(frozen=True, slots=True)
class Before:
    """What a host was like before anything was done to it, and is to be like again."""

    pools: tuple[str, ...]
    """Storage pools that were active, by name."""
    networks: tuple[str, ...]
    """libvirt's networks that were active."""
    closed: bool
    """Whether it was in maintenance already: it stays so, and gets nobody back."""

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Before:
        """Read what ``dataclasses.asdict`` returned."""
        return Before(tuple(data["pools"]), tuple(data["networks"]), bool(data["closed"]))


class CommandState(StrEnum):
    """How a command stands at its host."""

    ABSENT = "absent"
    """There is no trace of it."""
    READY = "ready"
    """It can be begun, and was not."""
    RUNS = "runs"
    ENDED = "ended"
    LOST = "lost"
    """It was begun, or was just about to be, and is gone without having said how it ended."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a host said of its command."""

    boot: str
    """Which of its starts this is."""
    state: CommandState
    exit_code: int | None = None
    output: bytes = b""
    """What it printed after what was read before."""


@dataclass(frozen=True, slots=True)
class Lap:
    """One host of it."""

    n: int
    host: str
    stage: Stage
    before: Before | None = None
    """None: nothing was done to it yet."""
    boot: str = ""
    """Which of its starts it was before the command."""
    begun: bool = False
    """Whether the command is known to have been begun there."""
    for_seconds: float = 0.0
    """How long ago that was."""
    exit_code: int | None = None
    """The command's; None: it has not ended, or its host started anew before anybody could see how."""
    output: str = ""
    """What it printed."""
    taken: int = 0
    """Bytes of its output that were read."""
    said: str = ""
    """What is the matter with it, in a sentence; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Rolling:
    """The whole."""

    id: int
    order: Order
    asked_by: str
    state: RollingState
    started_at: float
    """Seconds since the epoch."""
    ended_at: float | None
    outcome: str
    wish_by: str
    """Who wants it stopped; empty: nobody."""
    laps: tuple[Lap, ...]
    ordered: int | None = None
    """By which order a daemon carries it out; None: by none."""

    def lap(self, n: int) -> Lap:
        """Return the host of that number."""
        return next(each for each in self.laps if each.n == n)

    @property
    def in_words(self) -> str:
        """Which host is next or under way, and how far it is; empty: all are done."""
        lap = self.current
        return f"{lap.host} ({lap.n} of {len(self.laps)}) {lap.stage.value}" if lap is not None else ""

    @property
    def done(self) -> int:
        """How many hosts are done."""
        return sum(each.stage is Stage.DONE for each in self.laps)

    @property
    def current(self) -> Lap | None:
        """The host that is next, or under way; None: all are done."""
        return next((each for each in self.laps if each.stage is not Stage.DONE), None)
