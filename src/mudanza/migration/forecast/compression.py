"""Whether of pages that a guest changes again only the difference is to be sent (xbzrle): pure, from what its earlier
moves have told.

It is of use for guests that change little of many pages, again and again. Nothing but trying tells which guests do. So
it is tried where pre-copy would not end without, once; and again only where it has paid off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mudanza.migration.forecast.foresight import foresee
from mudanza.migration.forecast.model import PLAIN, Compressing, Forecast, Known, Strategy
from mudanza.model.compression import Tried
from mudanza.model.policy import Compression, PostCopy
from mudanza.model.units import format_duration, format_size

Cache = Callable[[float | None], int]
"""The bytes of cache that the source can give for a guest that goes on dirtying so many (None: nobody knows); or 0."""

TIMELY = 2.0 / 1.2
"""How many times what all its memory takes over the link a move may take by which compression is tried in vain: twice,
if it takes a fifth longer than was foreseen. Another pass goes by before anything is known of it."""


def with_compression(
    plain: Forecast, asked: Compression, tried: Tried | None, cache: Cache, *, encrypted: bool = False
) -> Forecast:
    """Return what a move will be like with compression, or as it is without where that is better.

    ``plain``: without. ``tried``: what came of it when the VM was last moved with it; None: it never was.
    ``encrypted``: its memory goes by TLS. QEMU 7.2 that compresses, too, never ends once it is cancelled while it
    sends (seen with libvirt 9.0: ``cancelling`` for ever, and the VM cannot be moved again before it was shut down).
    Our own orders go around that, those of others do not, so nobody gets that without having asked for it.
    """
    known = plain.known
    if asked is Compression.OFF or known.cold or not known.running:
        return plain
    room = cache(known.dirtying.working_set if known.dirtying else None)
    share = tried.share if tried is not None else None
    if asked is Compression.XBZRLE:
        return foresee(_compressing(known, Compressing(room, "xbzrle was asked for", share))) if room else plain
    if _gets_there(plain) or known.budget.postcopy is PostCopy.NOW or known.streams.connections > 1:
        return plain
    if encrypted:
        return _left_out(plain, "with TLS, QEMU may not heed an order to cancel")
    if why := _why_not(known, tried, room):
        return _left_out(plain, why)
    packed = foresee(_compressing(known, Compressing(room, _why(tried, room), share)))
    if tried is None:
        # Should nothing be gained, the VM has to get there all the same, and in time, if it would without.
        return _left_out(plain, why) if (why := _why_not_tried(plain, packed)) else packed
    return packed if _gets_there(packed) else plain


def _left_out(plain: Forecast, why: str) -> Forecast:
    return replace(plain, known=replace(plain.known, compressing=replace(PLAIN, why=f"no xbzrle: {why}")))


def _compressing(known: Known, packed: Compressing) -> Known:
    return replace(known, compressing=packed, budget=replace(known.budget, compressed=True))


def _gets_there(foreseen: Forecast) -> bool:
    """Whether pre-copy ends by itself."""
    return foreseen.chosen.arrives and foreseen.chosen.strategy is Strategy.PRECOPY


def _why_not(known: Known, tried: Tried | None, room: int) -> str:
    """Return what speaks against it; empty where nothing does."""
    if tried is not None and not tried.paid_off:
        took = f"took {tried.share:.0%} of their size" if tried.share is not None else "were not in its cache"
        return f"it has not paid off when it was tried (pages that had changed again {took})"
    if not room:
        return "the source has no memory for its cache"
    if known.dirtying is not None and known.dirtying.working_set > room:
        needed = format_size(known.dirtying.working_set)
        return f"the guest goes on dirtying {needed}, and the source has memory for a cache of {format_size(room)}"
    return ""


def _why_not_tried(plain: Forecast, packed: Forecast) -> str:
    """Return what speaks against a first trial, given what it would come to in vain; empty where nothing does."""
    if not plain.chosen.arrives:
        return ""
    if not packed.chosen.arrives:
        return "should it gain nothing, the VM would not get there"
    if packed.chosen.total > TIMELY * plain.known.memory / plain.known.link.rate:
        longer = format_duration(packed.chosen.total - plain.chosen.total)
        return f"trying it may be in vain, and would take {longer} more then (--compression xbzrle has it tried)"
    return ""


def _why(tried: Tried | None, room: int) -> str:
    costs = f"a cache of up to {format_size(room)} at the source"
    if tried is None:
        return f"xbzrle is tried, for pre-copy would not end without; if it gains nothing, this holds ({costs})"
    return f"when xbzrle was last used, pages that had changed again took {tried.share:.0%} of their size ({costs})"
