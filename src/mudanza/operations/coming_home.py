"""A VM that is protected the other way goes home while it runs, and only what differs there travels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza.journal.job import NewJob
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.migration.asked import put_down
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.finding import blockers
from mudanza.model.migration import MigrationOptions, MigrationReport
from mudanza.model.protection import Protection, Standing
from mudanza.model.units import format_size
from mudanza.model.vm import VmState
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.own_addresses import see_to_addresses
from mudanza.protection.choosing import place_of

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.job import Job
    from mudanza.journal.protections import Protections
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say

Carry = Callable[["Vm", str, MigrationOptions], MigrationReport]
"""Moves a VM to a host. Raises what moves raise."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A VM that is ready to go home live: nothing else is done with it, or with its replica, until it has gone."""

    vm: Vm
    to: str
    options: MigrationOptions


@dataclass(frozen=True, slots=True)
class GoingHome:
    """A VM that goes home live, by a job of whoever works on the queue."""

    vm: str
    job: int


def go_home(
    means: Means,
    connections: Connections,
    protection: Protection,
    networks: Mapping[str, str],
    asked_by: str,
    say: Say,
    carry: Carry,
) -> MigrationReport:
    """Have a running VM go live to where this replica is, upon what that holds; return how that move went.

    Raises as ``_set_out``; MigrationFailedError where it did not come about: it runs where it did, and is protected as
    before; VmDownError and NeedsPersonError as any live move.
    """
    going = _set_out(means, connections, protection, networks, asked_by, say)
    with _settled_if_it_fails(means, connections, protection.vm_uuid):
        report = carry(going.vm, going.to, going.options)
    _settle(means, connections, protection.vm_uuid, say)
    return report


def send_home(means: Means, protection: Protection, networks: Mapping[str, str], asked_by: str, say: Say) -> GoingHome:
    """Get a running VM ready to go home live, and put that move into the queue; return its job. Once that has ended,
    whoever makes rounds writes down where it went (``way_is_over``). Raises as ``_set_out``."""
    with means.connections() as connections:
        going = _set_out(means, connections, protection, networks, asked_by, say)
        asked = put_down(going.options, going.to, going.vm.host)
        new = NewJob(QUEUED_MOVE, going.vm.uuid, going.vm.name, going.vm.host, going.to, asked, asked_by)
        with _settled_if_it_fails(means, connections, protection.vm_uuid):
            return GoingHome(going.vm.name, means.jobs.put_down(new))


def _set_out(
    means: Means, connections: Connections, protection: Protection, networks: Mapping[str, str], asked_by: str, say: Say
) -> Departure:
    """Bring a running VM's replica at home up to date, have it go on in new images, and return how it moves upon that.

    ``networks``: what its cards hang on here → at home. Raises BlockedError where that cannot be, nothing being
    touched; what rounds raise, and MigrationFailedError where it goes on in the images it has.
    """
    from mudanza.journal.protections import Protections
    from mudanza.protection.homecoming import SettingApart, homewards
    from mudanza.protection.rounds import Rounds

    store = Protections(means.database)
    rounds = Rounds(connections, means.jobs, store)
    at, pool = _may_go(means, connections, protection, networks)
    point = rounds.sync(protection, at, asked_by)  # so that the next one is short
    say(f"{at.name}: restore point {point.number}, {format_size(point.carried)} brought; it goes on in new images")
    SettingApart(connections, means.jobs).set_apart(store.get(protection.id), at, asked_by)
    at = means.read_cluster(connections).find(at.uuid)
    point = rounds.sync(store.get(protection.id), at, asked_by)
    say(f"{at.name}: restore point {point.number}, {format_size(point.carried)} brought; it moves live upon that")
    # From here on no round is made, nothing thinned and nothing deleted of the images that it is to run on.
    epoch = protection.epoch + 1
    store.forget_changes(protection.vm_uuid)
    store.change(protection.id, standing=Standing.GOING_HOME, epoch=epoch)
    with _settled_if_it_fails(means, connections, protection.vm_uuid):
        return Departure(at, protection.target, homewards(store.get(protection.id), at, pool, epoch, networks))


def _nobody(_said: str) -> None:
    """Nobody is there to be told."""


@contextmanager
def _settled_if_it_fails(means: Means, connections: Connections, vm: str) -> Iterator[None]:
    """Have it written down where a VM is whose way home ends in the block by an error."""
    try:
        yield
    except MudanzaError:
        with suppress(MudanzaError):  # why it did not come about is to be told; this is looked at again the next time
            _settle(means, connections, vm)
        raise


def _settle(means: Means, connections: Connections, vm: str, say: Say = _nobody) -> Protection:
    from mudanza.journal.protections import Protections

    return settle(means, connections, Protections(means.database), vm, say)


def way_is_over(protection: Protection, newest: Job | None) -> bool:
    """Whether the job that was to bring a VM home live has ended, and nobody has written down yet where it went: pure.

    ``newest``: the VM's newest job. A VM whose way home is about to begin has another one.
    """
    going = protection.standing is Standing.GOING_HOME and newest is not None and newest.ended_at is not None
    return going and newest is not None and newest.asked.get("epoch") == protection.epoch


def settle(means: Means, connections: Connections, store: Protections, vm: str, say: Say = _nobody) -> Protection:
    """Return the protection of a VM at whose host it is, or is to be, or any; where a live way home has ended and
    nobody has written that down, it is written down now, by what its hosts say, and its guest has its own addresses
    again: ``say`` is told of that.

    Raises BlockedError where a move of it is under way, or they do not say it.
    """
    from mudanza.protection.homecoming import where_it_went

    replicas = store.all_of(vm)
    found = next((each for each in replicas if each.standing is Standing.GOING_HOME), None)
    if found is None:
        return place_of(replicas)
    if (job := means.jobs.unfinished_of(found.vm_uuid)) is not None:
        raise BlockedError(
            f"VM {found.vm_name!r} is going home: job {job.id} is not at its end",
            remedy=f"if its controller is gone: mudanza job resume {job.id}, and then try again",
        )
    became = where_it_went(found, means.read_cluster(connections))
    match became:
        case Standing.GOING_HOME:
            raise BlockedError(
                f"whether VM {found.vm_name!r} went home to {found.target} is not told by the hosts that answer",
                remedy="see that all hosts answer, and where it is (mudanza vms); then try again",
            )
        case Standing.ON:
            store.change(found.id, standing=became, epoch=found.epoch - 1, said="it did not go home")
        case Standing.FAILED_OVER:
            store.settle_at(found.id, f"runs on {found.target} again, under epoch {found.epoch}")
            see_to_addresses(means, connections, found.vm_uuid, say, home=True, at_once=True)
    return store.get(found.id)


def _may_go(
    means: Means, connections: Connections, protection: Protection, networks: Mapping[str, str]
) -> tuple[Vm, str]:
    """Return a VM as it is, and the pool that its disks go into at home. Raises BlockedError where it cannot go."""
    from mudanza.protection.homecoming import home_pool, homewards

    name = protection.vm_name
    judge, cluster = judge_of(means, connections, arrivals_of(means))
    found = cluster.find(protection.vm_uuid)
    otherwise = f"switched off, nothing is lost either: mudanza failback {name} --mode cold"
    if found.state is not VmState.RUNNING:
        raise BlockedError(f"VM {name!r} is {found.state} on {found.host}: it does not run", remedy=otherwise)
    home = cluster.host(protection.target)
    pool = home_pool(protection, home)
    if pool is None:
        where = home.error or f"it has no pool with {protection.directory} in it"
        raise BlockedError(f"VM {name!r} cannot go to {home.name} live: {where}", remedy=otherwise)
    findings = judge.judge(found, home, homewards(protection, found, pool, protection.epoch + 1, networks)).findings
    # Its disks are called otherwise once it goes on in new images.
    against = [each for each in blockers(findings) if each.code != "volume-occupied"]
    if against:
        raise BlockedError(f"VM {name!r} cannot go to {home.name} live", findings=tuple(against), remedy=otherwise)
    return found, pool
