"""The guest's own file systems frozen around an instant, so that a restore point is application-consistent.

The guest's agent flushes what its applications and file systems hold back, and lets nobody write until it is told that
it is over. A controller may die before it tells that. So a *guardian* at the guest's host, begun before, thaws it by
itself unless it is called off. Whether the file systems were frozen until the instant was kept is known by thawing
them: an agent that has none to thaw was told to before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.shell import HostShell
from mudanza.journal.jobs import Job, JobHandle
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.protection import Consistency
from mudanza.model.vm import Vm, VmState
from mudanza.protection import scripts

FREEZING = 15.0
"""Seconds that a guest's agent may take to freeze its file systems, or to thaw them."""
FROZEN = 35.0
"""Seconds after which a guardian thaws a guest that nobody has thawed, counted from before it is frozen."""
THAW_AGAIN = 60
"""Times that a guardian tries to, a second apart, where an agent does not answer."""

Refusals = (HypervisorError, HostUnreachableError, MigrationFailedError)


@dataclass(slots=True)
class Quiet:
    """How quiet a guest was at its instant; known once it goes on."""

    consistency: Consistency = Consistency.CRASH
    why_not: str = ""
    """Why it was not frozen though it was to be."""

    def is_not(self, why: str) -> None:
        """Say why it was not frozen; what was said first counts."""
        self.consistency, self.why_not = Consistency.CRASH, self.why_not or why


@contextmanager
def frozen(handle: JobHandle, domains: Domains, vm: Vm, here: HostShell) -> Iterator[Quiet]:
    """Have a guest's file systems frozen for as long as the block runs, if its agent does that.

    One that does not is no failure: the block runs all the same, and it is said why. ``here``: a shell at its host.
    """
    quiet = Quiet()
    if vm.state is not VmState.RUNNING:  # nobody in it answers
        quiet.is_not(f"it is {vm.state}")
        yield quiet
        return
    guardian = _guardian(here, vm)
    if not guardian:
        quiet.is_not(f"there is no virsh on {vm.host} that would thaw it without us (Debian: libvirt-clients)")
        yield quiet
        return
    begun = clock.monotonic()
    try:
        if _freeze(handle, domains, vm, guardian, quiet):
            quiet.consistency = Consistency.APPLICATION
        yield quiet
    finally:
        thawed = _thaw(domains, vm, quiet)
        handle.note(
            "thawed",
            {"host": vm.host},
            {"seconds": round(clock.monotonic() - begun, 3), "consistency": quiet.consistency, "why": quiet.why_not},
        )
        if thawed:  # else the guardian goes on trying
            with suppress(*Refusals):  # then it finds nothing to thaw
                here.run(scripts.CALL_OFF, {"guardian": guardian}, what="calling the guardian off")


def _guardian(here: HostShell, vm: Vm) -> str:
    values = {"uuid": vm.uuid, "limit": FROZEN, "again": THAW_AGAIN}
    [[_, *found]] = here.run(scripts.THAW_GUARD, values, what="setting a guardian")
    return found[0] if found else ""


def _freeze(handle: JobHandle, domains: Domains, vm: Vm, guardian: str, quiet: Quiet) -> bool:
    """Return whether any file systems were frozen."""
    about = {"host": vm.host, "guardian": guardian}
    freeze = lambda: domains.freeze(vm.uuid, timeout=FREEZING)  # noqa: E731
    try:
        many = handle.perform("freeze", about, freeze, lambda found: {"frozen": found})
    except Refusals as error:
        quiet.is_not(f"its agent did not freeze its file systems: {error}")
        return False
    if not many:
        quiet.is_not("its agent found no file system to freeze")
    return many > 0


def _thaw(domains: Domains, vm: Vm, quiet: Quiet) -> bool:
    """Thaw a guest, whether or not it is known to be frozen; return whether its agent says that it is thawed."""
    try:
        many = domains.thaw(vm.uuid, timeout=FREEZING)
    except Refusals as error:
        quiet.is_not(f"whether it was still frozen at its instant is not known: {error}")
        # An agent that there is no line to was not asked to freeze anything either.
        return isinstance(error, HypervisorError) and domains.has_no_agent(error)
    if not many:
        quiet.is_not("somebody thawed it before its instant was kept")
    return True


def thaw_if_left(handle: JobHandle, domains: Domains, job: Job) -> None:
    """Thaw a guest whose round was left behind by its controller; its guardian has done so, as a rule."""
    if job.steps_named("freeze") and not job.steps_named("thawed"):
        with suppress(*Refusals):  # the guardian goes on trying
            handle.perform("thaw", {"host": domains.host}, lambda: domains.thaw(job.vm_uuid, timeout=FREEZING))
