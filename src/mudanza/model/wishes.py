"""What a VM wishes of its own moves: its metadata says it, and it travels with the VM. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from mudanza.model.automation import Automation
from mudanza.model.errors import UsageError
from mudanza.model.hook import HOOK_NAME
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.times import parse_window
from mudanza.model.units import format_duration, parse_duration

LEAST_DOWNTIME, MOST_DOWNTIME = 0.001, 2000.0
"""Seconds: libvirt counts in whole milliseconds, QEMU goes no further."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class VmWishes:
    """One VM's wishes. Seconds; None: it has no such wish."""

    policy: Policy | None = None
    max_downtime: float | None = None
    deadline: float | None = None
    post_copy: PostCopy | None = None
    hooks: tuple[str, ...] = ()
    """The controller's hooks that are to be run around its moves, by name."""
    balance: Automation | None = None
    """How far a continuous balance goes with it."""
    balance_window: tuple[str, ...] = ()
    """Windows of each day in which balance moves it, such as ``22:00-06:00``; none: always."""
    said: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """What the metadata says, as it stands there: name → text."""
    faults: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """What of it cannot be heeded, and why: name → in words."""


def parse_downtime(text: str, what: str = "--max-downtime") -> float:
    """Return seconds. Raises UsageError for a bare number, which people used to virsh mean as milliseconds, and for
    what QEMU does not take."""
    if text.strip().replace(".", "", 1).isdecimal() and float(text) > 0:
        raise UsageError(
            f"{what} {text!r} names no unit: milliseconds, as for virsh, or seconds?",
            remedy=f"write {text.strip()}ms, or {text.strip()}s",
        )
    return parse_duration(text)


def _downtime(text: str) -> float:
    seconds = parse_downtime(text, "max-downtime")
    if not LEAST_DOWNTIME <= seconds <= MOST_DOWNTIME:
        raise UsageError(f"max-downtime {text!r} is not between 1ms and 2000s, as QEMU has it")
    return seconds


def _deadline(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise UsageError("a deadline must be more than nothing")
    return seconds


def _hooks(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split()))
    for name in names:
        if not HOOK_NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a hook")
    return names


def _windows(text: str) -> tuple[str, ...]:
    windows = tuple(text.replace(",", " ").split())
    for each in windows:
        parse_window(each)
    if not windows:
        raise UsageError("it names no window of a day")
    return windows


def _one_of(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def read(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            raise UsageError(f"{text!r} is none of {', '.join(kind)}") from None

    return read


_READERS: Mapping[str, Callable[[str], Any]] = {
    "policy": _one_of(Policy),
    "max-downtime": _downtime,
    "deadline": _deadline,
    "post-copy": _one_of(PostCopy),
    "hooks": _hooks,
    "balance": _one_of(Automation),
    "balance-window": _windows,
}
NAMES = tuple(_READERS)
"""What a VM can wish, by the names that it has in metadata."""
OPTIONS = {name: f"--{name}" for name in NAMES} | {"hooks": "--hook"}
"""The same → the option of ``mudanza wish`` that sets it."""
OF_BALANCE = ("balance", "balance-window")
"""What of it is about whether it is moved, and not about how."""
FIELDS = tuple(name.replace("-", "_") for name in NAMES if name not in ("hooks", *OF_BALANCE))
"""What of it is a limit, as ``MigrationOptions`` has it."""


def wishes_of(said: Mapping[str, str]) -> VmWishes:
    """Read what a VM's metadata says. Never raises: what cannot be heeded is among the ``faults``."""
    heeded: dict[str, Any] = {}
    faults = {}
    for name, text in said.items():
        if name not in _READERS:
            faults[name] = f"there is no such wish; there are: {', '.join(NAMES)}"
            continue
        try:
            heeded[name.replace("-", "_")] = _READERS[name](text)
        except UsageError as error:
            faults[name] = str(error)
    return VmWishes(**heeded, said=dict(said), faults=faults)


def in_words(name: str, value: Any) -> str:
    """Return one limit of a move for people; ``name`` as ``MigrationOptions`` has it."""
    match name:
        case "max_downtime":
            return f"downtime up to {format_duration(value)}"
        case "deadline":
            return f"deadline {format_duration(value)}"
        case _:
            return f"{name.replace('_', '-')} {value}"
