"""The guest's way over: one libvirt migration, watched, and resumed where its post-copy was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.facts import probe_peer
from mudanza.journal.jobs import Job, JobHandle
from mudanza.migration.claim import cancelled_because, journalling_cancel, renewing
from mudanza.migration.live.recovery import Recovery, recover
from mudanza.migration.progress import FETCHING_MEMORY
from mudanza.migration.record import MoveRecord
from mudanza.migration.sighting import sight
from mudanza.migration.steering import Steering
from mudanza.migration.transfer import Order, Transfer, TransferEnd
from mudanza.migration.way import way_between
from mudanza.model.errors import HostUnreachableError, HypervisorError, NeedsPersonError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Progress, Sighting
from mudanza.model.policy import PostCopy
from mudanza.model.units import format_duration

OnProgress = Callable[[Progress], None]

INTERRUPTED = "post-copy interrupted"
"""The state of a job whose guest waits for its connection."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at an interrupted post-copy."""
RESUME_AGAIN = 5.0
"""Seconds between two tries to resume it."""
_XML = frozenset({"destination_xml", "persistent_xml"})
_POSTCOPY_ONLY = frozenset({"bandwidth.postcopy"})


class Passage:
    """One VM's way from its source to its target."""

    def __init__(
        self,
        connections: Connections,
        handle: JobHandle,
        record: MoveRecord,
        hosts: tuple[Host, Host],
        steering: Steering,
        recovery_limit: float,
        stop: clock.Event,
        on_progress: OnProgress,
        attend: Callable[[], None],
    ) -> None:
        """``recovery_limit``: seconds an interrupted post-copy is waited for, before the job is left to a person;
        ``attend``: see ``Transfer``."""
        self._connections = connections
        self._handle = handle
        self._record = record
        self._source, self._target = hosts
        self._steering = steering
        self._recovery_limit = recovery_limit
        self._stop = stop
        self._on_progress = on_progress
        self._attend = attend
        self._postcopy_at: float | None = None

    def go(self, order: Order) -> TransferEnd:
        """Migrate; returns when libvirt has nothing more to do with it, whatever came of it.

        Raises NeedsPersonError when an order to cancel goes unheeded, or an interrupted post-copy stays so.
        """
        end = self._transfer(order)
        if _refuses_postcopy(end):
            order = without_postcopy(order)
            end = self._transfer(order)
        return self._timed(self._recovered(order, end))

    def go_on(self, job: Job) -> TransferEnd | None:
        """Follow a transfer that libvirt carries on without us, until it is over; None where the source is silent."""
        try:
            transfer = self._new_transfer()
        except HostUnreachableError:
            return None  # settling asks again, and says what follows from it
        if decided := cancelled_because(job):
            transfer.cancel(decided)
        if ordered := job.steps_named("post-copy"):
            self._postcopy_at = clock.monotonic() - (job.read_at - ordered[0].at)
        end = transfer.follow(self._on_progress, renewing(self._handle, transfer.cancel, transfer.tune))
        order = order_on_record(job)
        return self._timed(self._recovered(order, end) if order is not None else end)

    def _timed(self, end: TransferEnd) -> TransferEnd:
        if self._postcopy_at is None:
            return end
        return replace(end, postcopy_time=clock.monotonic() - self._postcopy_at, postcopy_at=self._postcopy_at)

    def _new_transfer(self) -> Transfer:
        return Transfer(
            self._connections.domains(self._source.name),
            self._record.uuid,
            self._steering,
            way_between(self._connections, self._source, self._target),
            self._stop,
            journalling_cancel(self._handle),
            self._attend,
            self._note_postcopy,
        )

    def _note_postcopy(self, why: str) -> None:
        """Write down that the guest is to run at the target from now on, before that is ordered."""
        self._handle.note("post-copy", {"why": why}, {"decided": True})
        self._postcopy_at = clock.monotonic()

    def _transfer(self, order: Order) -> TransferEnd:
        # It may last for ever: whoever takes the job over sees it in libvirt.
        step = self._handle.intend("transfer", as_stored(order), lasts=0.0)
        self._handle.enter("transferring")
        transfer = self._new_transfer()
        self._handle.assert_held()
        end = transfer.run(order, self._on_progress, renewing(self._handle, transfer.cancel, transfer.tune))
        if isinstance(end.error, HostUnreachableError):
            # Only our way to the source broke, it seems: libvirt carries the transfer on without us.
            followed = transfer.follow(self._on_progress, renewing(self._handle, transfer.cancel, transfer.tune))
            end = replace(followed, error=end.error)
        self._handle.done(step, {"error": str(end.error or ""), "stopped": end.stopped_because})
        return end

    def _recovered(self, order: Order, end: TransferEnd) -> TransferEnd:
        """Return once the guest's memory is in one place again."""
        keep_claim, begun, tried = renewing(self._handle), clock.monotonic(), 0.0
        interrupted = False
        while (found := recover(*self._look())) is not Recovery.OVER:
            keep_claim()
            if not interrupted:
                self._handle.enter(INTERRUPTED)
                interrupted = True
            waited = clock.monotonic() - begun
            if waited > self._recovery_limit or self._stop.is_set():
                raise self._left_interrupted(waited)
            if found is Recovery.RESUME and clock.monotonic() - tried >= RESUME_AGAIN:
                tried = clock.monotonic()
                if (resumed := self._resume(order)) is not None:
                    end = resumed
                    continue
            self._on_progress(self._waiting(end.last, found))
            clock.sleep(LOOK_AGAIN)
        return end

    def _resume(self, order: Order) -> TransferEnd | None:
        """Have libvirt mend the connection; None where the source does not reach the target yet."""
        try:
            reach = probe_peer(self._connections.get(self._source.name), self._source, self._target)
        except (HostUnreachableError, HypervisorError):
            return None
        if reach.answer is not Answer.YES:
            return None
        return self._transfer(replace(order, flags=(*order.flags, "POSTCOPY_RESUME")))

    def _look(self) -> tuple[Sighting, Sighting]:
        here, there = (sight(self._connections, host.name, self._record.uuid) for host in (self._source, self._target))
        return here, there

    def _waiting(self, last: Progress, found: Recovery) -> Progress:
        why = (
            f"its connection broke; it goes on as soon as {self._source.name} reaches {self._target.name} again"
            if found is Recovery.RESUME
            else "libvirt still works on it, or does not answer"
        )
        return replace(
            last, phase=FETCHING_MEMORY, postcopy=True, memory_rate=0.0, eta=None, outlook=f"post-copy waits: {why}"
        )

    def _left_interrupted(self, waited: float) -> NeedsPersonError:
        record, job = self._record, self._handle.id
        return NeedsPersonError(
            f"VM {record.name!r}: its memory is on two hosts, and its connection has been broken for "
            f"{format_duration(waited)}",
            vm_state=f"it waits on {record.target} for pages that {record.source} has; nothing is lost as long as "
            "both live: end neither of them, restart neither host",
            remedy=f"mend the way from {record.source} to {record.target}, then: mudanza job resume {job}",
        )


def without_postcopy(order: Order) -> Order:
    """Return the same call where post-copy cannot be."""
    return replace(
        order,
        flags=tuple(flag for flag in order.flags if flag != "POSTCOPY"),
        parameters={name: value for name, value in order.parameters.items() if name not in _POSTCOPY_ONLY},
    )


def _refuses_postcopy(end: TransferEnd) -> bool:
    """Whether a host has said, before anything was sent, that it cannot do post-copy."""
    words = str(end.error or "").lower()
    return bool(end.error) and not end.last.memory_sent and ("postcopy" in words or "post-copy" in words)


def as_stored(order: Order) -> Mapping[str, Any]:
    """Return a call as the journal keeps it: without the definitions, which the record has."""
    plain = {name: value for name, value in order.parameters.items() if name not in _XML}
    return {"flags": list(order.flags), "peer": order.peer_uri, "parameters": plain}


def order_on_record(job: Job) -> Order | None:
    """Return the call with which an interrupted post-copy can be resumed; None where there was no post-copy."""
    transfers = job.steps_named("transfer")
    if not transfers or "POSTCOPY" not in transfers[-1].intent["flags"]:
        return None
    made = transfers[-1].intent
    flags = tuple(flag for flag in made["flags"] if flag != "POSTCOPY_RESUME")
    return Order(made["peer"], made.get("parameters", {}), flags)


def allowed_postcopy(asked: PostCopy, *, was_paused: bool, excluded: bool = False) -> PostCopy:
    """Return whether post-copy is prepared for: libvirt refuses it for guests that stay paused. ``excluded``: by the
    connections that memory goes by."""
    return PostCopy.NEVER if was_paused or excluded else asked
