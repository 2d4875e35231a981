"""Runs one libvirt migration to its end while watching, steering and, if need be, cancelling it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.domains import Domains, Parameters
from mudanza.migration.progress import COPYING_MEMORY, Trend, read_progress, told
from mudanza.migration.steering import Situation, Steering, reason_to_stop, standstill
from mudanza.migration.way import Way
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError, NeedsPersonError
from mudanza.model.migration import Progress
from mudanza.model.units import format_duration
from mudanza.model.vm import VmState

OnProgress = Callable[[Progress], None]
KeepClaim = Callable[[], None]

POLL = 0.25
"""Seconds between two looks at the job."""
STATS_TIMEOUT = 5.0
"""Seconds a look may take; a host may block it during a phase change, and the transfer goes on all the same."""
ABORT_AGAIN = 5.0
"""Seconds before an unheeded order to cancel is given again."""
ABORT_UNHEEDED = 10.0
"""Seconds after which it is said that an order to cancel goes unheeded."""
ABORT_PATIENCE = 180.0
"""Seconds an order to cancel may go unheeded; longer than a connection to a dead host takes to fail (127 s)."""
STANDING = 2.0
"""Seconds without anything moving after which an order to cancel ends the connections of the disk mirrors first."""


# A job whose kind a busy QEMU does not tell may be ours too; a backup is not, and is not to be cancelled for it.
_OURS = frozenset({"migration out", "unknown"})


@dataclass(frozen=True, slots=True)
class Order:
    """One call of libvirt's peer-to-peer migration."""

    peer_uri: str
    parameters: Parameters
    flags: Sequence[str]


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
    """One migration on its way; ``stop`` or ``cancel`` cancels it.

    ``on_stop`` is told why it is cancelled, before that is ordered; ``on_standstill`` is called at every turn while the
    guest stands still for the switchover and nothing moves.
    """

    def __init__(
        self,
        domains: Domains,
        uuid: str,
        steering: Steering,
        way: Way,
        stop: clock.Event,
        on_stop: Callable[[str], None],
        on_standstill: Callable[[], None] = lambda: None,
    ) -> None:
        self._domains = domains
        self._uuid = uuid
        self._steering = steering
        self._way = way
        self._stop = stop
        self._on_stop = on_stop
        self._on_standstill = on_standstill
        self._begun = clock.monotonic()
        self._over = clock.new_event()
        self._call = _Call()
        self._trend = Trend()
        self._downtime_set = False
        self._why = ""
        self._first_abort: float | None = None
        self._abort_at = 0.0
        self._abort: Task[None] | None = None

    def run(self, order: Order, on_progress: OnProgress, keep_claim: KeepClaim) -> TransferEnd:
        """Run to the end; ``on_progress`` is told every sample, ``keep_claim`` is called at every turn.

        Whatever ``keep_claim`` raises ends the watching, not the migration. Raises NeedsPersonError when an order to
        cancel has no effect for ABORT_PATIENCE seconds.
        """
        clock.start_thread(lambda: self._migrate(order), f"migrate {self._uuid}")
        last = self._watch(lambda: self._over.wait(POLL), on_progress, keep_claim)
        return TransferEnd(self._call.error, self._why, last)

    def follow(self, on_progress: OnProgress, keep_claim: KeepClaim) -> TransferEnd:
        """Watch a transfer that nobody's call waits for any more, until its host shows no job on the VM.

        Raises what ``run`` raises.
        """
        last = self._watch(self._shows_no_job, on_progress, keep_claim)
        return TransferEnd(None, self._why, last)

    def cancel(self, why: str) -> None:
        """Have it cancelled at the next turn, if nothing else has been the reason before."""
        self._why = self._why or why

    def _shows_no_job(self) -> bool:
        # A host that cannot be asked shows none either: what that means is settled by asking both.
        if self._domains.sighting(self._uuid, timeout=STATS_TIMEOUT).job not in _OURS:
            return True
        clock.sleep(POLL)
        return False

    def _watch(self, is_over: Callable[[], bool], on_progress: OnProgress, keep_claim: KeepClaim) -> Progress:
        last = Progress("starting", 0.0)
        while not is_over():
            keep_claim()
            sample = self._look(self._elapsed())
            now = self._situation(self._elapsed())
            if now.stopped:
                self._on_standstill()
            self._why = self._why or reason_to_stop(now, self._steering)
            if self._why:
                self._order_to_stop(now)
            last = told(sample or replace(last, elapsed=now.elapsed), self._trend)
            if sample is not None or last.still_for or self._why:
                on_progress(replace(last, **self._words(last, now)))
        self._await_order()
        return last

    def _elapsed(self) -> float:
        return clock.monotonic() - self._begun

    def _situation(self, elapsed: float) -> Situation:
        still_for = elapsed - self._trend.moved_at
        return Situation(
            elapsed=elapsed,
            still_for=still_for,
            no_nearer_for=elapsed - self._trend.nearer_at,
            reach=self._way.reach(elapsed, still_for),
            stopped=still_for >= STANDING and self._stopped_for_switchover(),
            asked_to_stop=self._stop.is_set(),
        )

    def _stopped_for_switchover(self) -> bool:
        if self._trend.phase != COPYING_MEMORY:
            return False
        seen = self._domains.sighting(self._uuid, timeout=STATS_TIMEOUT)
        return seen.state is VmState.PAUSED and seen.reason == "migrating"

    def _words(self, progress: Progress, now: Situation) -> dict[str, Any]:
        """Return the fields of the progress in which it is said that nothing moves, or that it is being cancelled."""
        if self._why:
            waited = now.elapsed - (self._first_abort or 0.0)
            heeded = f" for {format_duration(waited)}, not heeded yet" if waited >= ABORT_UNHEEDED else ""
            return {"cancelling": self._why, "eta": None, "outlook": f"cancelling{heeded}: {self._why}"}
        if progress.still_for:
            return {"outlook": standstill(now, self._steering)}
        return {}

    def _migrate(self, order: Order) -> None:
        try:
            self._domains.migrate_p2p(self._uuid, order.peer_uri, order.parameters, order.flags)
        except MudanzaError as error:
            self._call.error = error
        except Exception as error:  # the thread must end by saying what happened, whatever it was
            self._call.error = MudanzaError(f"{type(error).__name__}: {error}")
        finally:
            self._over.set()

    def _look(self, elapsed: float) -> Progress | None:
        try:
            stats = self._domains.job_stats(self._uuid, timeout=STATS_TIMEOUT)
        except (HypervisorError, HostUnreachableError):
            return None  # not an answer: the domain may be gone already, or the host is busy with the hand-over
        if not stats.get("type"):
            return None  # no job: not yet, or no more
        self._set_downtime_once()
        progress = read_progress(stats, elapsed)
        self._trend = self._trend.after(progress)
        return progress

    def _set_downtime_once(self) -> None:
        if self._downtime_set:
            return
        try:
            self._domains.set_max_downtime(self._uuid, round(self._steering.max_downtime * 1000))
            self._downtime_set = True
        except (HypervisorError, HostUnreachableError):
            return  # the job is between two phases: at the next look

    def _order_to_stop(self, now: Situation) -> None:
        """Order it once and, as long as it lasts, again; the order is carried out while the watching goes on."""
        if self._first_abort is None:
            self._first_abort = now.elapsed
            self._on_stop(self._why)
        if now.elapsed - self._first_abort > ABORT_PATIENCE:
            raise self._unheeded()
        if now.elapsed < self._abort_at or (self._abort is not None and not self._abort.ended):
            return
        unheeded = now.elapsed - self._first_abort >= ABORT_AGAIN
        self._abort_at = now.elapsed + ABORT_AGAIN
        self._abort = Task(lambda: self._stop_it(cut_off=unheeded or now.still_for >= STANDING))

    def _stop_it(self, *, cut_off: bool) -> None:
        # Before the order: QEMU that has begun to wait for a dead connection does not listen any more.
        for act in (self._domains.cut_off_copies, self._domains.abort_job)[0 if cut_off else 1 :]:
            try:
                act(self._uuid)
            except (HypervisorError, HostUnreachableError):
                continue  # there is no job yet, or no more; ordered again while it lasts

    def _await_order(self) -> None:
        """Let an order still under way end, so that it cannot hit what comes after this migration."""
        if self._abort is not None:
            with suppress(TimeoutError):
                self._abort.wait(STATS_TIMEOUT)

    def _unheeded(self) -> NeedsPersonError:
        source, target = self._steering.source, self._steering.target
        return NeedsPersonError(
            f"the order to cancel ({self._why}) had no effect for {format_duration(ABORT_PATIENCE)}",
            vm_state=f"{source} still works on its migration, which may yet end either way",
            remedy=f"mend the way from {source} to {target}, or look at its QEMU and libvirt on {source}",
        )
