"""VMs whose rounds are made at one instant: a consistency group.

Their guests stand still together, for a moment: each one's instant lies where all of them do, so that no disk shows
what came of something that another one does not show yet. Their points are written down together, or none of them.

A controller may die in that moment. So a *guardian* at each host lets the guest go on by itself, unless it is called
off before; and who has waited too long for the others lets its own guest go on, and the round is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Protocol

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.shell import HostShell
from mudanza.journal.jobs import Job, JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.migration import Side
from mudanza.model.protection import Protection, RestorePoint
from mudanza.model.vm import Vm, VmState
from mudanza.protection import scripts
from mudanza.protection.freezing import FREEZING, Quiet, frozen

GETTING_READY = 600.0
"""Seconds until all members of a group must be ready for their instant: each may have points to thin before."""
STILL = 10.0
"""Seconds that guests stand still at the most, from when all are ready; as a rule it is less than one."""
GUARDED = STILL + 5.0
"""Seconds after which a guardian lets a guest go on that nobody has let go on."""
CARRYING = 86400.0
"""Seconds until all members must have brought what is new; each of them gives up much sooner by itself."""
LOOK_AGAIN = 1.0
"""Seconds between two looks whether the others are there; whoever comes tells at once."""
READY, FROZEN, STANDING, KEPT, CARRIED = "ready", "frozen", "standing still", "kept", "carried"


class FellOutError(MigrationFailedError):
    """Another one of the group has fallen out, or all of them were not in time."""


class Company(Protocol):
    """Beside whom a round is made."""

    def instant(
        self, handle: JobHandle, protection: Protection, vm: Vm, here: HostShell
    ) -> AbstractContextManager[Quiet]:
        """Return what the instant is taken in; ``protection``: as it was before this round; ``here``: a shell at the
        VM's host."""

    def keep(self, store: Protections, number: int, point: RestorePoint, checkpoint: str) -> None:
        """Write a restore point down that is whole; see ``Protections.add_point``."""


class Alone:
    """A round of one VM, whose guest need not stand still."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def instant(
        self, handle: JobHandle, protection: Protection, vm: Vm, here: HostShell
    ) -> AbstractContextManager[Quiet]:
        """Return nothing special, or have the guest's file systems frozen."""
        if not protection.is_to_be_frozen or not vm.state.active:
            return nullcontext(Quiet())
        return frozen(handle, self._connections.domains(vm.host), vm, here)

    def keep(self, store: Protections, number: int, point: RestorePoint, checkpoint: str) -> None:
        """Write it down."""
        store.add_points({number: (point, checkpoint)})


class Meeting:
    """Where several threads wait for each other, stage by stage, until one of them falls out."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._changed = clock.new_condition()
        self._there: dict[str, int] = {}
        self._why = ""

    def meet(self, stage: str, until: float) -> None:
        """Wait until all are at this stage; ``until``: by the monotonic clock. Raises FellOutError where one has
        fallen out, or not come by then."""
        with self._changed:
            self._there[stage] = self._there.get(stage, 0) + 1
            self._changed.notify_all()
            while not self._why and self._there[stage] < self._members:
                left = until - clock.monotonic()
                if left <= 0:
                    self._why = f"not all of them were {stage} in time"
                    self._changed.notify_all()
                    break
                self._changed.wait(min(left, LOOK_AGAIN))
            if self._why:
                raise FellOutError(f"no round of its group: {self._why}")

    def fall_out(self, why: str) -> None:
        """Have all others give up, too; the first reason counts."""
        with self._changed:
            self._why = self._why or why
            self._changed.notify_all()


class Together:
    """A round of several VMs at one instant. Each of them is made in a thread of its own."""

    def __init__(self, connections: Connections, members: Sequence[Protection], instant: str) -> None:
        """``instant``: what their points have in common, and no others."""
        self._connections = connections
        self._entries = {entry.name: entry for entry in connections.entries}
        self._members = [member.id for member in members]
        self._is_to_be_frozen = any(member.is_to_be_frozen for member in members)
        self._meeting = Meeting(len(members))
        self._instant = instant
        self._points: dict[int, tuple[RestorePoint, str]] = {}
        self._lock = clock.new_condition()

    def make(self, name: str, round_of_one: Callable[[], RestorePoint]) -> RestorePoint:
        """Make one member's round; where it fails, so do the others'. Raises what it raises."""
        try:
            return round_of_one()
        except BaseException as error:
            self._meeting.fall_out(f"{name}: {error}")
            raise

    @contextmanager
    def instant(self, handle: JobHandle, _protection: Protection, vm: Vm, _here: HostShell) -> Iterator[Quiet]:
        """Have all guests stand still for as long as the block runs, and the others' as well; before that, if it is
        their turn, have the file systems of all of them frozen."""
        with HostShell(self._entries[vm.host]) as here:
            self._meeting.meet(READY, clock.monotonic() + GETTING_READY)
            with self._frozen(handle, vm, here) as quiet:
                until = clock.monotonic() + STILL
                with self._standing_still(handle, vm, here):
                    self._meeting.meet(STANDING, until)
                    yield quiet
                    _assert_still(self._connections.domains(vm.host), vm)
                    self._meeting.meet(KEPT, until)

    @contextmanager
    def _frozen(self, handle: JobHandle, vm: Vm, here: HostShell) -> Iterator[Quiet]:
        if not self._is_to_be_frozen:
            yield Quiet()
            return
        until = clock.monotonic() + FREEZING + 5 * LOOK_AGAIN
        with frozen(handle, self._connections.domains(vm.host), vm, here) as quiet:
            self._meeting.meet(FROZEN, until)
            yield quiet

    @contextmanager
    def _standing_still(self, handle: JobHandle, vm: Vm, here: HostShell) -> Iterator[None]:
        if vm.state is not VmState.RUNNING:  # it stands still already, and is to go on doing so
            yield
            return
        domains = self._connections.domains(vm.host)
        [[_, guardian]] = here.run(scripts.GUARD, {"uuid": vm.uuid, "limit": GUARDED}, what="setting a guardian")
        begun = clock.monotonic()
        try:
            handle.perform("pause", {"host": vm.host, "guardian": guardian}, lambda: domains.suspend(vm.uuid))
            yield
        finally:
            go_on(handle, domains, vm.uuid)
            handle.note("stood still", {"host": vm.host}, {"seconds": round(clock.monotonic() - begun, 3)})
            with suppress(HypervisorError, HostUnreachableError, MigrationFailedError):  # then it finds it running
                here.run(scripts.CALL_OFF, {"guardian": guardian}, what="calling the guardian off")

    def keep(self, store: Protections, number: int, point: RestorePoint, checkpoint: str) -> None:
        """Write all members' points down at once, when the last one has come."""
        with self._lock:
            self._points[number] = (replace(point, instant=self._instant), checkpoint)
            if len(self._points) == len(self._members):
                oldest = min(each.taken_at for each, _ in self._points.values())
                store.add_points(
                    {member: (replace(each, taken_at=oldest), name) for member, (each, name) in self._points.items()}
                )
        self._meeting.meet(CARRIED, clock.monotonic() + CARRYING)


def go_on(handle: JobHandle, domains: Domains, uuid: str) -> None:
    """Let a guest go on that stands still because somebody said so. Raises HypervisorError, HostUnreachableError."""
    seen = domains.sighting(uuid)
    if seen.side is Side.PRESENT and (seen.state, seen.reason) == (VmState.PAUSED, "user"):
        handle.perform("go on", {"host": domains.host}, lambda: domains.resume(uuid))


def go_on_if_left(handle: JobHandle, domains: Domains, job: Job) -> None:
    """The same of a guest whose round was left behind by its controller; its guardian has done so, as a rule."""
    if job.steps_named("pause") and not job.steps_named("stood still"):
        go_on(handle, domains, job.vm_uuid)


def common_points(members: Sequence[Protection]) -> Mapping[str, int]:
    """Return the restore points of the newest instant that all members of a group have: VM's UUID → number; nothing
    where there is no such: pure."""
    of_each = [{point.instant: point for point in member.points if point.instant} for member in members]
    common = set.intersection(*(set(each) for each in of_each)) if of_each else set()
    if not common:
        return {}
    newest = max(common, key=lambda instant: of_each[0][instant].taken_at)
    return {member.vm_uuid: each[newest].number for member, each in zip(members, of_each, strict=True)}


def _assert_still(domains: Domains, vm: Vm) -> None:
    """Raise HypervisorError where a guest goes on already, by its guardian or whoever else."""
    seen = domains.sighting(vm.uuid)
    if seen.state is not VmState.PAUSED:
        raise HypervisorError(vm.host, f"VM {vm.name!r} did not stand still until its instant was kept")
