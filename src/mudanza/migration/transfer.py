"""Runs one libvirt migration to its end while watching, steering and, if need be, cancelling it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mudanza.hypervisor.domains import Domains, Parameters
from mudanza.migration.progress import Trend, outlook, read_progress
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.migration import Progress
from mudanza.model.units import format_duration

POLL = 0.25
"""Seconds between two looks at the job."""
STATS_TIMEOUT = 5.0
"""Seconds a look may take; a host may block it during a phase change, and the transfer goes on all the same."""
ABORT_AGAIN = 5.0
"""Seconds before an unheeded order to cancel is given again."""


@dataclass(frozen=True, slots=True)
class Order:
    """One call of libvirt's peer-to-peer migration. Seconds."""

    uuid: str
    peer_uri: str
    parameters: Parameters
    flags: Sequence[str]
    max_downtime: float
    deadline: float | None
    no_progress: float
    """How long it may come no nearer to its end."""


@dataclass(frozen=True, slots=True)
class TransferEnd:
    """How the call ended. Nothing about where the VM is follows from it."""

    error: MudanzaError | None
    stopped_because: str
    """Why we cancelled it; empty if we did not."""
    last: Progress


@dataclass
class _Call:
    """The blocking call in its thread."""

    error: MudanzaError | None = None


class Transfer:
    """One migration on its way."""

    def __init__(self, domains: Domains, order: Order, stop: threading.Event) -> None:
        self._domains = domains
        self._order = order
        self._stop = stop
        self._over = threading.Event()
        self._call = _Call()
        self._trend = Trend()
        self._downtime_set = False
        self._why = ""
        self._abort_at = 0.0

    def run(self, on_progress: Callable[[Progress], None], keep_claim: Callable[[], None]) -> TransferEnd:
        """Run to the end; ``on_progress`` is told every sample, ``keep_claim`` is called at every turn.

        Whatever ``keep_claim`` raises ends the watching, not the migration.
        """
        begun = time.monotonic()
        threading.Thread(target=self._migrate, name=f"migrate {self._order.uuid}", daemon=True).start()
        last = Progress("starting", 0.0)
        while not self._over.wait(POLL):
            keep_claim()
            progress = self._look(time.monotonic() - begun)
            if progress is not None:
                last = progress
                on_progress(progress)
            self._maybe_abort(time.monotonic() - begun)
        return TransferEnd(self._call.error, self._why, last)

    def _migrate(self) -> None:
        order = self._order
        try:
            self._domains.migrate_p2p(order.uuid, order.peer_uri, order.parameters, order.flags)
        except MudanzaError as error:
            self._call.error = error
        except Exception as error:  # the thread must end by saying what happened, whatever it was
            self._call.error = MudanzaError(f"{type(error).__name__}: {error}")
        finally:
            self._over.set()

    def _look(self, elapsed: float) -> Progress | None:
        try:
            stats = self._domains.job_stats(self._order.uuid, timeout=STATS_TIMEOUT)
        except (HypervisorError, HostUnreachableError):
            return None  # not an answer: the domain may be gone already, or the host is busy with the hand-over
        if not stats.get("type"):
            return None  # no job: not yet, or no more
        self._set_downtime_once()
        progress = read_progress(stats, elapsed)
        self._trend = self._trend.after(progress)
        eta, sentence = outlook(progress, self._trend)
        return replace(progress, eta=eta, outlook=sentence, disk_rate=self._trend.disk_rate)

    def _set_downtime_once(self) -> None:
        if self._downtime_set:
            return
        try:
            self._domains.set_max_downtime(self._order.uuid, round(self._order.max_downtime * 1000))
            self._downtime_set = True
        except (HypervisorError, HostUnreachableError):
            return  # the job is between two phases: at the next look

    def _maybe_abort(self, elapsed: float) -> None:
        self._why = self._why or self._reason_to_stop(elapsed)
        if not self._why or elapsed < self._abort_at:
            return
        self._abort_at = elapsed + ABORT_AGAIN
        try:
            self._domains.abort_job(self._order.uuid)
        except (HypervisorError, HostUnreachableError):
            return  # there is no job yet, or no more; ordered again while the call lasts

    def _reason_to_stop(self, elapsed: float) -> str:
        if self._stop.is_set():
            return "cancelled on request"
        if self._order.deadline is not None and elapsed > self._order.deadline:
            return f"not done within the deadline of {format_duration(self._order.deadline)}"
        if elapsed - self._trend.improved_at > self._order.no_progress:
            return f"came no nearer to its end for {format_duration(self._order.no_progress)}"
        return ""


def follow(
    domains: Domains,
    uuid: str,
    on_progress: Callable[[Progress], None],
    keep_claim: Callable[[], None],
) -> None:
    """Watch a transfer that somebody else's call carries, until its host shows no job on the VM any more."""
    begun = time.monotonic()
    trend = Trend()
    while True:
        keep_claim()
        try:
            stats = domains.job_stats(uuid, timeout=STATS_TIMEOUT)
        except (HypervisorError, HostUnreachableError):
            return  # gone from there, or not to be asked: what that means is settled by asking both hosts
        if not stats.get("type"):
            return
        progress = read_progress(stats, time.monotonic() - begun)
        trend = trend.after(progress)
        eta, sentence = outlook(progress, trend)
        on_progress(replace(progress, eta=eta, outlook=sentence))
        time.sleep(POLL)
