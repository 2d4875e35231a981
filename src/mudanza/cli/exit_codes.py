"""Exit codes that are no error's own: a command was ended by Ctrl-C, or was to do something to several VMs."""

from __future__ import annotations

from mudanza.model.outcomes import GRAVITY, PARTLY, of_several

__all__ = ["GRAVITY", "INTERRUPTED", "PARTLY", "of_several"]

INTERRUPTED = 130
"""Ctrl-C ended it."""
MOVES_PROPOSED = 10
"""``plan --exit-code`` proposes something."""

MEANINGS = {
    0: "done, or there was nothing to do",
    1: "an unexpected error",
    2: "wrong usage: a command, a setting or a name that is not right; nothing was touched",
    3: "blocked by what was checked, or the world has changed: nothing was touched",
    4: "it failed or was cancelled, and the VM runs (or rests) as before",
    5: "a person must look; it says at what",
    6: "the VM is down, its disks are whole",
    7: "of several things some were done, and some were not",
    10: "only with `plan --exit-code`: moves are proposed",
    130: "ended by Ctrl-C",
}
"""What each exit code stands for."""
