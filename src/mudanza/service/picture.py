"""The newest picture of the cluster, taken again and again, so that whoever asks waits for no host."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.events import Listener
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.journal.errors import JournalLostError
from mudanza.model.cluster import Cluster, Known
from mudanza.model.host import Host, HostEntry
from mudanza.model.plain import plain
from mudanza.model.vm import Vm

REMEMBER_EVERY = 60.0
"""Seconds between two times that what is on the hosts is written down, for the day when one of them is gone."""


LOOK_EVERY = 0.5
"""Seconds between two looks whether a host has told of something."""

GAP = 0.005
"""Seconds between the turns of two hosts: about what it takes to read one. Else those that answer at once all come in
at once, and who asks the daemon something shares its time with dozens of threads."""


@dataclass(frozen=True, eq=False)
class Picture:
    """The cluster as it was seen; each is equal to itself alone. Seconds."""

    cluster: Cluster
    taken_at: float
    """Since the epoch, when it was complete."""
    took: float
    late: float = 0.0
    """By how much the look began later than it should have."""
    begun: float = float("-inf")
    """The monotonic time when it began to be taken."""

    _texts: dict[int, tuple[Vm | Host, str]] = field(default_factory=dict, repr=False)

    @cached_property
    def in_order(self) -> tuple[Vm, ...]:
        """The VMs by name, UUID and host."""
        return tuple(sorted(self.cluster.vms, key=place))

    @cached_property
    def places(self) -> tuple[str, ...]:
        """Where each of these stands in that order."""
        return tuple(map(place, self.in_order))

    @cached_property
    def by_host(self) -> Mapping[str, tuple[Vm, ...]]:
        """The VMs in the same order, by their hosts."""
        return _grouped((vm.host, vm) for vm in self.in_order)

    @cached_property
    def by_name(self) -> Mapping[str, tuple[Vm, ...]]:
        """The VMs by whatever they may be asked for: names and UUIDs."""
        vms = self.cluster.vms
        named = ((vm.name, vm) for vm in vms if vm.name != vm.uuid)
        return _grouped(chain(named, ((vm.uuid, vm) for vm in vms)))

    def put_in_order(self) -> Picture:
        """Do what else whoever asks first would wait for; return it."""
        _ = self.places, self.by_host, self.by_name
        return self

    def told(self, item: Vm | Host) -> str:
        """Return one of its VMs or hosts as JSON; what is asked for again is not made anew."""
        found = self._texts.get(id(item))
        if found is None:
            text = json.dumps(plain(item), ensure_ascii=False, separators=(",", ":"))
            found = self._texts[id(item)] = (item, text)  # held: else another one might get its number
        return found[1]


def _grouped(keyed: Iterable[tuple[str, Vm]]) -> Mapping[str, tuple[Vm, ...]]:
    found: dict[str, tuple[Vm, ...]] = {}
    for key, vm in keyed:
        found[key] = (*found.get(key, ()), vm)
    return found


def place(vm: Vm) -> str:
    """Return by what VMs are put in order."""
    return f"{vm.name} {vm.uuid} {vm.host}"


class Photographer:
    """Takes pictures; hosts stay connected from one to the next."""

    def __init__(
        self,
        entries: Callable[[], tuple[HostEntry, ...]],
        *,
        connect: float,
        read: float,
        say: Callable[[str], None],
        remember: Callable[[Cluster], None],
    ) -> None:
        """``entries`` tells which hosts there are; ``connect`` and ``read``: seconds a host may take for it.
        ``remember`` writes down what was seen."""
        self._entries = entries
        self._connect = connect
        self._read = read
        self._say = say
        self._remember = remember
        self._remembered: float | None = None
        self._told: dict[str, str] = {}
        self._heard: set[str] = set()
        """Hosts that have told of something since they were looked at."""
        self._tending: Task[None] | None = None
        self.newest: Picture | None = None
        """None until the first one is there."""
        self.took_last: float | None = None
        """The monotonic time of that, which no change of the machine's clock reaches."""

    def known(self) -> Known | None:
        """Return what the newest picture shows, and how old it is; None before the first one."""
        picture = self.newest
        return Known(picture.cluster, clock.monotonic() - picture.begun) if picture is not None else None

    def run(self, every: float, stop: clock.Event) -> None:
        """Take one every so many seconds until ``stop`` is set, and see to hosts that tell of something meanwhile."""
        known: tuple[HostEntry, ...] = ()
        due = clock.monotonic()
        connections = Connections((), timeout=self._connect)
        listener = Listener(self._heard.add)
        try:
            while not stop.is_set():
                begun = clock.monotonic()
                try:
                    entries = self._entries()
                except JournalLostError as error:
                    self._tell({"": str(error)})
                    entries = known
                if entries != known:
                    connections.close()
                    connections, known = Connections(entries, timeout=self._connect), entries
                self._take(known, connections, begun, late=max(begun - due, 0.0))
                due = begun + every
                self._wait(due, stop, listener, connections)
        finally:
            listener.close()
            connections.close()

    def _wait(self, due: float, stop: clock.Event, listener: Listener, connections: Connections) -> None:
        """Wait until the next picture is due, and look again at hosts that have told of something."""
        self._tend(listener, connections)
        while (left := due - clock.monotonic()) > 0 and not stop.wait(min(left, LOOK_EVERY)):
            self._look_again(connections)

    def _tend(self, listener: Listener, connections: Connections) -> None:
        """See to it, beside all else, that the hosts tell which were seen."""
        if self._tending is not None:
            if not self._tending.ended:
                return
            self._tending.wait(0)
        picture = self.newest
        seen = [host.name for host in picture.cluster.hosts if host.seen] if picture is not None else []
        self._tending = Task(lambda: listener.listen(connections, seen))

    def _look_again(self, connections: Connections) -> None:
        """Take those hosts anew that have told of something."""
        heard: set[str] = set()
        while self._heard:
            heard.add(self._heard.pop())
        picture = self.newest
        entries = [entry for entry in connections.entries if entry.name in heard]
        if picture is None or not entries:
            return
        seen = read_cluster(entries, timeout=self._read, connections=connections)
        self.newest = replace(picture, cluster=picture.cluster.with_hosts(seen), _texts={})

    def _take(self, entries: tuple[HostEntry, ...], connections: Connections, begun: float, *, late: float) -> None:
        gap = GAP if self.newest is not None else 0.0  # the first one is waited for
        cluster = read_cluster(entries, timeout=self._read, connections=connections, gap=gap)
        self.took_last = clock.monotonic()
        self.newest = Picture(cluster, clock.time(), self.took_last - begun, late, begun)
        troubles = {host.name: f"host {host.name} was not seen: {host.error}" for host in cluster.hosts if host.error}
        self._tell(troubles | self._written_down(cluster))

    def _written_down(self, cluster: Cluster) -> dict[str, str]:
        """Have it written down from time to time; return what kept it from that."""
        if self._remembered is not None and clock.monotonic() < self._remembered + REMEMBER_EVERY:
            return {}
        try:
            self._remember(cluster)
        except JournalLostError as error:
            return {"": str(error)}
        self._remembered = clock.monotonic()
        return {}

    def _tell(self, troubles: dict[str, str]) -> None:
        """Say what is new, once."""
        for name, words in troubles.items():
            if self._told.get(name) != words:
                self._say(f"! {words}")
        for name in self._told.keys() - troubles.keys():
            if name:
                self._say(f"host {name} is seen again")
        self._told = troubles
