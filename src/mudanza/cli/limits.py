"""Limits of a move as people write them."""

from __future__ import annotations

from typing import Any

from mudanza.model.errors import UsageError
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.units import parse_duration
from mudanza.model.wishes import FIELDS, parse_downtime

MOST_STREAMS = 255
"""Connections beyond which QEMU does not go."""


def limits_asked(
    *, max_downtime: str | None, deadline: str | None, policy: Policy | None, post_copy: PostCopy | None
) -> dict[str, Any]:
    """Return what was named of what a VM may wish otherwise, as fields of ``MigrationOptions``. Raises UsageError."""
    asked = {
        "max_downtime": parse_downtime(max_downtime) if max_downtime else None,
        "deadline": parse_duration(deadline) if deadline else None,
        "policy": policy,
        "post_copy": post_copy,
    }
    assert set(asked) == set(FIELDS)
    named = {name: value for name, value in asked.items() if value is not None}
    return {**named, "named": frozenset(named)}


def parse_streams(asked: str | None) -> int | None:
    """Return by how many connections memory is to go; None: as it is best. Raises UsageError."""
    if asked in (None, "auto"):
        return None
    if not asked.isascii() or not asked.isdecimal() or not 1 <= int(asked) <= MOST_STREAMS:
        raise UsageError(
            f"--streams {asked!r} is no number of connections", remedy=f"write auto, or 1 to {MOST_STREAMS}"
        )
    return int(asked)
