"""Hosts that live and whose guests have lost their network: it is told, and, where that was said, the guests are moved
to hosts that have it, live. The host takes no newcomers until its uplink is well again.

What is lost, and whether the host was closed for it, is in the database: another controller goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mudanza import clock
from mudanza.availability.uplinks import Decision, Line, Lines, State, Terms, cut_off, decide, refuges, wanted_on
from mudanza.hypervisor.bounded import Task, for_each
from mudanza.hypervisor.reading.uplinks import ASKING, read_uplinks
from mudanza.journal.outbox import Outbox
from mudanza.journal.plans import Plans
from mudanza.journal.uplinks import UplinkLosses
from mudanza.model.carrying import RunPolicy
from mudanza.model.errors import MudanzaError
from mudanza.model.notice import Kind
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.emptying import plan_off
from mudanza.operations.planning import in_order

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.uplinks import UplinkLoss
    from mudanza.model.cluster import Cluster
    from mudanza.model.plan import Plan
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say

KIND = "uplink"
"""The kind of a plan that takes guests off a host whose uplink is lost."""
OFF, DRAIN = "off", "drain"
AGAIN = 300.0
"""Seconds between two tries to take guests off one host."""
AT_ONCE = 16


class Settings(Protocol):
    """How uplinks are watched. Seconds."""

    @property
    def uplink(self) -> str:
        """``off``, ``alarm`` or ``drain``."""

    @property
    def uplink_confirm(self) -> float:
        """How long an uplink must have carried nothing before it is lost, and carried again before it is well."""

    @property
    def uplinks(self) -> tuple[str, ...]:
        """Ports that lead outside though the kernel has made them up."""

    @property
    def brake(self) -> float:
        """The share of the hosts that may have lost one network at once."""


class UplinkWatch:
    """Watches the uplinks of all hosts, for one who holds the duty to watch hosts."""

    def __init__(self, means: Means, settings: Settings, asked_by: str, say: Say, once: Say) -> None:
        """``once`` is told what is told only when it was not just before."""
        self._means = means
        self._settings = settings
        self._asked_by = f"{asked_by} (uplink)"
        self._say = say
        self._once = once
        self._losses = UplinkLosses(means.database)
        self._terms = Terms(settings.uplink_confirm, settings.brake)
        self._lines: Lines = {}
        self._tried: dict[str, float] = {}
        self._silent: set[str] = set()
        """Hosts that could not tell at the last look."""
        self.under_way: Task[None] | None = None
        """What takes guests off a host just now, or did last."""

    @property
    def drains(self) -> bool:
        """Whether guests are moved: then hosts are watched even if no VM is kept up."""
        return self._settings.uplink == DRAIN

    def closed(self) -> frozenset[str]:
        """Return the hosts that were closed for a loss: they are watched like any other all the same."""
        if self._settings.uplink == OFF:
            return frozenset()
        return frozenset(name for name, each in self._losses.all().items() if each.closed)

    def forget(self) -> None:
        """Begin anew: somebody else may have watched meanwhile."""
        self._lines = {}

    def turn(self, connections: Connections, cluster: Cluster) -> None:
        """Take one look at all uplinks and begin what follows, waiting for nobody who is moved. Raises
        JournalLostError."""
        if self._settings.uplink == OFF:
            return
        known = self._losses.all()
        decision = decide(
            {**_from_before(known), **self._lines},
            self._look(connections, cluster, known),
            clock.monotonic(),
            self._terms,
        )
        self._lines = decision.lines
        for word in decision.told:
            self._once(word)
        for host, networks in decision.lost.items():
            self._lost(host, networks, decision, known)
        for host in known:
            if host not in decision.lost and decision.is_well(host):
                self._back(host)
        if self.drains:
            self._drain_one(cluster, decision)

    def _look(
        self, connections: Connections, cluster: Cluster, known: Mapping[str, UplinkLoss]
    ) -> Mapping[str, Mapping[str, bool] | None]:
        """Return for each host which of the networks that matter carry anything; None: it cannot be told."""
        seen = [host for host in cluster.hosts if host.seen]
        rounds = -(-len(seen) // AT_ONCE)
        asked = for_each(
            lambda host: read_uplinks(connections.get(host.name), self._settings.uplinks),
            seen,
            workers=AT_ONCE,
            timeout=ASKING * max(rounds, 1),
        )
        found: dict[str, Mapping[str, bool] | None] = {host.name: None for host in cluster.hosts}
        for host, each in zip(seen, asked, strict=True):
            if isinstance(each, BaseException):
                self._cannot_tell(host.name, each)
                continue
            self._silent.discard(host.name)
            lost = known[host.name].networks if host.name in known else ()
            wanted = wanted_on(cluster, host) | set(lost)
            found[host.name] = {network: carries for network, carries in each.items() if network in wanted}
        return found

    def _cannot_tell(self, host: str, error: BaseException) -> None:
        """Say once of a host that it does not tell; it may never, for want of a driver."""
        if host not in self._silent:
            self._say(f"! whether the guests of {host} have their network is not known: {error}")
        self._silent.add(host)

    def _lost(self, host: str, networks: Sequence[str], decision: Decision, known: Mapping[str, UplinkLoss]) -> None:
        """Have a loss told once, and the host closed to newcomers where somebody gains by leaving it."""
        close = self.drains and bool(decision.worth_leaving(host))
        closed = self._losses.begin(host, networks, close=close)
        if closed:
            self._say(f"host {host} takes no newcomers until its uplink is well")
        before = known.get(host)
        if before is None or set(networks) - set(before.networks):
            said = f"{host} lives, and its guests on {', '.join(networks)} have lost their network"
            self._say(f"! {said}")
            self._tell(Kind.UPLINK_LOST, host, said, networks)

    def _back(self, host: str) -> None:
        opened = self._losses.end(host)
        self._tried.pop(host, None)
        said = f"the uplinks of {host} are well" + ("; it is open again" if opened else "")
        self._say(said)
        self._tell(Kind.UPLINK_BACK, host, said, ())

    def _drain_one(self, cluster: Cluster, decision: Decision) -> None:
        """Begin to take guests off one host that has lost their network, unless somebody is being taken off one."""
        if self.under_way is not None and not self.under_way.ended:
            return
        busy = {run.subject for run in Plans(self._means.database).unfinished() if run.kind == KIND}
        mine = {name for name, each in self._losses.all().items() if each.closed}
        for host in sorted(decision.lost):
            networks = decision.worth_leaving(host)
            tried = self._tried.get(host)
            if host in busy or host not in mine or (tried is not None and clock.monotonic() < tried + AGAIN):
                continue
            if not cluster.host(host).seen or not self._means.inventory.host(host).maintenance:
                continue  # a person has opened it
            if vms := cut_off(cluster, host, networks):
                self._tried[host] = clock.monotonic()
                there = refuges(cluster, vms, networks, decision)
                self.under_way = Task(partial(self._reporting, host, vms, there))
                return

    def _reporting(self, host: str, vms: Sequence[Vm], there: frozenset[str]) -> None:
        try:
            self._drain(host, vms, there)
        except MudanzaError as error:
            self._say(f"! the guests of {host} are not moved: {error}")

    def _drain(self, host: str, vms: Sequence[Vm], there: frozenset[str]) -> None:
        """Have those guests moved that can be, to hosts that have their network. Raises MudanzaError."""
        from mudanza.fleet.draining import in_the_way, without

        if not there:
            self._say(f"! no other host is known to have the network that guests of {host} have lost: they stay")
            return
        wanted = {vm.uuid for vm in vms}
        with self._means.connections() as connections:
            judge, cluster = judge_of(self._means, connections, arrivals_of(self._means))
            cluster = _closed_but(cluster, there)
            plan = plan_off(self._means, cluster, host)
            others = {move.uuid for move in plan.moves} - wanted
            plan = in_order(without(plan, others, cluster), cluster)
            plan = replace(plan, unmoved=tuple(each for each in plan.unmoved if each.uuid in wanted))
            blocked = in_the_way(plan, cluster, judge)
            plan = without(plan, {each.vm.uuid for each in blocked}, cluster)
        for each in blocked:
            self._say(f"! {each.vm.name} stays on {host} without its network: {each.why}")
        self._begin(host, plan)

    def _begin(self, host: str, plan: Plan) -> None:
        if not plan.moves:
            return
        plan = replace(plan, summary=f"{host} has lost its uplink: {len(plan.moves)} VMs leave it")
        number = Plans(self._means.database).put_down(
            plan, RunPolicy(out=4), self._asked_by, kind=KIND, subject=host, request=None
        )
        names = ", ".join(f"{move.vm} to {move.target}" for move in plan.moves)
        self._say(f"plan {number}: {plan.summary}: {names}")

    def _tell(self, kind: Kind, host: str, said: str, networks: Sequence[str]) -> None:
        Outbox(self._means.database).write_down(kind, host, said, {"host": host, "networks": list(networks)})


def _from_before(known: Mapping[str, UplinkLoss]) -> dict[tuple[str, str], Line]:
    """Return what the controller before has left: what it took for lost is so until it is seen well."""
    at = clock.monotonic()
    return {(host, network): Line(State.LOST, at) for host, each in known.items() for network in each.networks}


def _closed_but(cluster: Cluster, hosts: frozenset[str]) -> Cluster:
    """Return the cluster with all other hosts closed to newcomers."""
    closed = (
        host if host.name in hosts else replace(host, entry=replace(host.entry, maintenance=True))
        for host in cluster.hosts
    )
    return replace(cluster, hosts=tuple(closed))
