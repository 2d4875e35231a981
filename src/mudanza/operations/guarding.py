"""Hosts are watched, and what is to be started elsewhere is: rounds of looking, by one controller at a time.

A round goes by what is so: hosts that are silent, hosts that are proven off, VMs that ran there. A controller that dies
between any two of its steps leaves nothing that the next one would not find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mudanza import clock
from mudanza.availability.answering import Answering
from mudanza.availability.deciding import due, in_groups, running_last_on
from mudanza.availability.heartbeats import Heartbeats
from mudanza.availability.listening import Ears, Guest
from mudanza.availability.mending import Act as MendAct
from mudanza.availability.mending import mends
from mudanza.availability.observing import Observer
from mudanza.availability.probing import Prober
from mudanza.availability.watchdogs import Watchdogs
from mudanza.availability.watching import Act, Decision, Round, Standing, Taken, Terms, decide
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.journal.duty import Duties, DutyHandle
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.fences import Fences
from mudanza.journal.host_power import HostPowers
from mudanza.journal.identity import journal_id
from mudanza.journal.kept import AVAILABILITY, KeptUps
from mudanza.journal.outbox import Outbox
from mudanza.journal.plans import Plans
from mudanza.journal.restarts import Restarts
from mudanza.journal.sightings import Sightings
from mudanza.model.carrying import RunPolicy
from mudanza.model.errors import BlockedError, MudanzaError, NeedsPersonError, UsageError
from mudanza.model.host_power import away
from mudanza.model.kept import OnHang
from mudanza.model.notice import Kind
from mudanza.model.plan import Goal
from mudanza.model.units import format_duration
from mudanza.operations.mending import mend
from mudanza.operations.planning import Wanted, propose
from mudanza.operations.reigning import refuse_replaced
from mudanza.operations.reviving import Reviver
from mudanza.operations.uplinks import Settings as UplinkSettings
from mudanza.operations.uplinks import UplinkWatch

if TYPE_CHECKING:
    from mudanza.availability.fencer import Fencer
    from mudanza.model.cluster import Cluster
    from mudanza.model.host import HostEntry
    from mudanza.model.kept import KeptUp
    from mudanza.operations.means import Means, Say

STAND_BY = 5.0
"""Seconds between two tries to be the one who watches."""
REMEMBER_EVERY = 15.0
"""Seconds between two times that it is written down which VMs run where."""
RESTART = "restart"
"""The kind of a plan that starts VMs of a lost host elsewhere."""


class Settings(UplinkSettings, Protocol):
    """How hosts are watched. Seconds."""

    @property
    def every(self) -> float: ...
    @property
    def confirm(self) -> float: ...
    @property
    def anchors(self) -> tuple[str, ...]: ...
    @property
    def restart_libvirt(self) -> bool: ...
    @property
    def heartbeat(self) -> str: ...
    @property
    def answer(self) -> float: ...
    @property
    def lock_wait(self) -> float: ...


@dataclass
class _Eyes:
    """What looks at the hosts, as long as these are the same."""

    entries: tuple[HostEntry, ...]
    connections: Connections
    observer: Observer


class Guard:
    """Watches the hosts."""

    def __init__(
        self,
        means: Means,
        settings: Settings,
        fencer: Fencer,
        asked_by: str,
        say: Say,
        observer: Callable[[Connections, Sequence[str]], Observer] = Observer,
        *,
        test_every: float = 0.0,
    ) -> None:
        """``test_every``: seconds between two times that a fence device is asked whether it answers; 0: never."""
        self._means = means
        self._settings = settings
        self._fencer = fencer
        self._new_observer = observer
        self._asked_by = asked_by
        self._say = say
        self._duties = Duties(means.database, AVAILABILITY)
        self._fences = Fences(means.database)
        self._prober = Prober(self._fences, fencer, test_every, say)
        self._kept = KeptUps(means.database)
        self._powers = HostPowers(means.database)
        self._sightings = Sightings(means.database)
        self._terms = Terms(settings.confirm, brake=settings.brake, may_mend=settings.restart_libvirt)
        self._taken: Mapping[str, Taken] = {}
        self._eyes: _Eyes | None = None
        self._remembered: float | None = None
        self._ears = Ears(say)
        self._watchdogs = Watchdogs()
        self._answering = Answering(Restarts(means.database), settings.answer, say)
        self._reviver = Reviver(means, asked_by, say, self._once)
        self._uplinks = UplinkWatch(means, settings, asked_by, say, self._once)
        self._gone_on: dict[str, float] = {}
        self._took: dict[str, str] = {}
        """By host, how long it took until it was proven off, in words."""
        self._alarmed = False
        self._unproven: set[str] = set()
        self._told = ""
        self._told_besides: set[str] = set()

    def run(self, stop: clock.Event) -> None:
        """Watch until ``stop`` is set; while another controller does, or there is nobody to watch for, stand by."""
        handle: DutyHandle | None = None
        while not stop.is_set():
            try:
                if self._kept.all() or self._uplinks.drains:
                    refuse_replaced(self._means)
                    handle = handle or self._duties.take()
                    self._turn(handle)
                else:
                    self._leave(handle)
                    handle = None
            except (BlockedError, LeaseLostError, JournalLostError) as error:
                handle = None  # another one does, or nobody knows: it is tried again, and hosts are looked at anew
                self._taken = {}
                self._uplinks.forget()
                self._once(f"standing by: {error}")
            except MudanzaError as error:
                self._once(f"! hosts are not watched: {error}")
            stop.wait(self._settings.every if handle else STAND_BY)
        self._leave(handle)

    def once(self) -> Decision:
        """Take one look and do what follows. Raises BlockedError while another controller watches."""
        handle = self._duties.take()
        try:
            return self._turn(handle)
        finally:
            self._leave(handle)

    def look(self) -> Decision:
        """Take one look and say what the hosts would be taken for; nothing is done."""
        try:
            return decide({}, self._look(), self._terms)
        finally:
            self._leave(None)

    def _close_eyes(self) -> None:
        if self._eyes is not None:
            self._eyes.connections.close()
            self._eyes = None

    def _leave(self, handle: DutyHandle | None) -> None:
        self._close_eyes()
        self._watchdogs.close()
        if handle is not None:
            with suppress(LeaseLostError, JournalLostError):
                handle.let_go()

    def _turn(self, handle: DutyHandle) -> Decision:
        handle.keep()
        found = self._look()
        alive = [name for name, signs in found.hosts.items() if signs.libvirt]
        self._fences.seen_alive(alive)
        decision = decide(self._taken, found, self._terms)
        self._taken = decision.hosts
        self._unproven &= {name for name, taken in decision.hosts.items() if taken.standing is Standing.CONFIRMED}
        if decision.said != self._told:
            self._say(decision.said)
            self._told = decision.said
            self._told_besides = set()
        cluster = self._remember()
        handle.keep()
        if cluster is not None:
            self._mend(cluster, handle)
            self._watch_uplinks(cluster, handle)
        self._alarm([host for act, host in decision.acts if act is Act.ALARM], decision.said)
        for act, host in decision.acts:
            self._act(act, host, handle)
        self._restart(handle)
        if self._eyes is not None:
            self._answering.turn(self._eyes.connections)
        self._prober.turn(alive)
        return decision

    def _look(self) -> Round:
        """Take one look at everybody; who is off on purpose is not looked for."""
        # One that a person has opened again is watched like any other.
        closed = {entry.name for entry in self._means.inventory.hosts() if entry.maintenance}
        asleep, proven = away(self._powers.last()).keys() & closed, self._fences.proofs().keys()
        found = self._observer().look({*proven, *asleep})
        # One that we have closed ourselves, for its guests have lost their network, may die like any other.
        watched = self._uplinks.closed()
        told = {
            name: replace(
                signs,
                asleep=name in asleep,
                proven_off=name in proven,
                maintenance=signs.maintenance and name not in watched,
            )
            for name, signs in found.hosts.items()
        }
        return replace(found, hosts=told)

    def _observer(self) -> Observer:
        entries = self._means.inventory.hosts()
        if self._eyes is None or self._eyes.entries != entries:
            self._close_eyes()
            connections = Connections(entries)
            observer = self._new_observer(connections, self._settings.anchors)
            if self._settings.heartbeat:
                journal = journal_id(self._means.database)[:12]
                observer.heartbeats = Heartbeats(entries, self._settings.heartbeat, journal)
            self._eyes = _Eyes(entries, connections, observer)
        return self._eyes.observer

    def _remember(self) -> Cluster | None:
        """Write down from time to time which VMs run where; return what was seen then."""
        assert self._eyes is not None
        if self._remembered is not None and clock.monotonic() < self._remembered + REMEMBER_EVERY:
            return None
        entries, connections = self._eyes.entries, self._eyes.connections
        cluster = read_cluster(entries, timeout=self._means.limits.read, connections=connections)
        self._sightings.keep(cluster)
        self._kept.seen(cluster)
        self._remembered = clock.monotonic()
        return cluster

    def _mend(self, cluster: Cluster, handle: DutyHandle) -> None:
        """Bring VMs back where they are that have stopped by themselves."""
        assert self._eyes is not None
        kept, at = self._kept.all(), clock.monotonic()
        hung, barked = self._ears.hung(), self._watchdogs.barked()
        wanted, told = mends(kept, cluster, self._kept.past(kept), self._gone_on, at, hung, barked)
        for word in told:
            self._once(f"! {word}")
        for each in wanted:
            if each.act is MendAct.GO_ON:
                self._gone_on[each.vm.uuid] = at
            if each.act is MendAct.RESET:
                self._ears.forget(each.vm.uuid)
            try:
                with handle.kept():
                    mend(self._means, self._eyes.connections, each, self._asked_by, self._say)
                self._watchdogs.forget(each.vm.uuid)
            except JournalLostError:
                raise
            except MudanzaError as error:
                self._once(f"! {error}")
        guests = _listened_to(kept, cluster)
        self._ears.turn(self._eyes.connections, guests)
        self._watchdogs.turn(self._eyes.connections, guests)
        handle.keep()

    def _watch_uplinks(self, cluster: Cluster, handle: DutyHandle) -> None:
        assert self._eyes is not None
        self._uplinks.turn(self._eyes.connections, cluster)
        handle.keep()

    def _act(self, act: Act, host: str, handle: DutyHandle) -> None:
        try:
            if act is Act.MEND:
                assert self._eyes is not None
                self._say(f"{self._eyes.observer.restart_libvirt(host)} of {host} is restarted")
            elif act is Act.FENCE:
                with handle.kept():  # it may take longer than a lease lasts
                    self._fence(host)
        except JournalLostError:
            raise
        except MudanzaError as error:
            self._say(f"! {error}")
        handle.keep()

    def _fence(self, host: str) -> None:
        waiting = running_last_on(host, self._kept.all())
        if not waiting:
            self._once(f"{host} is left as it is: no VM that is kept up ran there")
            return
        begun, silent_since = clock.monotonic(), self._taken[host].since
        try:
            proof = self._fencer.off(host, self._asked_by, clock.monotonic() - silent_since)
        except (NeedsPersonError, UsageError) as error:
            if host not in self._unproven:
                self._tell(Kind.HOST_NOT_FENCED, host, str(error))
            self._unproven.add(host)
            raise
        silent, took = format_duration(begun - silent_since), format_duration(clock.monotonic() - begun)
        self._took[host] = f"silent for {silent} until it was taken for dead, proven off {took} later"
        self._tell(Kind.HOST_FENCED, host, f"{host} is proven off: {proof.said}; {self._took[host]}")
        self._say(f"{host} is proven off: {proof.said}; {self._took[host]}")

    def _alarm(self, silent: Sequence[str], said: str) -> None:
        """Have it told once that many are silent at once."""
        if silent and not self._alarmed:
            self._tell(Kind.HOSTS_SILENT, ", ".join(silent), said)
        self._alarmed = bool(silent)

    def _tell(self, kind: Kind, subject: str, said: str) -> None:
        Outbox(self._means.database).write_down(kind, subject, said, {"host": subject})

    def _restart(self, handle: DutyHandle) -> None:
        """Have started elsewhere what is due. Nothing of it is due while it cannot be told where everybody is."""
        proven = self._fences.proofs()
        if not proven or self._eyes is None:
            return
        kept = self._kept.all()
        if not any(running_last_on(host, kept) for host in proven):
            return
        entries, connections = self._eyes.entries, self._eyes.connections
        cluster = read_cluster(entries, timeout=self._means.limits.read, connections=connections)
        replicated, left = self._reviver.replicated(), self._reviver.left_behind(cluster)
        found = due(kept, cluster, sorted(proven), self._kept.past(kept), replicated, left)
        for word in found.told:
            self._once(f"! {word}")
        for host, uuids in found.hosts.items():
            try:
                self._put_down(host, uuids, handle)
            except JournalLostError:
                raise
            except MudanzaError as error:
                self._say(f"! VMs of {host} are not started elsewhere: {error}")
        for host, uuids in found.replicas.items():
            for uuid in uuids:
                with handle.kept():
                    self._reviver.revive(connections, host, kept[uuid])
                handle.keep()

    def _put_down(self, host: str, uuids: Sequence[str], handle: DutyHandle) -> None:
        plan = propose(self._means, Wanted(Goal.EVACUATE, host)).plan
        moves = in_groups([move for move in plan.moves if move.uuid in uuids], self._kept.all())
        for each in plan.unmoved:
            if each.uuid in uuids:
                self._once(f"! {each.vm} has no other place than {host}: {each.why}")
        if not moves:
            self._once(f"! nothing of {host} can be started elsewhere: {'; '.join(plan.notes)}")
            return
        took = f"; {self._took[host]}" if host in self._took else ""
        plan = replace(plan, moves=moves, summary=f"{host} is lost: {len(moves)} VMs are started elsewhere{took}")
        begun = Plans(self._means.database).begin(
            plan, RunPolicy(out=8), self._asked_by, kind=RESTART, subject=host, under=handle
        )
        begun.let_go()  # whoever carries plans out takes it
        self._say(f"plan {begun.id}: {plan.summary}: {', '.join(f'{move.vm} on {move.target}' for move in moves)}")

    def _once(self, words: str) -> None:
        """Say what was not said since all was last otherwise."""
        if words not in self._told_besides:
            self._say(words)
        self._told_besides.add(words)


def _listened_to(kept: Mapping[str, KeptUp], cluster: Cluster) -> list[Guest]:
    """Return the guests that are restarted where they are if they hang, and run."""
    return [
        Guest(vm.uuid, vm.name, vm.host, kept[vm.uuid].care.hang_after)
        for vm in cluster.vms
        if vm.uuid in kept and kept[vm.uuid].care.on_hang is OnHang.RESTART and vm.state.active
    ]
