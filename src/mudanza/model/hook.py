"""Hooks: commands of the controller's own that are run around a move, or by plans for recovery. VMs and plans name
them, and never contain any."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

HOOK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What hooks may be called."""


class When(StrEnum):
    """At which moment of a move a hook is run."""

    BEFORE = "before"
    """Before anything of the VM is touched; a hook that fails stops the move."""
    AFTER = "after"
    """Once it has moved."""
    FAILURE = "failure"
    """Once it is settled that it has not moved, or has ended over it."""
    RECOVERY = "recovery"
    """When a plan for recovery that names it comes to it; at no moment of a move."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook, as the controller's settings have it."""

    name: str
    command: tuple[str, ...]
    """The program, by its whole path, and its arguments; no shell."""
    when: frozenset[When]
    limit: float
    """Seconds it may take."""
    for_all: bool = False
    """Whether it is run for every VM, and not only for those that name it."""


def hooks_for(named: Iterable[str], known: Mapping[str, Hook]) -> tuple[str, ...]:
    """Return the names of the hooks of one VM's move, each once: those for all VMs, then those that it names."""
    return tuple(dict.fromkeys((*(hook.name for hook in known.values() if hook.for_all), *named)))
