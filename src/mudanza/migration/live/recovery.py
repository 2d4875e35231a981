"""What to do about a guest whose memory is on two hosts: pure, from what both say.

In post-copy the guest runs at the target and fetches from the source what it has not got yet. Whoever ends either
QEMU ends the guest, so that there is nothing to do but to wait and, where QEMU has paused the transfer because its
connection broke, to resume it.
"""

from __future__ import annotations

from enum import StrEnum

from mudanza.migration.transfer import POSTCOPY_REASONS
from mudanza.model.migration import Side, Sighting

BROKEN = "post-copy failed"
"""libvirt's word for a transfer that QEMU has paused, on either side."""


class Recovery(StrEnum):
    """The one thing that does no harm."""

    OVER = "over"
    """Its memory is in one place, or nowhere: where it is has to be settled."""
    WAIT = "wait"
    """It goes on, or one host does not answer."""
    RESUME = "resume"


def recover(source: Sighting, target: Sighting) -> Recovery:
    """Decide from what the source and the target say of the VM."""
    if not POSTCOPY_REASONS & {source.reason, target.reason}:
        return Recovery.OVER
    if Side.UNSEEN in (source.side, target.side):
        return Recovery.WAIT
    if not (_alive(source) and _alive(target)):
        return Recovery.OVER
    # The source alone can resume it; the target may notice later, or earlier.
    return Recovery.RESUME if source.reason == BROKEN else Recovery.WAIT


def _alive(side: Sighting) -> bool:
    return side.side is Side.PRESENT and side.state.active
