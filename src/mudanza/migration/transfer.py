"""Runs one libvirt migration to its end while watching, steering and, if need be, cancelling it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mudanza.hypervisor.domains import Domains, Parameters
from mudanza.migration.progress import Trend, outlook, read_progress
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError, NeedsPersonError
from mudanza.model.migration import Progress
from mudanza.model.units import format_duration

OnProgress = Callable[[Progress], None]
KeepClaim = Callable[[], None]

POLL = 0.25
"""Seconds between two looks at the job."""
STATS_TIMEOUT = 5.0
"""Seconds a look may take; a host may block it during a phase change, and the transfer goes on all the same."""
ABORT_AGAIN = 5.0
"""Seconds before an unheeded order to cancel is given again."""
ABORT_PATIENCE = 180.0
"""Seconds an order to cancel may go unheeded; longer than a connection to a dead host takes to fail (127 s)."""


# A job whose kind a busy QEMU does not tell may be ours too; a backup is not, and is not to be cancelled for it.
_OURS = frozenset({"migration out", "unknown"})


@dataclass(frozen=True, slots=True)
class Order:
    """One call of libvirt's peer-to-peer migration."""

    peer_uri: str
    parameters: Parameters
    flags: Sequence[str]


@dataclass(frozen=True, slots=True)
class Steering:
    """What a transfer is held to. Seconds."""

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
    """One migration on its way; ``stop`` cancels it."""

    def __init__(self, domains: Domains, uuid: str, steering: Steering, stop: threading.Event) -> None:
        self._domains = domains
        self._uuid = uuid
        self._steering = steering
        self._stop = stop
        self._over = threading.Event()
        self._call = _Call()
        self._trend = Trend()
        self._downtime_set = False
        self._why = ""
        self._first_abort: float | None = None
        self._abort_at = 0.0

    def run(self, order: Order, on_progress: OnProgress, keep_claim: KeepClaim) -> TransferEnd:
        """Run to the end; ``on_progress`` is told every sample, ``keep_claim`` is called at every turn.

        Whatever ``keep_claim`` raises ends the watching, not the migration. Raises NeedsPersonError when an order to
        cancel has no effect for ABORT_PATIENCE seconds.
        """
        threading.Thread(target=self._migrate, args=(order,), name=f"migrate {self._uuid}", daemon=True).start()
        last = self._watch(lambda: self._over.wait(POLL), on_progress, keep_claim)
        return TransferEnd(self._call.error, self._why, last)

    def follow(self, on_progress: OnProgress, keep_claim: KeepClaim) -> TransferEnd:
        """Watch a transfer that nobody's call waits for any more, until its host shows no job on the VM.

        Raises what ``run`` raises.
        """
        last = self._watch(self._shows_no_job, on_progress, keep_claim)
        return TransferEnd(None, self._why, last)

    def _shows_no_job(self) -> bool:
        # A host that cannot be asked shows none either: what that means is settled by asking both.
        if self._domains.sighting(self._uuid, timeout=STATS_TIMEOUT).job not in _OURS:
            return True
        time.sleep(POLL)
        return False

    def _watch(self, is_over: Callable[[], bool], on_progress: OnProgress, keep_claim: KeepClaim) -> Progress:
        begun = time.monotonic()
        last = Progress("starting", 0.0)
        while not is_over():
            keep_claim()
            progress = self._look(time.monotonic() - begun)
            if progress is not None:
                last = progress
                on_progress(progress)
            self._maybe_abort(time.monotonic() - begun)
        return last

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
        eta, sentence = outlook(progress, self._trend)
        return replace(progress, eta=eta, outlook=sentence, disk_rate=self._trend.disk_rate)

    def _set_downtime_once(self) -> None:
        if self._downtime_set:
            return
        try:
            self._domains.set_max_downtime(self._uuid, round(self._steering.max_downtime * 1000))
            self._downtime_set = True
        except (HypervisorError, HostUnreachableError):
            return  # the job is between two phases: at the next look

    def _maybe_abort(self, elapsed: float) -> None:
        self._why = self._why or self._reason_to_stop(elapsed)
        if not self._why or elapsed < self._abort_at:
            return
        self._first_abort = elapsed if self._first_abort is None else self._first_abort
        if elapsed - self._first_abort > ABORT_PATIENCE:
            raise NeedsPersonError(
                f"the order to cancel ({self._why}) had no effect for {format_duration(ABORT_PATIENCE)}",
                vm_state=f"{self._domains.host} still works on its migration, which may yet end either way",
                remedy=f"look at its QEMU and libvirt on {self._domains.host}",
            )
        self._abort_at = elapsed + ABORT_AGAIN
        try:
            self._domains.abort_job(self._uuid)
        except (HypervisorError, HostUnreachableError):
            return  # there is no job yet, or no more; ordered again while the call lasts

    def _reason_to_stop(self, elapsed: float) -> str:
        if self._stop.is_set():
            return "cancelled on request"
        if self._steering.deadline is not None and elapsed > self._steering.deadline:
            return f"not done within the deadline of {format_duration(self._steering.deadline)}"
        if elapsed - self._trend.improved_at > self._steering.no_progress:
            return f"came no nearer to its end for {format_duration(self._steering.no_progress)}"
        return ""
