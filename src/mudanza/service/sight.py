"""What whoever asks may see, and the audit of what they ask for: the same for the API and for the pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mudanza.journal.errors import JournalLostError
from mudanza.journal.jobs import Job
from mudanza.model.access import Asker
from mudanza.model.carrying import Run
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.host import Host
from mudanza.model.vm import Vm
from mudanza.service.desk import Desk
from mudanza.service.problems import NotThereError


@contextmanager
def audited(desk: Desk, asker: Asker, *command: str) -> Iterator[None]:
    """Have the audit tell who asked for what, before it is done, and what came of it."""
    number = desk.audit.asked({"user": asker.name, "by": "http"}, command)
    code, outcome = 1, ""
    try:
        yield
        code = 0
    except MudanzaError as error:
        code, outcome = error.exit_code, str(error)
        raise
    finally:
        with suppress(JournalLostError):  # what was asked for is done; the audit tells that no end was written
            desk.audit.ended(number, code, outcome)


def known_hosts(desk: Desk, asker: Asker) -> tuple[Host, ...]:
    """Return the hosts that somebody may know of."""
    hosts = desk.picture().cluster.hosts
    return tuple(host for host in hosts if asker.may_see_host(host.name)) if asker.hosts else hosts


def known_vms(desk: Desk, asker: Asker) -> tuple[Vm, ...]:
    """Return the VMs that somebody may know of."""
    vms = desk.picture().cluster.vms
    return tuple(filter(asker.may_see, vms)) if asker.is_limited else vms


def find_host(desk: Desk, asker: Asker, name: str) -> Host:
    """Return a host; one that whoever asks may not know of is not there."""
    try:
        return Cluster(known_hosts(desk, asker), ()).host(name)
    except UsageError as error:
        raise _not_there(error) from error


def find_vm(desk: Desk, asker: Asker, key: str, bound_for: str | None = None) -> Vm:
    """Return a VM; one that whoever asks may not know of is not there."""
    try:
        named = filter(asker.may_see, desk.picture().by_name.get(key, ()))
        return Cluster(known_hosts(desk, asker), tuple(named)).find(key, bound_for=bound_for)
    except UsageError as error:
        raise _not_there(error) from error


def may_see_job(desk: Desk, asker: Asker, job: Job) -> bool:
    """Whether somebody may know of a job: of one about their hosts, and about VMs that are there and theirs."""
    hosts = [host for host in (job.source, job.target) if host]
    if not asker.may_see_hosts(hosts) or (asker.is_limited and not hosts):  # a plan for recovery is about many
        return False
    return not asker.tags or any(vm.uuid == job.vm_uuid for vm in known_vms(desk, asker))


def find_job(desk: Desk, asker: Asker, number: int) -> Job:
    """Return a job; one that whoever asks may not know of is not there."""
    found = desk.jobs.find(number)
    if found is None or not may_see_job(desk, asker, found):
        raise NotThereError(f"there is no job {number}", remedy="see them all: mudanza jobs")
    return found


def find_plan(desk: Desk, number: int) -> Run:
    """Return a plan that is or was carried out."""
    try:
        return desk.plans.get(number)
    except UsageError as error:
        raise _not_there(error) from error


def _not_there(error: UsageError) -> NotThereError:
    return NotThereError(str(error), remedy=error.remedy)
