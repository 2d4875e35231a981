"""When something may begin: not before an instant, and within windows of each day, by local time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from mudanza.model.errors import UsageError

_WINDOW = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)")


def parse_window(text: str) -> tuple[int, int]:
    """Read a window of each day such as ``22:00-06:00``; return its ends in minutes after midnight.

    Raises UsageError.
    """
    match = _WINDOW.fullmatch(text.strip())
    if match:
        begin, end = (int(match[n]) * 60 + int(match[n + 1]) for n in (1, 3))
        if begin != end and max(begin, end) <= 1440 and int(match[2]) < 60 and int(match[4]) < 60:
            return begin, end
    raise UsageError(f"{text!r} is not a window of a day", remedy="write it like 22:00-06:00")


def is_within(window: str, at: float) -> bool:
    """Return whether an instant (seconds since the epoch) lies in a window of each day, by local time."""
    begin, end = parse_window(window)
    local = datetime.fromtimestamp(at).astimezone()
    minute = local.hour * 60 + local.minute
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def parse_instant(text: str, now: float) -> float:
    """Read ``22:00`` (the next time that it is so) or ``2026-11-27T01:00`` (without a zone: local time); return seconds
    since the epoch. Raises UsageError, also for an instant that has passed."""
    today = datetime.fromtimestamp(now).astimezone()
    match = _CLOCK.fullmatch(text.strip())
    try:
        if match:
            at = today.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
            # One day further by the clock on the wall, also where that day has 23 hours.
            naive = at.replace(tzinfo=None)
            found = (naive if at > today else naive + timedelta(days=1)).astimezone()
        else:
            found = datetime.fromisoformat(text.strip()).astimezone()
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a time: {error}", remedy="write it like 22:00 or 2026-11-27T01:00"
        ) from error
    if found.timestamp() <= now:
        raise UsageError(f"{text!r} has passed")
    return found.timestamp()
