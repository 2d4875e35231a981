"""Switching a guest off for a move, and never harder than allowed."""

from __future__ import annotations

from collections.abc import Callable

from mudanza import clock
from mudanza.hypervisor.domains import Domains
from mudanza.journal.jobs import LONGEST_CALL, JobHandle
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.migration import Side
from mudanza.model.units import format_duration

LOOK_AGAIN = 0.3
"""Seconds between two looks whether a guest has shut down."""
ASK_AGAIN = 10.0
"""Seconds after which a guest that still runs is asked once more: one that boots does not hear it."""


def shut_down(
    domains: Domains, handle: JobHandle, uuid: str, *, limit: float, force: bool, turn: Callable[[], None]
) -> None:
    """Ask a guest to shut down and wait for it, ``limit`` seconds at most.

    One that does not obey is left running, and MigrationFailedError raised; ``force`` switches it off hard instead.
    """
    step = handle.intend("shut down", {"host": domains.host, "limit": limit})
    begun, ask_at, refused, unheard = clock.monotonic(), 0.0, "", False
    while True:
        turn()
        waited = clock.monotonic() - begun
        seen = domains.sighting(uuid)
        if seen.side is Side.PRESENT and not seen.state.active:
            handle.done(step, {"off": seen.reason})
            return
        if waited > limit:
            break
        if waited >= ask_at:
            try:
                domains.shutdown(uuid)
            except HypervisorError as error:
                if domains.sighting(uuid).state.active:  # it is paused, say; else it went off just now
                    refused = str(error)
                    break
            except HostUnreachableError:
                if unheard:
                    raise
                unheard = True  # only the answer may be lost, and the guest be on its way down
            ask_at = waited + ASK_AGAIN
        clock.sleep(LOOK_AGAIN)
    if not force:
        handle.done(step, {"error": refused or "it did not shut down", "asked": not refused})
        raise MigrationFailedError(
            f"the guest cannot be asked to shut down: {refused}"
            if refused
            else f"the guest did not shut down within {format_duration(limit)}",
            remedy="give it longer (--shutdown-limit), shut it down from inside, or allow it to be switched off hard, "
            "as if the power had failed: --force-off",
        )
    handle.renew(LONGEST_CALL)  # it took its time: make sure the job is still ours, then look once more
    seen = domains.sighting(uuid)
    if seen.side is Side.PRESENT and not seen.state.active:
        handle.done(step, {"off": seen.reason})
        return
    handle.assert_held()
    domains.destroy(uuid)
    handle.done(step, {"off": "switched off hard, as allowed"})
