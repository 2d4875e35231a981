"""After a transfer: ask both hosts where the VM is until they agree, and bring them in line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.jobs import JobHandle, Jobs
from mudanza.migration.record import MoveRecord
from mudanza.migration.residue import ran_there
from mudanza.migration.settle import (
    Act,
    Settlement,
    Verdict,
    handing_over,
    in_postcopy,
    runs_again,
    settle,
    waits_in_vain,
)
from mudanza.migration.sighting import UNSEEN_PATIENCE, in_words, sight
from mudanza.model.errors import HostUnreachableError, HypervisorError, NeedsPersonError
from mudanza.model.migration import Side, Sighting

LOOK_AGAIN = 0.2
"""Seconds between two questions to both hosts."""
LOST_AFTER = 20.0
"""Seconds for which a guest's memory must have seemed lost before its copy is ended. If the last page had come just
before the source's QEMU ended, libvirt would have said so by then."""


class Settler:
    """Settles where the VM of one job is. ``define_at_target`` makes it persistent there."""

    def __init__(
        self,
        connections: Connections,
        jobs: Jobs,
        handle: JobHandle,
        record: MoveRecord,
        define_at_target: Callable[[], object],
    ) -> None:
        self._connections = connections
        self._jobs = jobs
        self._handle = handle
        self._record = record
        self._define_at_target = define_at_target
        self._lost_since: float | None = None
        self.ran_there = ran_there(jobs.get(handle.id))
        """Whether the guest has run at the target, in post-copy."""

    def settle(self, limit: float, keep_claim: Callable[[], None]) -> Settlement:
        """Ask both hosts until they agree, and do what brings them in line.

        Raises NeedsPersonError when they do not within ``limit`` seconds, or leave no safe action.
        """
        begun = clock.monotonic()
        self._handle.enter("settling")
        while True:
            keep_claim()
            source, target = self.look()
            self._note_postcopy(source, target)
            found = self._judge(source, target)
            waited = clock.monotonic() - begun
            unclear = found.verdict is Verdict.WAIT or (
                Side.UNSEEN in (source.side, target.side) and waited < UNSEEN_PATIENCE
            )
            if not unclear and found.verdict is not Verdict.PERSON and not found.acts:
                return found
            if waited > limit or (found.verdict is Verdict.PERSON and not unclear):
                raise self._needs_person(found, source, target)
            if not unclear or Act.END_TARGET_QEMU in found.acts:
                self._carry_out(found)
            clock.sleep(LOOK_AGAIN)

    def look(self) -> tuple[Sighting, Sighting]:
        """Ask both hosts once. Where the target's libvirt is silent over the switchover, QEMU at the source is asked
        how its migration ended, and the target's kernel what is there."""
        source = sight(self._connections, self._record.source, self._record.uuid)
        target = sight(self._connections, self._record.target, self._record.uuid)
        if target.side is Side.UNSEEN and runs_again(source):
            source = replace(source, kept=self._gave_up())
        if target.side is Side.UNSEEN and handing_over(source) and not self._postcopy_ordered():
            processes = self._connections.processes(self._record.target)
            target = replace(target, qemu=processes.look(self._record.uuid))
        return source, target

    def _gave_up(self) -> bool:
        """Whether QEMU at the source says that it gave the migration up; what cannot be asked is not known."""
        try:
            return self._connections.domains(self._record.source).gave_up(self._record.uuid)
        except (HypervisorError, HostUnreachableError):
            return False

    def _postcopy_ordered(self) -> bool:
        """In post-copy a guest that runs at the target still needs the source's copy, whatever that is called yet."""
        return bool(self._jobs.get(self._handle.id).steps_named("post-copy"))

    def end_what_is_in_vain(self) -> None:
        """End the copy that libvirt waits for in vain.

        The source's, where the VM runs at the target already and libvirt does not get to hear it; the target's, where
        the source's QEMU has ended with the rest of its memory.
        """
        source, target = self.look()
        if waits_in_vain(source, target):
            why = "it runs at the target, and libvirt at the source waits in vain to hear so"
            self._carry_out(Settlement(Verdict.MOVED, why, (Act.DROP_SOURCE_COPY,)))
            return
        self._note_postcopy(source, target)
        if in_postcopy(source, target) and (found := self._judge(source, target)).verdict is Verdict.DOWN_THERE:
            self._carry_out(found)

    def _judge(self, source: Sighting, target: Sighting) -> Settlement:
        found = settle(source, target, was_paused=self._record.was_paused, ran_there=self.ran_there)
        if Act.END_TARGET_REST not in found.acts:
            self._lost_since = None
            return found
        self._lost_since = self._lost_since or clock.monotonic()
        if clock.monotonic() - self._lost_since < LOST_AFTER:
            return Settlement(Verdict.WAIT, found.why)
        return found

    def _note_postcopy(self, source: Sighting, target: Sighting) -> None:
        """Write down that the guest has run at the target, once either host says so; and make sure that it stays
        defined there, should its QEMU end: its newest disks are the target's from now on."""
        if self.ran_there or not in_postcopy(source, target):
            return
        self._handle.note("post-copy", {"why": "a host says so"}, {"runs there": True})
        self.ran_there = True
        self._define_at_target()

    def _carry_out(self, found: Settlement) -> None:
        """Do what the verdict asks for, up to the first thing that fails: then both hosts must be asked again."""
        for act in found.acts:
            try:
                self._handle.perform("settle", {"act": act.value, "why": found.why}, self._doing(act))
            except (HypervisorError, HostUnreachableError):
                return

    def _doing(self, act: Act) -> Callable[[], None]:
        """Return what does it. Raises HostUnreachableError where that needs a connection and there is none."""
        record = self._record
        if act is Act.END_TARGET_QEMU:
            return partial(self._connections.processes(record.target).end, record.uuid)
        domains = self._connections.domains
        match act:
            case Act.DROP_SOURCE_COPY:
                return partial(domains(record.source).destroy, record.uuid)
            case Act.RESUME_SOURCE:
                return partial(domains(record.source).resume, record.uuid)
            case Act.RESUME_TARGET:
                return partial(domains(record.target).resume, record.uuid)
            case Act.END_TARGET_COPY:
                return partial(domains(record.target).destroy, record.uuid)
            case Act.END_TARGET_REST:
                return partial(domains(record.target).end_stranded, record.uuid)

    def _needs_person(self, found: Settlement, source: Sighting, target: Sighting) -> NeedsPersonError:
        record = self._record
        return NeedsPersonError(
            f"VM {record.name!r}: {found.why}",
            vm_state=(
                f"{record.source} says: {in_words(source)}; {record.target} says: {in_words(target)}. "
                f"What was done about it: mudanza job show {self._handle.id}."
            ),
            remedy=(
                f"look at both hosts (virsh domstate --reason {record.uuid}), "
                f"then: mudanza job resume {self._handle.id}"
            ),
        )
