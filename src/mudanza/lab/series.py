"""What the outside client saw, worked out from its record: the blackout, lost numbers, stalls. Pure.

A record is one JSON array a line: its kind, the client's monotonic clock in ns, and what belongs to the kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from mudanza.model.errors import MudanzaError

NS = 1_000_000_000

SENT, REPLY, BEAT = "sent", "reply", "beat"
CONNECTED, BROKEN, ERROR, END = "connected", "broken", "error", "end"

_LENGTHS = {SENT: 3, REPLY: 3, BEAT: 7, CONNECTED: 2, BROKEN: 3, ERROR: 3, END: 3}


@dataclass(frozen=True, slots=True)
class Ping:
    """An echo request sent, or a reply received. Nanoseconds of the client's monotonic clock."""

    at: int
    number: int


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat line. Nanoseconds; ``at`` by the client's clock, the rest by the guest's."""

    at: int
    seq: int
    monotonic: int
    loop_gap: int
    """The longest turn of the loop that writes to the disk and to the network; a quiet guest shows its beat here."""
    tick_gap: int
    """The longest turn of the 5 ms tick that touches memory only."""
    boot: int


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything one client recorded, each kind in the order of its arrival."""

    sent: tuple[Ping, ...] = ()
    replies: tuple[Ping, ...] = ()
    beats: tuple[Beat, ...] = ()
    connected: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    troubles: tuple[str, ...] = ()
    """Why connections broke and what the network refused, in the client's words."""
    ended: str | None = None
    """Why the client ended; None: it did not get as far as saying so."""


@dataclass(frozen=True, slots=True)
class Series:
    """What a client outside saw of one guest. Seconds, and counts."""

    pings_sent: int
    pings_lost: int
    pings_repeated: int
    """Second answers to one request: a sign of the guest running twice."""
    typical_gap: float
    """The median time between two replies: the baseline."""
    high_gap: float
    """99 of 100 gaps between two replies are at most this long: tells a noisy machine."""
    longest_send_gap: float
    """The longest the client itself did not ask: a blackout near it may be the client's own."""
    blackout: float
    """The longest time without any reply arriving, between the first and the last."""
    blackout_at: float | None
    """When that began, by the client's monotonic clock (``time.monotonic()`` of any process of the machine)."""
    dark_at_end: float
    """For how long, at the end, requests had been going out without any reply coming."""
    beats: int
    first_beat: int | None
    last_beat: int | None
    beats_lost: int
    """Numbers between the lowest and the highest that never arrived."""
    first_lost: int | None
    beats_repeated: int
    beats_disordered: int
    """Numbers that arrived after a higher one."""
    longest_beat_gap: float
    """Between two arrivals; includes what TCP took to recover."""
    longest_beat_stall: float
    """The longest turn of the guest's heartbeat loop by the guest's own clock; includes waits for its disk."""
    longest_tick_stall: float
    """The longest turn of the guest's 5 ms tick by the guest's own clock: CPU and page faults only."""
    reconnects: int
    boots: int
    """How many boots of the guest were seen."""
    troubles: tuple[str, ...]
    ended: str | None

    @property
    def longest_dark(self) -> float:
        """The blackout, or the darkness at the end if that was longer."""
        return max(self.blackout, self.dark_at_end)

    @property
    def every_beat_arrived(self) -> bool:
        """Whether beats came, and none was lost, repeated or out of order."""
        return self.beats > 0 and not (self.beats_lost or self.beats_repeated or self.beats_disordered)


def parse(lines: Iterable[str]) -> Recording:
    """Read a client's record. A last line without its end is not counted: the client may still be writing it.

    Raises MudanzaError for a line that no client writes.
    """
    rows: dict[str, list[list[object]]] = {kind: [] for kind in _LENGTHS}
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        row = _row(line, number)
        rows[str(row[0])].append(row)
    troubles = sorted(rows[BROKEN] + rows[ERROR], key=lambda row: _integer(row[1]))
    return Recording(
        sent=tuple(Ping(*_integers(row[1:])) for row in rows[SENT]),
        replies=tuple(Ping(*_integers(row[1:])) for row in rows[REPLY]),
        beats=tuple(Beat(*_integers(row[1:])) for row in rows[BEAT]),
        connected=tuple(_integer(row[1]) for row in rows[CONNECTED]),
        broken=tuple(_integer(row[1]) for row in rows[BROKEN]),
        troubles=tuple(dict.fromkeys(str(row[2]) for row in troubles)),
        ended=str(rows[END][-1][2]) if rows[END] else None,
    )


def analyse(recording: Recording) -> Series:
    """Work out what the client saw."""
    replies = sorted(recording.replies, key=lambda reply: reply.at)
    gaps = [(later.at - earlier.at, earlier.at) for earlier, later in pairwise(replies)]
    blackout, blackout_at = max(gaps, key=lambda gap: gap[0], default=(0, None))
    answered = {reply.number for reply in replies}
    numbers = [beat.seq for beat in recording.beats]
    missing = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers)) if numbers else []
    return Series(
        pings_sent=len(recording.sent),
        pings_lost=sum(ping.number not in answered for ping in recording.sent),
        pings_repeated=len(replies) - len(answered),
        typical_gap=median(gap for gap, _ in gaps) / NS if gaps else 0.0,
        high_gap=_percentile([gap for gap, _ in gaps], 0.99) / NS,
        longest_send_gap=_longest_gap([ping.at for ping in recording.sent]),
        blackout=blackout / NS,
        blackout_at=None if blackout_at is None else blackout_at / NS,
        dark_at_end=_dark_at_end(recording),
        beats=len(numbers),
        first_beat=min(numbers, default=None),
        last_beat=max(numbers, default=None),
        beats_lost=len(missing),
        first_lost=missing[0] if missing else None,
        beats_repeated=len(numbers) - len(set(numbers)),
        beats_disordered=_disordered(numbers),
        longest_beat_gap=_longest_gap([beat.at for beat in recording.beats]),
        longest_beat_stall=max((beat.loop_gap for beat in recording.beats), default=0) / NS,
        longest_tick_stall=max((beat.tick_gap for beat in recording.beats), default=0) / NS,
        reconnects=max(0, len(recording.connected) - 1),
        boots=len({beat.boot for beat in recording.beats}),
        troubles=recording.troubles,
        ended=recording.ended,
    )


def _row(line: str, number: int) -> list[object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise MudanzaError(f"line {number} of the client's record is damaged: {line.strip()!r}") from error
    if not isinstance(row, list) or not row or _LENGTHS.get(str(row[0])) != len(row):
        raise MudanzaError(f"line {number} of the client's record is no record of ours: {line.strip()!r}")
    return row


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise MudanzaError(f"the client's record holds {value!r} where a number belongs")
    return value


def _integers(values: Sequence[object]) -> list[int]:
    return [_integer(value) for value in values]


def _longest_gap(times: Sequence[int]) -> float:
    return max((later - earlier for earlier, later in pairwise(times)), default=0) / NS


def _percentile(values: Sequence[int], share: float) -> int:
    """Return the smallest value that at least ``share`` of all values do not exceed; 0 of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0


def _dark_at_end(recording: Recording) -> float:
    if not recording.sent:
        return 0.0
    since = max((reply.at for reply in recording.replies), default=recording.sent[0].at)
    return max(0, recording.sent[-1].at - since) / NS


def _disordered(numbers: Sequence[int]) -> int:
    """Count first arrivals of numbers below one that had come before."""
    highest, known, count = -1, set(), 0
    for number in numbers:
        count += number < highest and number not in known
        known.add(number)
        highest = max(highest, number)
    return count
