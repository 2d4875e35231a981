"""Looking at everything that moving VMs needs: the controller, each host, and the ways between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations

from mudanza.fleet.health import Examined, JournalState, of_cluster, of_host, of_journal, of_way, stand_in
from mudanza.hypervisor.bounded import for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.facts import gather_way, probe_room
from mudanza.journal.database import Database, clock_offset, free_bytes, shown
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import ABANDONED, NEEDS_PERSON, Filter, Jobs
from mudanza.migration.hooks import runnable
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MudanzaError
from mudanza.model.finding import Finding
from mudanza.model.hook import Hook
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Facts
from mudanza.model.units import format_duration, format_size, format_version
from mudanza.preflight.wording import blocker, warning

ALL_WAYS_UP_TO = 6
"""Hosts up to which each way is tried; of more, one into and one out of each host, unless all are asked for."""
WAY_LIMIT = 180.0
"""Seconds that trying one way may take; what it consists of has limits of its own, far below it."""
WAYS_AT_ONCE = 4
MOST_JOBS = 1000
"""Of more jobs that wait for somebody the newest ones are named."""


def examine_journal(database: Database, place: str, jobs: Jobs) -> Examined:
    """Look at the journal, and what waits in it. Raises JournalLostError."""
    where = shown(place)
    waiting = tuple(job.id for job in jobs.latest(MOST_JOBS, Filter(state=NEEDS_PERSON), brief=True))
    behind = jobs.latest(MOST_JOBS, Filter(state=ABANDONED), brief=True)
    left = tuple(job.id for job in behind if job.id not in waiting)
    room = free_bytes(place) if "://" not in place else None
    journal = JournalState(where, room, clock_offset(database), waiting, left)
    free = f", {format_size(room)} free" if room is not None else ""
    return Examined("journal", f"{where}{free}", of_journal(journal))


def examine_hooks(hooks: Mapping[str, Hook]) -> tuple[Examined, ...]:
    """Look whether this controller can run its hooks."""
    return tuple(Examined(f"hook {name}", hook.command[0], _of_hook(name, hook)) for name, hook in hooks.items())


def _of_hook(name: str, hook: Hook) -> tuple[Finding, ...]:
    probe = runnable(hook)
    if probe.answer is Answer.YES:
        return ()
    remedy = f"install it, or mend [hooks.{name}] in the settings"
    return (blocker("hook-missing", f"hook {name}", f"it is to be run around moves, and {probe.detail}", remedy),)


def examine_hosts(connections: Connections, hosts: Sequence[Host]) -> tuple[Examined, ...]:
    """Look at each host, and at where they differ."""

    def look(host: Host) -> Examined:
        looked_anew, can_look = host, False
        if host.seen:
            looked_anew = _with_room(connections, host)
            can_look = connections.processes(host.name).can_look()
        found = of_host(looked_anew, processes_seen=can_look)
        return Examined(f"host {host.name}", _in_words(looked_anew), found)

    looked = for_each(look, hosts, workers=max(len(hosts), 1), timeout=WAY_LIMIT)
    each = [
        found if isinstance(found, Examined) else Examined(f"host {host.name}", "", (_untried(host.name, str(found)),))
        for host, found in zip(hosts, looked, strict=True)
    ]
    differing = of_cluster(hosts)
    alike = "" if differing else "the same pools and networks everywhere"
    return (*each, Examined("all hosts", alike, differing)) if len(hosts) > 1 else tuple(each)


def _with_room(connections: Connections, host: Host) -> Host:
    """Return a host with what is free in its pools now: libvirt's own figures are as old as its last look."""
    pools = host.pools or ()
    room = probe_room(connections.get(host.name), [pool.name for pool in pools if pool.active])
    anew = tuple(replace(pool, available=room.get(pool.name, pool.available)) for pool in pools)
    return replace(host, pools=tuple(sorted(anew, key=lambda pool: pool.name)))


def _in_words(host: Host) -> str:
    if not host.seen:
        return ""
    versions = f"libvirt {format_version(host.libvirt_version)}, QEMU {format_version(host.qemu_version)}"
    pools = [f"{pool.name} {format_size(pool.available)} free" for pool in host.pools or () if pool.active]
    return f"{versions}, {host.cpus} CPUs, {format_size(host.memory_total)}; {', '.join(pools) or 'no pool'}"


def ways_of(hosts: Sequence[Host], *, every: bool) -> tuple[tuple[Host, Host], ...]:
    """Return the ways to be tried among those hosts that answered, from and to; ``every``: all there are."""
    seen = [host for host in hosts if host.seen]
    if every or len(seen) <= ALL_WAYS_UP_TO:
        return tuple(permutations(seen, 2))
    return tuple(zip(seen, (*seen[1:], seen[0]), strict=True))


def examine_ways(
    connections: Connections,
    inventory: Inventory,
    cluster: Cluster,
    ways: Sequence[tuple[Host, Host]],
    on_end: Callable[[Examined], None],
) -> tuple[Examined, ...]:
    """Try each way with a tiny guest that never runs; ``on_end`` is told of each one as soon as it is known."""

    def examine(way: tuple[Host, Host]) -> Examined:
        source, target = way
        name = f"{source.name} → {target.name}"
        try:
            facts = gather_way(connections, stand_in(source, target), source, target)
        except MudanzaError as error:
            found = Examined(name, "", (_untried(name, str(error)),))
        else:
            if Answer.YES in (facts.tls.answer, facts.data_path.answer):
                inventory.learn_tls(source.name, target.name, facts.tls)
            found = Examined(name, _found_well(facts), of_way(source, target, cluster, facts))
        on_end(found)
        return found

    rounds = math.ceil(len(ways) / WAYS_AT_ONCE)
    tried = for_each(examine, ways, workers=WAYS_AT_ONCE, timeout=WAY_LIMIT * max(rounds, 1))
    names = (f"{source.name} → {target.name}" for source, target in ways)
    return tuple(
        found if isinstance(found, Examined) else Examined(name, "", (_untried(name, str(found)),))
        for name, found in zip(names, tried, strict=True)
    )


def _untried(way: str, why: str) -> Finding:
    return warning("way-untried", way, f"it could not be tried: {why}", "try again: mudanza doctor")


def _found_well(facts: Facts) -> str:
    said = [
        *(["login"] if facts.peer.answer is Answer.YES else []),
        *(["data"] if facts.data_path.answer is Answer.YES else []),
        *(["encrypted"] if facts.tls.answer is Answer.YES else []),
    ]
    if facts.clock_offset is not None:
        said.append(f"clocks {format_duration(abs(facts.clock_offset))} apart")
    return ", ".join(said)
