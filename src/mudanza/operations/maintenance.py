"""Maintenance of a host: emptied and closed to newcomers, opened again, and its VMs brought home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mudanza.model.carrying import BRINGING_HOME, ENTERING, CannotGo, RunPolicy
from mudanza.model.errors import BlockedError, MudanzaError, UsageError
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.emptying import Choose, Emptying, off
from mudanza.operations.power import start_one, wait_until_off

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.cluster import Cluster
    from mudanza.model.plan import Plan
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say


def enter(
    means: Means,
    host: str,
    cannot_go: CannotGo,
    policy: RunPolicy,
    say: Say,
    choose: Choose,
    *,
    with_off: bool = False,
) -> Emptying:
    """Close a host to newcomers at once, shut down who is to be, and return what takes the others off it.

    ``with_off``: also those that are off. Where nothing is begun the host is open again; raises as ``drain`` then.
    """
    policy = replace(policy, elsewhere=True, comes_home=host)
    entry = means.inventory.host(host)
    means.inventory.set_maintenance(host, on=True)
    shut: list[Vm] = []
    try:
        plan, policy = off(means, host, cannot_go, policy, shut, say, choose, with_off=with_off)
    except BaseException:  # an error, or nobody wants it any more
        means.inventory.set_maintenance(host, on=entry.maintenance)
        raise
    say(f"host {host} is in maintenance: it takes no newcomers")
    return Emptying(ENTERING, host, plan, policy, _shut_down(means, host, shut, say))


def _shut_down(means: Means, host: str, vms: Sequence[Vm], say: Say) -> int:
    """Shut VMs down that stay, and remember that they are to be started again; return of how many that failed."""
    from mudanza.journal.plans import Plans

    if not vms:
        return 0
    plans = Plans(means.database)
    asked: list[Vm] = []
    errors: list[MudanzaError] = []
    with means.connections() as connections:
        for vm in vms:
            plans.leaves(vm.uuid, vm.name, host, runs=True)
            try:
                connections.domains(host).shutdown(vm.uuid)
                asked.append(vm)
            except MudanzaError as error:
                errors.append(error)
        errors += wait_until_off(means, connections, asked, say)
    for each in errors:
        say(f"! {each}")
    return len(errors)


def leave(
    means: Means, host: str, cannot_come: CannotGo, policy: RunPolicy, say: Say, *, stay_away: bool = False
) -> Emptying | None:
    """Open a host again, start what was shut down for its maintenance, and return what brings those home that left it.

    ``cannot_come``: those who cannot come while they run stay where they are, or are moved cold. ``stay_away``: nobody
    is brought home, and None is returned. Raises UsageError, and BlockedError where the host was not seen.
    """
    from mudanza.journal.plans import Plans
    from mudanza.planning.homecoming import way_home

    refuse_other(cannot_come)
    means.inventory.set_maintenance(host, on=False)
    say(f"host {host} is open again")
    plans = Plans(means.database)
    away = plans.away_from(host)
    if stay_away:
        for uuid in away:
            plans.is_home(uuid)
        return None
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        if not cluster.host(host).seen:
            raise BlockedError(f"host {host} was not seen: {cluster.host(host).error}", remedy="try again then")
        home = _start_at_home(means, connections, cluster, host, plans.away_from(host), say)
    for uuid in home:
        plans.is_home(uuid)
    names = {uuid: name for uuid, (name, _) in away.items()}
    plan = way_home(cluster, means.inventory.rules(), host, names, home)
    if cannot_come is CannotGo.COLD:
        plan, policy = _with_cold(means, plan, policy, say)
    return Emptying(BRINGING_HOME, host, plan, policy)


def refuse_other(cannot_come: CannotGo) -> None:
    """Raise UsageError for what cannot become of those who cannot come home."""
    if cannot_come not in (CannotGo.STAY, CannotGo.COLD):
        raise UsageError("who cannot come home while it runs stays, or is moved cold: --cannot-go-live stay|cold")


def _with_cold(means: Means, plan: Plan, policy: RunPolicy, say: Say) -> tuple[Plan, RunPolicy]:
    """Have those come home switched off that cannot while they run."""
    from mudanza.fleet.draining import cold_instead, in_the_way

    with means.connections() as connections:
        judge, cluster = judge_of(means, connections, arrivals_of(means))
        blocked = in_the_way(plan, cluster, judge)
    for each in blocked:
        say(f"{each.vm.name} comes home switched off, and is started there: {each.why}")
    uuids = tuple(sorted(each.vm.uuid for each in blocked))
    return cold_instead(plan, uuids, cluster), replace(policy, cold=uuids)


def _start_at_home(
    means: Means,
    connections: Connections,
    cluster: Cluster,
    host: str,
    away: dict[str, tuple[str, bool]],
    say: Say,
) -> list[str]:
    """Start those that were shut down and have stayed; return who is at home."""
    home = []
    for vm in cluster.vms_on(host):
        if vm.uuid not in away:
            continue
        if away[vm.uuid][1] and not vm.state.active:
            try:
                start_one(means, connections, vm, say)
            except MudanzaError as error:
                say(f"! {error}")
                continue
        home.append(vm.uuid)
    return home
