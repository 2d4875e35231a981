"""A job's claim on its VM, in the VM's own metadata: what keeps controllers without a common database apart.

It is taken before anything of the VM is touched, counts up while its holder lives, goes where the VM goes, and is
taken away when the job ends. libvirt cannot compare and write in one step, but each journal's claim has a place of its
own: who wants the VM writes its claim, then reads all of them, and goes on only if there is no other. Of two that try
at once at least one sees the other's, whatever the time between its steps, and steps back.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.xml.claims import with_claim
from mudanza.journal.jobs import Job, JobHandle, Jobs
from mudanza.migration.claim import keeping
from mudanza.model.claim import Claim
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    NeedsPersonError,
)
from mudanza.model.migration import Side

TRIES = 4
"""How often a claim is tried while others try at the same time."""
STEP_BACK = 1.0
"""The most seconds for which one that met another waits before it tries again; how long exactly is left to chance."""
BEAT = 10.0
"""Seconds between two signs of life."""
BEAT_TIMEOUT = 3.0
"""Seconds that one may take; the next one may get through."""
WATCH = 25.0
"""Seconds a claim must have shown no sign of life before it may be taken over: two and a half beats."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at a claim that is watched."""

TAKE = "claim"
RELEASE = "release claim"
ADOPT = "adopt"
NOTED = {"shut down": "off", "compare": "same", "define": "done", "set history aside": "done"}
"""Steps that the claim notes, each with what its outcome says if it was done."""
_DEFINITIONS = frozenset({"xml", "inactive_xml", "target_xml", "saved_xml", "warnings"})


class ClaimLostError(NeedsPersonError):
    """The VM does not carry this job's claim any more: somebody else may be working on it."""


class ClaimRefusedError(BlockedError):
    """The VM is somebody else's, or not any more what was decided upon; the job has ended, and nothing was touched."""


class VmClaim:
    """One job's claim on its VM. As follower of the job's handle it keeps the claim in step with the journal."""

    def __init__(self, connections: Connections, jobs: Jobs, handle: JobHandle, record: Mapping[str, Any]) -> None:
        """``record``: what the job decided, as the journal has it."""
        job = jobs.get(handle.id)
        self._connections = connections
        self._jobs = jobs
        self._handle = handle
        self._uuid, self._name, self._report = job.vm_uuid, job.vm_name, job.report
        self._hosts = tuple(dict.fromkeys((job.source, job.target)))
        self._keys = {(jobs.journal, job.id), *_adopted(job)}
        self._beaten_at = clock.monotonic()
        self._quiet = False
        self._held = False
        self._claim = Claim(
            journal=jobs.journal,
            job=job.id,
            epoch=handle.epoch,
            controller=job.asked_by,
            kind=job.kind,
            source=job.source,
            target=job.target,
            since=datetime.fromtimestamp(clock.time(), UTC).isoformat(timespec="seconds"),
            record=json.dumps(bare(record), ensure_ascii=False),
        )
        for step in job.steps:
            self._claim = _noted(self._claim, step.name, step.intent, step.outcome or {})
        handle.follower = self

    def take(self, look_again: Callable[[], None] = lambda: None, *, over: Claim | None = None) -> None:
        """Claim the VM; nothing of it may be touched before. ``over``: a claim that may be taken over.

        ``look_again`` is called once it is claimed, and raises BlockedError where the VM is not any more what was
        decided upon. Raises ClaimRefusedError, the job being closed; MigrationFailedError, HypervisorError and
        HostUnreachableError where it could not be claimed, without the claim.
        """
        try:
            self._take(look_again, over)
        except BlockedError as error:
            # What an earlier try of the same job has left is left still.
            self._handle.finish("refused", str(error), error.exit_code, self._report, error)
            raise ClaimRefusedError(str(error), findings=error.findings, remedy=error.remedy) from error

    def _take(self, look_again: Callable[[], None] = lambda: None, over: Claim | None = None) -> None:
        step = self._handle.intend(TAKE, {"claim": self._claim.name, "over": over.name if over else ""})
        try:
            host = self._win(over)
            if host is not None:
                look_again()
        except (BlockedError, MigrationFailedError, HypervisorError, HostUnreachableError) as error:
            self._handle.done(step, {"error": str(error)})
            if self._held or not isinstance(error, BlockedError):  # a call that failed may have had its effect
                self.release()
            raise
        self._handle.done(step, {"done": True, "host": host} if host is not None else {"found": "no such VM"})

    def _win(self, over: Claim | None) -> str | None:
        host = self._place()
        if host is None:
            return None
        domains = self._connections.domains(host)
        if over is not None:
            await_silence(domains, self._uuid, over, self._handle.renew)
            self._claim = replace(self._claim, took=over.id)
        for _ in range(TRIES):
            if others := self._others(domains, over):
                raise self._claimed_by(others[0])
            domains.set_claim(self._uuid, self._claim)
            if not self._others(domains, over):
                self._held = True
                if over is not None:
                    domains.drop_claim(self._uuid, over.journal)
                return host
            domains.drop_claim(self._uuid, self._claim.journal)
            clock.sleep(STEP_BACK * secrets.randbelow(1000) / 1000)
        raise self._claimed_by(None)

    def _others(self, domains: Domains, over: Claim | None) -> tuple[Claim, ...]:
        """Return the claims on the VM that are in our way."""
        ours = self._keys if over is None else self._keys | {over.key}
        found = domains.claims(self._uuid)
        return tuple(claim for claim in found if claim.key not in ours and not is_void(self._jobs, claim))

    def _claimed_by(self, other: Claim | None) -> BlockedError:
        who = other.in_words if other is not None else "others try to get it at the same time"
        return BlockedError(
            f"VM {self._name!r} is claimed by somebody else: {who}",
            remedy="nothing was touched; wait until that job has ended (mudanza vms shows the claim); if its "
            "controller is gone for good: mudanza rebuild",
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Claim the VM while the block cleans up after a job that had ended.

        Raises BlockedError when it is somebody else's now; HypervisorError, HostUnreachableError.
        """
        self._take()
        try:
            yield
        finally:
            self.release()

    def look_after(self) -> None:
        """Make sure of a claim whose job an earlier controller left behind, and take it where it had not got to that.

        Where it cannot be taken, the job is settled all the same: it was begun before there were claims, or nothing
        was done yet. Raises ClaimLostError.
        """
        self.confirm()
        if self._expected():
            self._held = True
            return
        try:
            self._take()
        except BlockedError as error:
            raise ClaimLostError(str(error), remedy=error.remedy) from error
        except (MigrationFailedError, HypervisorError, HostUnreachableError):
            return

    def confirm(self) -> None:
        """Look whether the VM is still ours to act upon, before what cannot be undone. Raises ClaimLostError.

        Each copy that a host lists must carry the claim: one that does not was defined anew, or is another VM of the
        same UUID. A host that does not answer says nothing of claims: who acts there finds out by other means.
        """
        expected = self._expected()
        for host in self._hosts:
            try:
                with keeping(self._handle):  # a host that hangs may take longer than the lease
                    claims = self._connections.domains(host).claims(self._uuid)
            except (HypervisorError, HostUnreachableError):
                continue
            self._refuse_taken_over(host, claims)
            if expected and not self._ours(claims):
                who = claims[0].in_words if claims else "it was defined anew, or is another VM of the same UUID"
                raise self._lost(f"on {host} it does not carry that job's claim: {who}")

    def confirm_at(self, host: str) -> None:
        """Look whether a host still has the VM with our claim, before it is made known elsewhere.

        Raises ClaimLostError; HypervisorError, HostUnreachableError where the host does not say.
        """
        domains = self._connections.domains(host)
        seen = domains.sighting(self._uuid)
        if seen.side is Side.UNSEEN:
            raise HostUnreachableError(host, seen.reason)
        claims = domains.claims(self._uuid) if seen.side is Side.PRESENT else ()
        self._refuse_taken_over(host, claims)
        if self._expected() and not self._ours(claims):
            who = claims[0].in_words if claims else "it does not carry that job's claim, or is not there any more"
            raise self._lost(f"on {host}, {who}")

    def _refuse_taken_over(self, host: str, claims: tuple[Claim, ...]) -> None:
        ids = {f"{journal}-{job}" for journal, job in self._keys}
        for claim in claims:
            if claim.took in ids and claim.key not in self._keys:
                raise self._lost(f"on {host}, {claim.in_words}, having taken it over")

    def _ours(self, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
        return tuple(claim for claim in claims if claim.key in self._keys)

    def _lost(self, why: str) -> ClaimLostError:
        job = self._handle.id
        return ClaimLostError(
            f"VM {self._name!r} is not job {job}'s any more: {why}",
            vm_state="nothing more was done; somebody may have taken it over",
            remedy=f"find out who works on it (mudanza vms); then, if it is in order: mudanza job close {job}",
        )

    def _expected(self) -> bool:
        """Whether the journal says that the VM carries the claim."""
        expected = False
        for step in self._jobs.get(self._handle.id).steps:
            if step.name == TAKE and step.outcome is not None and step.outcome.get("done"):
                expected = True
            elif step.name == RELEASE:
                expected = False
        return expected

    def release(self) -> tuple[str, ...]:
        """Take the claim off the VM wherever it is; return a warning for each host where that failed. Repeatable."""
        self._held = False
        step = self._handle.intend(RELEASE, {"claim": self._claim.name})
        failures: dict[str, str] = {}
        for host in self._hosts:
            try:
                domains = self._connections.domains(host)
                seen = domains.sighting(self._uuid)
                if seen.side is Side.PRESENT and (seen.job or "").startswith("migration"):
                    failures[host] = "libvirt still migrates it"
                elif seen.side is Side.PRESENT:
                    self._take_off(domains)
            except (HypervisorError, HostUnreachableError) as error:
                failures[host] = str(error)
        self._handle.done(step, {"error": failures} if failures else {"done": True})
        return tuple(
            f"this job's claim could not be taken off the VM at {host}, where other controllers will heed it: {why}; "
            f"once it answers: mudanza rebuild"
            for host, why in failures.items()
        )

    def _take_off(self, domains: Domains) -> None:
        for claim in self._ours(domains.claims(self._uuid)):
            domains.drop_claim(self._uuid, claim.journal)

    def on(self, definition: str) -> str:
        """Return a definition with the claim, for where the VM goes."""
        return with_claim(definition, self._claim)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Show no sign of life while the block runs: libvirt refuses it, and its own job is one for all to see."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def renewed(self) -> None:
        """Show a sign of life, where it is time. Raises ClaimLostError when somebody has taken the VM over."""
        if self._held and not self._quiet and clock.monotonic() - self._beaten_at >= BEAT:
            self._write()

    def done(self, name: str, intent: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        """Note what was made at the target, and how far the job has come, for whoever finds the claim without its
        journal."""
        self._note(_noted(self._claim, name, intent, outcome))

    def _note(self, claim: Claim) -> None:
        if claim == self._claim:
            return
        self._claim = claim
        if self._held and not self._quiet:
            self._write()

    def _write(self) -> None:
        self._beaten_at = clock.monotonic()
        self._claim = replace(self._claim, beat=self._claim.beat + 1)
        for host in self._hosts:
            # Not there, or busy, or silent: one sign of life less, which nobody acts upon.
            with suppress(HypervisorError, HostUnreachableError):
                domains = self._connections.domains(host)
                claims = domains.claims(self._uuid, timeout=BEAT_TIMEOUT)
                self._refuse_taken_over(host, claims)
                if self._ours(claims):
                    domains.set_claim(self._uuid, self._claim, timeout=BEAT_TIMEOUT)

    def _place(self) -> str | None:
        for host in self._hosts:
            seen = self._connections.domains(host).sighting(self._uuid)
            if seen.side is Side.UNSEEN:
                raise HostUnreachableError(host, seen.reason)
            if seen.side is Side.PRESENT:
                return host
        return None


def is_void(jobs: Jobs, claim: Claim) -> bool:
    """Whether a claim means nothing any more: this journal knows its job, and that has ended."""
    if claim.journal != jobs.journal:
        return False
    job = jobs.find(claim.job)
    return job is not None and job.ended_at is not None


def in_the_way(jobs: Jobs, claims: Iterable[Claim]) -> Claim | None:
    """Return a claim that forbids this journal to work on the VM: neither a void one, nor one of a job of its own."""
    found = (claim for claim in claims if claim.journal != jobs.journal or jobs.find(claim.job) is None)
    return next(found, None)


def await_silence(domains: Domains, uuid: str, claim: Claim, turn: Callable[[], None]) -> None:
    """Watch a claim for WATCH seconds, calling ``turn`` over and over. Raises BlockedError when its holder shows a sign
    of life.

    It does when the claim changes, or libvirt works on the VM: during a migration no claim can be written. Raises
    HypervisorError, HostUnreachableError.
    """
    before, until = domains.claims(uuid), clock.monotonic() + WATCH
    while True:
        turn()
        job = domains.sighting(uuid).job
        if domains.claims(uuid) != before or job is not None:
            sign = f"libvirt works on it ({job})" if job is not None else "its claim has changed just now"
            raise BlockedError(
                f"claim {claim.name} is not taken over, for its holder seems to live: {sign}",
                remedy=f"nothing was touched; ask {claim.controller or 'its holder'}, and wait for the end of that job",
            )
        if clock.monotonic() >= until:
            return
        clock.sleep(LOOK_AGAIN)


def bare(record: Any) -> Any:
    """Return a record without definitions, which may hold passwords and which the VM carries anyway."""
    if isinstance(record, Mapping):
        return {key: bare(value) for key, value in record.items() if key not in _DEFINITIONS}
    return [bare(each) for each in record] if isinstance(record, list | tuple) else record


def _noted(claim: Claim, name: str, intent: Mapping[str, Any], outcome: Mapping[str, Any]) -> Claim:
    """Return a claim that knows of one more step."""
    path = str(intent.get("path", ""))
    if name == "create volume" and "made" in outcome:
        return replace(claim, made=tuple(dict.fromkeys((*claim.made, path))))
    if name == "delete volume" and outcome.get("done"):
        return replace(claim, made=tuple(each for each in claim.made if each != path))
    if NOTED.get(name) in outcome:
        return replace(claim, done=tuple(dict.fromkeys((*claim.done, name))))
    return claim


def _adopted(job: Job) -> Iterator[tuple[str, int]]:
    for step in job.steps_named(ADOPT):
        yield str(step.intent["journal"]), int(step.intent["job"])
