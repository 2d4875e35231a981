"""Runs one libvirt migration to its end while watching, steering and, if need be, cancelling it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.domains import Domains, Parameters
from mudanza.migration.convergence import Budget, Orders, begin, retune, steer, take_up
from mudanza.migration.guest_clock import ClockWatch
from mudanza.migration.mirrored import Mirrored
from mudanza.migration.outside import Outside
from mudanza.migration.progress import COPYING_MEMORY, FETCHING_MEMORY, Trend, read_progress, told
from mudanza.migration.steering import Situation, Steering, reason_to_stop, standstill
from mudanza.migration.way import Way
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError, NeedsPersonError
from mudanza.model.migration import MigrationOptions, Progress
from mudanza.model.policy import PostCopy
from mudanza.model.units import MIB, format_duration
from mudanza.model.vm import VmState

OnProgress = Callable[[Progress], None]
KeepClaim = Callable[[], None]

POLL = 0.25
"""Seconds between two looks at the job."""
STATS_TIMEOUT = 5.0
"""Seconds a look may take; a host may block it during a phase change, and the transfer goes on all the same."""
ABORT_AGAIN = 5.0
"""Seconds before an unheeded order to cancel is given again."""
HELD = 0.4
"""Seconds for which a stream of compressed memory is held before it is ordered to end: QEMU 7.2 that is cancelled while
it sends, compresses and encrypts waits for ever for a connection that it has closed itself."""
ABORT_UNHEEDED = 10.0
"""Seconds after which it is said that an order to cancel goes unheeded."""
ABORT_PATIENCE = 180.0
"""Seconds an order to cancel may go unheeded; longer than a connection to a dead host takes to fail (127 s)."""
STANDING = 2.0
"""Seconds without anything moving after which an order to cancel ends the connections of the disk mirrors first."""


ATTEND_EVERY = 1.0
"""Seconds between two looks at both hosts in post-copy."""

POSTCOPY_REASONS = frozenset({"post-copy", "post-copy failed"})
"""What libvirt says of a guest that was let run at the target before all of its memory was there."""

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
    postcopy_time: float | None = None
    """For how long the guest has run at the target without all of its memory; None: it did not."""
    postcopy_at: float | None = None
    """Since when, by the monotonic clock."""
    outside: Outside | None = None
    """Who watches the guest from outside."""
    clock_watch: ClockWatch | None = None
    """Who has looked at the guest's clock before."""

    @property
    def postcopy(self) -> tuple[float, float] | None:
        """From when to when it was in post-copy, by the monotonic clock."""
        if self.postcopy_at is None or self.postcopy_time is None:
            return None
        return self.postcopy_at, self.postcopy_at + self.postcopy_time


@dataclass
class _Call:
    """The blocking call in its thread."""

    error: MudanzaError | None = None


class Transfer:
    """One migration on its way; ``stop`` or ``cancel`` cancels it.

    ``on_stop`` is told why it is cancelled, before that is ordered; ``on_postcopy``, before that is ordered, why the
    guest is to run at the target before all of its memory is there; ``attend`` is called again and again while the
    guest stands still for the switchover and nothing moves, and while it runs at the target so.
    """

    def __init__(
        self,
        domains: Domains,
        uuid: str,
        steering: Steering,
        way: Way,
        stop: clock.Event,
        on_stop: Callable[[str], None],
        attend: Callable[[], None] = lambda: None,
        on_postcopy: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._domains = domains
        self._uuid = uuid
        self._steering = steering
        self._way = way
        self._stop = stop
        self._on_stop = on_stop
        self._attend = attend
        self._attend_at = 0.0
        self._on_postcopy = on_postcopy
        self._begun = clock.monotonic()
        self._over = clock.new_event()
        self._call = _Call()
        self._trend = Trend()
        self._mirrored = Mirrored()
        self._budget = self._told = _budget(steering)
        self._course = begin(self._budget)
        self._may_postcopy = steering.postcopy is not PostCopy.NEVER
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
        self._course = take_up(self._budget)
        self._see_postcopy()
        last = self._watch(self._shows_no_job, on_progress, keep_claim)
        return TransferEnd(None, self._why, last)

    def cancel(self, why: str) -> None:
        """Have it cancelled at the next turn, if nothing else has been the reason before."""
        self._why = self._why or why

    def tune(self, options: MigrationOptions) -> None:
        """Hold it to these limits from the next look on. Post-copy that was not prepared for stays out."""
        self._steering = replace(
            self._steering,
            max_downtime=options.max_downtime,
            deadline=options.deadline,
            bandwidth=options.bandwidth,
            postcopy=options.postcopy if self._may_postcopy else PostCopy.NEVER,
        )
        self._budget = _budget(self._steering)

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
            if now.stopped or (now.postcopy and now.elapsed >= self._attend_at):
                self._attend_at = now.elapsed + ATTEND_EVERY
                self._attend()
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
        stopped = still_for >= STANDING and self._stopped_for_switchover()
        return Situation(
            elapsed=elapsed,
            still_for=still_for,
            no_nearer_for=elapsed - self._trend.nearer_at,
            reach=self._way.reach(elapsed, still_for),
            stopped=stopped,
            asked_to_stop=self._stop.is_set(),
            # One that was ordered and cannot begin leaves the guest stopped, with all of its memory at the source.
            postcopy=self._course.postcopy and not stopped,
        )

    def _stopped_for_switchover(self) -> bool:
        if self._trend.phase not in (COPYING_MEMORY, FETCHING_MEMORY):
            return False
        seen = self._domains.sighting(self._uuid, timeout=STATS_TIMEOUT)
        return seen.state is VmState.PAUSED and seen.reason == "migrating"

    def _words(self, progress: Progress, now: Situation) -> dict[str, Any]:
        """Return the fields of the progress in which it is said that nothing moves, or that it is being cancelled."""
        if self._why:
            waited = now.elapsed - (self._first_abort or 0.0)
            heeded = f" for {format_duration(waited)}, not heeded yet" if waited >= ABORT_UNHEEDED else ""
            return {"cancelling": self._why, "eta": None, "outlook": f"cancelling{heeded}: {self._why}"}
        words = standstill(now, self._steering) if progress.still_for else progress.outlook
        if now.postcopy and now.asked_to_stop:
            return {"outlook": f"{words}; it is too late to cancel"}
        return {"outlook": words}

    def _migrate(self, order: Order) -> None:
        try:
            self._domains.migrate_p2p(self._uuid, order.peer_uri, order.parameters, order.flags)
        except MudanzaError as error:
            self._call.error = error
        except Exception as error:  # the thread must end by saying what happened, whatever it was
            self._call.error = MudanzaError(f"{type(error).__name__}: {error}")
        finally:
            self._over.set()

    def _see_postcopy(self) -> None:
        """Take post-copy for ordered if it has begun: whoever was here before may have done so."""
        if self._runs_at_target():
            self._course = replace(self._course, postcopy=True)

    def _runs_at_target(self) -> bool:
        """Ask the host whether the guest runs at the target already, without all of its memory."""
        return self._domains.sighting(self._uuid, timeout=STATS_TIMEOUT).reason in POSTCOPY_REASONS

    def _look(self, elapsed: float) -> Progress | None:
        try:
            stats = self._domains.job_stats(self._uuid, timeout=STATS_TIMEOUT)
        except (HypervisorError, HostUnreachableError):
            return None  # not an answer: the domain may be gone already, or the host is busy with the hand-over
        if not stats.get("type"):
            return None  # no job: not yet, or no more
        progress = read_progress(stats, elapsed)
        if self._course.postcopy:
            progress = replace(progress, postcopy=True, phase=FETCHING_MEMORY)
        self._trend = self._trend.after(progress)
        if not self._why:
            self._keep_on_course(replace(progress, disk_rate=self._disk_rate(progress)))
        return progress

    def _disk_rate(self, progress: Progress) -> float:
        """Return what the mirrors send while memory does, where the two have to share a limit."""
        disks = self._steering.disks
        if not (self._budget.bandwidth and disks and progress.memory_total) or progress.postcopy:
            return progress.disk_rate
        try:
            jobs = self._domains.disk_jobs(self._uuid, disks)
        except (HypervisorError, HostUnreachableError):
            return self._mirrored.rate
        self._mirrored = self._mirrored.after(progress.elapsed, sum(done for done, _ in jobs.values()))
        return self._mirrored.rate

    def _keep_on_course(self, progress: Progress) -> None:
        """Give the orders that these figures call for; what cannot be ordered now is, at the next look."""
        if self._told != self._budget:
            course, orders = retune(self._course, self._told, self._budget, progress)
        else:
            course, orders = steer(self._course, progress, self._budget)
        try:
            self._order(orders)
        except (HypervisorError, HostUnreachableError):
            # The job is between two phases, or the host is: nothing was ordered as far as we know.
            self._see_postcopy()
            return
        self._course, self._told = course, self._budget

    def _order(self, orders: Orders) -> None:
        if orders.downtime is not None:
            self._domains.set_max_downtime(self._uuid, max(1, round(orders.downtime * 1000)))
        if orders.memory_bandwidth is not None:
            limit = max(1, orders.memory_bandwidth // MIB)
            self._domains.set_bandwidth(self._uuid, limit)
            if self._may_postcopy:
                self._domains.set_bandwidth(self._uuid, limit, postcopy=True)
        if orders.disk_bandwidth is not None:
            self._limit_copies(orders.disk_bandwidth)
        if orders.postcopy:
            self._on_postcopy(orders.postcopy)
            self._domains.start_postcopy(self._uuid)
        self._why = orders.give_up

    def _limit_copies(self, limit: int) -> None:
        """Share a limit out among the mirrors, so that they are done together."""
        sizes = self._steering.disks
        whole = sum(sizes.values()) or 1
        shares = {disk: max(round(limit * size / whole), 1) for disk, size in sizes.items()}
        with suppress(HypervisorError, HostUnreachableError):  # they keep to what they had
            self._domains.limit_copies(self._uuid, shares)

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
        acts: list[Callable[[str], object]] = [self._domains.abort_job]
        if self._steering.compressed and not unheeded:
            acts.insert(0, self._hold)
        if unheeded or now.still_for >= STANDING:
            # Before the order: QEMU that has begun to wait for a dead connection does not listen any more.
            acts.insert(0, self._domains.cut_off_copies)
        if unheeded or now.stopped:
            # Nor does libvirt, then, which waits for QEMU.
            acts.insert(0, self._way.cut)
        if unheeded:
            acts.append(self._domains.end_cancelled)  # QEMU may have heeded it, and libvirt not know
        self._abort = Task(lambda: self._stop_it(acts))

    def _stop_it(self, acts: Sequence[Callable[[str], object]]) -> None:
        if self._runs_at_target():
            return  # there is no way back any more
        for act in acts:
            try:
                act(self._uuid)
            except (HypervisorError, HostUnreachableError):
                continue  # there is no job yet, or no more; ordered again while it lasts

    def _hold(self, uuid: str) -> None:
        """Have hardly anything sent, so that QEMU does not wait for its connection while it is told to end."""
        self._domains.set_bandwidth(uuid, 1)
        clock.sleep(HELD)

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


def _budget(held_to: Steering) -> Budget:
    deadline = None if held_to.deadline is None else held_to.deadline - held_to.spent
    disks, compressed = len(held_to.disks), held_to.compressed
    allowed = held_to.policy, held_to.postcopy, held_to.bandwidth
    return Budget(held_to.max_downtime, deadline, *allowed, disks, compressed)
