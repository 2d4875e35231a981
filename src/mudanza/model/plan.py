"""A plan: which VMs should move where, why, in which order, and what it will be like.

What is shown is what is applied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from mudanza.model.errors import UsageError

FORMAT = 1
"""What a saved plan says it is; another figure is another program's."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Goal(StrEnum):
    """What a plan is for."""

    BALANCE = "balance"
    CONSOLIDATE = "consolidate"
    DRAIN = "drain"
    EVACUATE = "evacuate"
    PLACE = "place"
    REPAIR = "repair"


class MoveMode(StrEnum):
    """How one VM gets there."""

    LIVE = "live"
    COLD = "cold"
    RESTART = "restart"
    """Started at the target because its host is gone."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One VM's way from one host to another. Bytes; seconds from the plan's start.

    A VM that is parked on a third host has two of them.
    """

    number: int
    """Counts from 1 within its plan, in the order of starts."""
    vm: str
    uuid: str
    source: str
    target: str
    reason: str
    """In words and figures."""
    mode: MoveMode
    memory: int
    """What it takes of the target's memory from its start on, and of the source's until its end, with QEMU's own."""
    disks: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """Pool of the target → bytes of disks that are copied into it."""
    freed: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """Pool of the source → bytes that are free again in it at the end."""
    bytes: int = 0
    """What crosses the network: memory and disks."""
    seconds: float | None = None
    """How long it takes by itself; None where nobody can tell."""
    blackout_ms: float | None = None
    """How long nobody answers on the guest's address, in milliseconds; None where nobody can tell."""
    start: float | None = None
    finish: float | None = None
    after: tuple[int, ...] = ()
    """Numbers of the moves that must have ended before it starts."""
    behind: tuple[int, ...] = ()
    """Those of them without whose success it must not start: a rule keeps it apart from their VMs where they are."""


@dataclass(frozen=True, slots=True)
class HostFigures:
    """What one host bears. CPUs in CPU-seconds per second, memory in bytes, rates in bytes per second."""

    vms: int = 0
    """Active VMs of ours."""
    cpus: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    network: float = 0.0
    promised_memory: int = 0
    """What its VMs may use at most, QEMU's own included."""
    promised_vcpus: int = 0


@dataclass(frozen=True, slots=True)
class HostOutlook:
    """One host before the plan and after it."""

    host: str
    cpus_total: float
    memory_total: int
    before: HostFigures
    after: HostFigures


@dataclass(frozen=True, slots=True)
class Unmoved:
    """A VM that the plan would have to move and cannot, and why."""

    vm: str
    uuid: str
    host: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole of it. JSON and back: ``as_json``, ``plan_from_json``."""

    goal: Goal
    summary: str
    """The sentence that sums it up; where there are no moves, why there is nothing to do or nothing can be done."""
    moves: tuple[PlannedMove, ...] = ()
    outlooks: tuple[HostOutlook, ...] = ()
    subject: str = ""
    """The host to be drained or evacuated, or the VM to be placed."""
    unmoved: tuple[Unmoved, ...] = ()
    notes: tuple[str, ...] = ()
    """What else one should know: what the figures are made of, which rules stay broken…"""
    measure: str = ""
    """What the three figures below count: ``imbalance``, ``hosts in use``, ``moves``."""
    score_before: float = 0.0
    score_after: float = 0.0
    bound: float | None = None
    """No plan could end below it."""
    seconds: float | None = None
    """When the last move ends, as foreseen."""
    seed: int = 0
    created: str = ""
    """When, as ISO 8601 with its zone."""
    fingerprint: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """What the plan relied on, thing by thing, in words: compared when it is applied."""
    options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """What it was made with, the rules included; JSON values."""

    @property
    def gap(self) -> float | None:
        """By how much it may be worse than the best there is; None without a bound."""
        return None if self.bound is None else max(0.0, self.score_after - self.bound)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"format": FORMAT} | {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def as_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(self.as_data(), indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return str(value) if isinstance(value, StrEnum) else value


def plan_from_json(text: str) -> Plan:
    """Read what ``as_json`` wrote. Raises UsageError for anything else."""
    try:
        data = dict(json.loads(text))
        if data.pop("format", None) != FORMAT:
            raise UsageError("this is no plan of this version", remedy="make it anew: mudanza plan … --save FILE")
        plan = _plan(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"this is no plan: {type(error).__name__}: {error}", remedy="make one: mudanza plan … --save FILE"
        ) from error
    _check_numbers(plan)
    return plan


def _plan(data: dict[str, Any]) -> Plan:
    data["goal"] = Goal(data["goal"])
    data["moves"] = tuple(_move(each) for each in data["moves"])
    data["outlooks"] = tuple(_outlook(each) for each in data["outlooks"])
    data["unmoved"] = tuple(Unmoved(**each) for each in data["unmoved"])
    data["notes"] = tuple(data["notes"])
    return Plan(**data)


def _move(data: dict[str, Any]) -> PlannedMove:
    numbers = {"after": tuple(data["after"]), "behind": tuple(data.get("behind", ()))}
    return PlannedMove(**{**data, "mode": MoveMode(data["mode"]), **numbers})


def _outlook(data: dict[str, Any]) -> HostOutlook:
    return HostOutlook(**{**data, "before": HostFigures(**data["before"]), "after": HostFigures(**data["after"])})


def _check_numbers(plan: Plan) -> None:
    numbers = [move.number for move in plan.moves]
    if numbers != list(range(1, len(numbers) + 1)):
        raise UsageError("this is no plan: its moves are not numbered from 1 on")
    for move in plan.moves:
        if any(number not in numbers for number in (*move.after, *move.behind)):
            raise UsageError(f"this is no plan: move {move.number} waits for a move that is not in it")
