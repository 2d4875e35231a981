"""By how many connections memory is to go: pure, from what was measured between two hosts and what moves taught since.

Several are worth their threads and their CPU only where one connection does not fill the link: where each is limited by
itself (by its window on a long way, by a shaper, by a bundle of links), or by what one thread encrypts. Elsewhere they
only share what one would have had, and bar the way to post-copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mudanza.migration.forecast.learning import Past, since, steady_mean, tells_of_link
from mudanza.migration.forecast.model import ONE, Streams
from mudanza.model.link import MeasuredLink
from mudanza.model.units import MIB, format_rate

MARGIN = 1.2
"""How many times as much as one connection several have to carry, for them to be taken."""
BY_A_CPU = 500.0 * MIB
"""Bytes per second that one CPU sends or takes in: for what several carry more than one, there have to be CPUs idle on
both hosts. Seen: 300 MiB by 8 encrypted connections took the source's QEMU 0.3 to 0.6 s of CPU time."""

LITTLE = 0.25
"""CPUs: where several need no more than this beyond what one does, nobody asks whether that is idle. The same bytes
cost the same in all, and so small a share is to be had on a busy host, too: it is only busy for longer by one."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What one connection carries between two hosts and what several do, and how that is known. Bytes per second."""

    one: float
    several: float
    connections: int
    how: str

    @property
    def words(self) -> str:
        """Both rates, in words."""
        together = f"{self.connections} connections carry {format_rate(self.several)} together"
        return f"{together}, one {format_rate(self.one)} ({self.how})"


def carried(measured: MeasuredLink | None, past: Sequence[Past]) -> Carried | None:
    """Return what is known; None where one and several were never both tried. ``past``: moves, the newest first.

    What was measured counts as the oldest, and moves since then correct it. Without it all moves count.
    """
    later = [each for each in reversed(past) if tells_of_link(each) and _counts(each, measured)]
    if measured is not None and measured.connections < 2:
        measured = None  # several were not tried then
    one = steady_mean([*([measured.one] if measured else []), *(each.rate for each in later if each.streams == 1)])
    together = [each for each in later if each.streams > 1]
    several = steady_mean([*([measured.several] if measured else []), *(each.rate for each in together)])
    if one is None or several is None:
        return None
    connections = measured.connections if measured else together[-1].streams
    how = [measured.when] if measured else []
    if later:
        how.append(f"{len(later)} move{'s' if len(later) > 1 else ''} {'since' if measured else 'have taught it'}")
    return Carried(one, several, connections, ", ".join(how))


def _counts(each: Past, measured: MeasuredLink | None) -> bool:
    return each.kind == "live" and since(each, measured)


def proposed(
    asked: int | None, known: Carried | None, cannot: str, *, now: bool = False, limit: int | None = None
) -> Streams:
    """Return by how many connections memory might go, as far as hosts and link are concerned.

    ``asked``: by whoever gives the order, None: as it is best. ``cannot``: why the hosts cannot do several. ``now``:
    post-copy is to begin at once, which they exclude. ``limit``: the most that it may send, in bytes per second.
    """
    if asked is not None:
        rate = known.several if known and asked > 1 else None
        return Streams(asked, "as asked for", rate) if asked > 1 else ONE
    if known is None:
        return ONE
    if known.several < known.one * MARGIN:
        return Streams(1, f"one connection: {known.words}")
    if limit is not None and limit < known.one * MARGIN:
        return Streams(1, f"one connection: it carries all that --bandwidth allows ({known.how})")
    if cannot:
        return Streams(1, f"one connection: {cannot}")
    if now:
        return Streams(1, "one connection: several exclude post-copy, which was asked for at once")
    return Streams(known.connections, known.words, known.several)


def needs_little(known: Carried) -> bool:
    """Whether several connections need so little computing that nobody has to ask whether the hosts have it."""
    return _cpus_needed(known) <= LITTLE


def where_there_is_room(chosen: Streams, known: Carried, idle: Mapping[str, float | None]) -> Streams:
    """Return one connection where a host has no CPU to spare for several. ``idle``: CPUs by host; None: not known."""
    needed = _cpus_needed(known)
    for host, cpus in idle.items():
        if cpus is not None and cpus < needed:
            spare = f"{host} has {cpus:.2f} CPUs to spare, and several need {needed:.2f}"
            return Streams(1, f"one connection: {spare}; {chosen.why}")
    return chosen


def _cpus_needed(known: Carried) -> float:
    """Return how many CPUs several connections take on each host beyond what one does."""
    return (known.several - known.one) / BY_A_CPU
