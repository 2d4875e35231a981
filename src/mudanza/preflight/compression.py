"""May of pages that a guest changes again only what differs be sent (QEMU's xbzrle)? It needs memory at the source."""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.policy import Compression
from mudanza.model.units import MIB, format_size
from mudanza.preflight.case import Case
from mudanza.preflight.memory import reserve
from mudanza.preflight.wording import blocker, mudanza

LEAST_CACHE = 64 * MIB
"""Bytes of cache below which it is not tried: what QEMU itself takes where nobody tells it."""
BESIDE = 2
"""How many times what is dirtied the cache is to hold: a page lies at the place in it that its address says, and two
pages of one place push each other out."""
SHARE = 2
"""The cache gets one part in so many of what the source has free: it gives that back only once the move is over, and
others leave or come meanwhile."""


def spare_at(source: Host) -> int:
    """Return the bytes of memory that a cache may take at the source."""
    return max(source.memory_free - reserve(source), 0) // SHARE


def cache_for(dirtied: float | None, memory: int, source: Host) -> int:
    """Return the bytes of cache for a guest with so much memory, of which it goes on dirtying ``dirtied`` (None: nobody
    knows); 0 where the source has too little. A power of two, as QEMU has it."""
    wanted = BESIDE * int(memory // 2 if dirtied is None else dirtied)
    wanted = max(_next_power(min(wanted, memory)), LEAST_CACHE)
    while wanted > spare_at(source):
        wanted //= 2
    return wanted if wanted >= LEAST_CACHE else 0


def _next_power(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def compression(case: Case) -> Iterator[Finding]:
    """The source has memory for the cache, and memory goes by one connection."""
    if not case.live or case.options.compression is not Compression.XBZRLE:
        return
    if not cache_for(None, case.vm.memory, case.source):
        yield blocker(
            "compression-memory",
            "--compression xbzrle",
            f"its cache of pages takes {format_size(LEAST_CACHE)} at least, and {case.source.name} has "
            f"{format_size(spare_at(case.source))} for it: half of what is free there, less what is kept for the host",
            f"leave --compression out, or move another VM off {case.source.name} first ({mudanza('vms')})",
        )
    if (case.options.streams or 1) > 1:
        yield blocker(
            "compression-streams",
            f"--streams {case.options.streams}",
            "QEMU compares pages with what it has sent before only where they go by one connection",
            "ask for one of the two: leave --streams out, or --compression",
        )
