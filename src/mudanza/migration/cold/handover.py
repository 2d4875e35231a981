"""Handing a switched-off VM over: its definition appears at the target, then goes from the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.tpm_carrier import CARRYING_LIMIT, carry_tpm, end_tpm_carrier
from mudanza.journal.jobs import LONG_LOOK, LONGEST_CALL, Job, JobHandle, Step
from mudanza.migration.history_keeper import HistoryKeeper
from mudanza.migration.record import ColdRecord
from mudanza.migration.secrets import same_but_for_secrets, with_secrets_of
from mudanza.migration.sighting import UNSEEN_PATIENCE, sight
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError, NeedsPersonError
from mudanza.model.host import Host
from mudanza.model.migration import Side, Sighting

LOOK_AGAIN = 0.3
"""Seconds between two such questions."""


class ChangedError(MigrationFailedError):
    """The VM is no longer the one that was decided upon: that has to be done anew."""


class HandOver:
    """The journalled steps by which a VM changes its host. Each one can be repeated."""

    def __init__(
        self, connections: Connections, handle: JobHandle, record: ColdRecord, mark: Callable[[str], str] = str
    ) -> None:
        """``mark``: what the definition gets besides where the VM goes."""
        self._mark = mark
        self._connections = connections
        self._handle = handle
        self._record = record
        self._history = HistoryKeeper(connections, handle, record)
        self.lost: tuple[str, ...] = ()
        """What of its history did not come along, in words."""

    def look(self) -> tuple[Sighting, Sighting]:
        """Ask both hosts, for UNSEEN_PATIENCE where one does not answer. Raises LeaseLostError."""
        until = clock.monotonic() + UNSEEN_PATIENCE
        self._handle.renew()
        while True:
            source, target = self.sighting(self._record.source), self.sighting(self._record.target)
            if Side.UNSEEN not in (source.side, target.side) or clock.monotonic() > until:
                return source, target
            self._handle.keep()
            clock.sleep(LOOK_AGAIN)

    def sighting(self, host: str) -> Sighting:
        """Return what one host says of the VM."""
        return sight(self._connections, host, self._record.uuid)

    def define(self) -> None:
        """Make the VM known at the target, without autostart."""
        record = self._record
        source, target = (self._connections.domains(name) for name in (record.source, record.target))
        xml = self._mark(with_secrets_of(record.target_xml, source.describe(record.uuid, inactive=True)))
        self._step("define", {"host": record.target}, lambda: target.define(xml))

    def complete(self, job: Job, there: Host) -> None:
        """Bring to the target what only a VM known there can have: its snapshots' records and its TPM's state, and
        saved memory that is restored with the disks and cards it has there."""
        record = self._record
        self.lost += self._history.put_back(job, record.target)
        if record.saved_xml is not None and not _since_defined(job, "define saved"):
            before, domains = (self._connections.domains(name) for name in (record.source, record.target))
            saved = with_secrets_of(record.saved_xml, before.saved_definition(record.uuid))
            self._step("define saved", {"host": record.target}, lambda: domains.define_saved(record.uuid, saved))
        if record.has_tpm and not _since_defined(job, "carry TPM"):
            source, target = (self._connections.get(name) for name in (record.source, record.target))
            try:
                self._step(
                    "carry TPM",
                    {"uuid": record.uuid},
                    lambda: carry_tpm(source, target, there, record.uuid, record.xml, tls=record.tls),
                    lasts=CARRYING_LIMIT,
                )
            finally:
                self.end_tpm_carriers()

    def end_tpm_carriers(self) -> None:
        """End what carries the TPM's state, wherever a controller that died has left it."""
        if self._record.has_tpm:
            for name in (self._record.source, self._record.target):
                end_tpm_carrier(self._connections.get(name), self._record.uuid)

    def remember(self) -> None:
        """Write down what the source's libvirt knows of the VM's snapshots and checkpoints."""
        self._history.remember(self._record.nics)

    def take_back(self) -> None:
        """Have the target forget the VM; its files stay, except for saved memory, without which libvirt keeps it."""
        record = self._record
        if self.sighting(record.target).side is Side.ABSENT:
            return
        target = self._connections.domains(record.target)

        def forget() -> None:
            target.undefine(record.uuid, with_snapshots=True, with_saved_memory=True)

        self._step("take back", {"host": record.target}, forget)

    def refuse_changed(self) -> None:
        """Raise ChangedError when the source's definition is not the one any more that was decided upon."""
        record = self._record
        now = self._connections.domains(record.source).describe(record.uuid, inactive=True)
        if not same_but_for_secrets(now, record.xml):
            raise ChangedError(f"its definition at {record.source} has changed since that was decided")

    def last_look(self, unchanged: Callable[[], str]) -> None:
        """Look once more whether the source's is what was copied, before anything rests on the target's.

        ``unchanged`` returns in words what has changed there since it was copied; empty for nothing.
        Raises MigrationFailedError, ChangedError.
        """
        source = self._record.source
        self._handle.renew(LONG_LOOK)
        self.refuse_changed()
        if changed := unchanged():
            raise MigrationFailedError(f"it has changed at {source} while it was copied: {changed}")
        seen = self.sighting(source)  # last of all: the next thing may be to start it at the target
        if seen.side is not Side.PRESENT or seen.state.active:
            raise MigrationFailedError(f"it is not shut off at {source} any more: {_words(seen)}")

    def disarm(self) -> None:
        """Have the source not start it by itself while the target does."""
        record = self._record
        if record.autostart:
            source = self._connections.domains(record.source)
            self._step("disarm", {"host": record.source}, lambda: source.set_autostart(record.uuid, False))

    def rearm(self, job: Job) -> None:
        """Undo that where the VM stays."""
        record = self._record
        if job.steps_named("disarm") and self.sighting(record.source).side is Side.PRESENT:
            source = self._connections.domains(record.source)
            self._step("rearm", {"host": record.source}, lambda: source.set_autostart(record.uuid, True))

    def release(self) -> None:
        """Have the source forget the VM, or with ``keep_source`` not start it by itself any more.

        UEFI variables and the TPM's state go there with it, so that it is the last thing, after the VM has started
        at the target. Raises NeedsPersonError when it is not off at the source.
        """
        record = self._record
        seen = self.sighting(record.source)
        if seen.side is Side.ABSENT:
            return
        if seen.side is Side.UNSEEN or seen.state.active:
            raise NeedsPersonError(
                f"VM {record.name!r} was handed over to {record.target}, and at {record.source} it is {_words(seen)}",
                remedy="shut it down on one of them at once",
            )
        source = self._connections.domains(record.source)

        def let_go() -> None:
            if record.keep_source:
                source.set_autostart(record.uuid, False)
            else:
                source.undefine(record.uuid, keep_nvram=False, with_snapshots=True, with_saved_memory=True)

        self._step("release source", {"host": record.source, "keep": record.keep_source}, let_go)

    def restore_autostart(self) -> tuple[str, ...]:
        """Have the target start it by itself if the source did; return a warning where that fails."""
        record = self._record
        if not record.autostart:
            return ()
        target = self._connections.domains(record.target)
        try:
            self._step("autostart", {"host": record.target}, lambda: target.set_autostart(record.uuid, True))
        except (HypervisorError, HostUnreachableError) as error:
            return (f"autostart could not be set on {record.target}: {error}",)
        return ()

    def start(self, host: str) -> None:
        """Start it there. Raises HypervisorError, HostUnreachableError."""
        if self.sighting(host).state.active:
            return
        self._step("start", {"host": host}, lambda: self._connections.domains(host).start(self._record.uuid))

    def _step(
        self, name: str, intent: Mapping[str, object], act: Callable[[], object], lasts: float = LONGEST_CALL
    ) -> None:
        self._handle.perform(name, intent, act, lasts=lasts)


def comparison_of(job: Job) -> Mapping[str, Any] | None:
    """Return what the journal says of both hosts' files being the same, None where it does not say so.

    What was found before the VM was decided about anew, or shut down, or taken back, counts no more; where taking it
    back failed, it is as it was.
    """
    found: Mapping[str, Any] | None = None
    for step in job.steps:
        if step.name in ("decide", "shut down") or _is_taken_back(step):
            found = None
        elif step.name == "compare" and step.outcome is not None and "same" in step.outcome:
            found = step.outcome
    return found


def _since_defined(job: Job, name: str) -> bool:
    """Whether a step was done since the VM was made known at the target."""
    done = False
    for step in job.steps:
        if step.name == "define":
            done = False
        elif step.name == name and step.outcome is not None and step.outcome.get("done"):
            done = True
    return done


def was_defined(job: Job) -> bool:
    """Whether our definition was brought to the target, or was about to be, and was not taken back since."""
    defined = False
    for step in job.steps:
        if step.name == "define":
            defined = True
        elif _is_taken_back(step):
            defined = False
    return defined


def _is_taken_back(step: Step) -> bool:
    return step.name == "take back" and step.outcome is not None and bool(step.outcome.get("done"))


def _words(seen: Sighting) -> str:
    return f"{seen.state} ({seen.reason})" if seen.side is Side.PRESENT else seen.reason or "unknown there"
