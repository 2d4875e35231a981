"""Making the problem of a snapshot, rules and loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.load import Loads
from mudanza.model.rules import RuleKind, Rules
from mudanza.model.vm import Vm
from mudanza.planning.automation import never_moved
from mudanza.planning.compatibility import Classes, classify
from mudanza.planning.groups import Groups
from mudanza.planning.naming import Directory
from mudanza.planning.needs import Needs, rooms, travel
from mudanza.planning.problem import NOWHERE, Bools, Floats, Numbers, Problem
from mudanza.planning.recent import Recent
from mudanza.planning.usage import usage
from mudanza.preflight.arrivals import Arrival

NOBODY_STAYS: Mapping[str, str] = MappingProxyType({})


def build(
    cluster: Cluster,
    rules: Rules,
    loads: Loads | None = None,
    arrivals: Sequence[Arrival] = (),
    recent: Recent | None = None,
    *,
    keep_together: bool = True,
    at_rest: frozenset[str] = frozenset(),
    closed: frozenset[str] = frozenset(),
    new: Sequence[Vm] = (),
    still: Mapping[str, str] = NOBODY_STAYS,
) -> Problem:
    """Return the problem. Hosts that were not seen are in it and take nothing.

    ``arrivals``: VMs that are on their way already; they are left alone, and what they will take is taken.
    ``keep_together``: whether VMs of a ``together`` rule that are apart are one unit that is nowhere; else each goes
    its own way. ``at_rest``: UUIDs of VMs that are off and count all the same (drained, placed). ``closed``: hosts
    that take nobody, besides those in maintenance. ``new``: VMs that are nowhere yet; their ``host`` is one they could
    come from. ``still``: VMs (by UUID) that plans of the operator's wish leave alone this time, and why.
    """
    hosts = list(cluster.hosts)
    places = {host.name: number for number, host in enumerate(hosts)}
    vms, doubles = _once(cluster, at_rest)
    vms += new
    directory = Directory(vms, hosts, rules.zones)
    notes: list[str] = []
    units = _units(vms, rules, directory, places, notes, keep_together=keep_together)
    unit_of = {vm: unit for unit, members in enumerate(units) for vm in members}
    place = np.array([places[vm.host] for vm in vms], dtype=np.int64)
    place[len(vms) - len(new) :] = NOWHERE
    start = np.array([_place(members, place) for members in units], dtype=np.int64)
    classes = classify(hosts, vms)
    kind, admit, ruled, wish_of, wish = _admission(units, classes, hosts, rules, directory)
    groups = Groups(rules, directory, units, unit_of, len(hosts))
    groups.add_clashes(vms, doubles, [vm for vm in cluster.vms if not vm.state.active], places)
    needs = Needs(vms, hosts, rules)
    use, base, capacity, measured = usage(vms, hosts, place, rules, loads, recent, notes)
    names = sorted(rules.zones)
    stuck = _stuck(units, vms, arrivals)
    ignored = _ignored(vms, unit_of, still, directory.vms(rules.ignored, "the list of ignored VMs"))
    notes += dict.fromkeys(directory.unknown)
    return Problem(
        cluster=cluster,
        rules=rules,
        hosts=hosts,
        vms=vms,
        units=units,
        start=start,
        dimensions=needs.dimensions,
        need=_sums(units, needs.of_vms),
        room=rooms(needs, hosts, vms, place, rules, arrivals, cluster),
        use=_sums(units, use),
        base=base,
        capacity=capacity,
        kind=kind,
        admit=admit,
        ruled=ruled,
        wish=wish,
        wish_of=wish_of,
        rows=groups.rows,
        adds=groups.adds,
        blocked_by=groups.blocked_by,
        fixed=groups.fixed,
        zone=np.array([_zone(names, rules, host.name) for host in hosts], dtype=np.int64),
        travel=_sums(units, np.array([[travel(vm)] for vm in vms]).reshape(len(vms), 1))[:, 0],
        movable=np.array([unit not in stuck and unit not in ignored for unit in range(len(units))], dtype=np.bool_),
        stuck=stuck,
        ignored=ignored,
        open=np.array([h.seen and not h.entry.maintenance and h.name not in closed for h in hosts], dtype=np.bool_),
        measured=measured,
        notes=notes,
    )


def _ignored(
    vms: Sequence[Vm], unit_of: Mapping[int, int], still: Mapping[str, str], listed: Iterable[int]
) -> dict[int, str]:
    found = {unit_of[n]: still[vm.uuid] for n, vm in enumerate(vms) if vm.uuid in still}
    found |= {unit_of[n]: why for n, vm in enumerate(vms) if (why := never_moved(vm))}
    return found | {unit_of[n]: "it is on the list of ignored VMs" for n in listed}


def _once(cluster: Cluster, at_rest: frozenset[str]) -> tuple[list[Vm], list[Vm]]:
    """Each VM where it is, and what else is listed of them; VMs that are off count only where they are asked for."""
    chosen: dict[str, Vm] = {}
    doubles: list[Vm] = []
    for vm in cluster.vms:
        if not vm.state.active and vm.uuid not in at_rest:
            continue
        other = chosen.get(vm.uuid)
        if other is None or (vm.state.active and not other.state.active):
            chosen[vm.uuid] = vm
            if other is not None:
                doubles.append(other)
        else:
            doubles.append(vm)
    return list(chosen.values()), doubles


def _units(
    vms: Sequence[Vm],
    rules: Rules,
    directory: Directory,
    places: dict[str, int],
    notes: list[str],
    *,
    keep_together: bool,
) -> list[tuple[int, ...]]:
    leader = list(range(len(vms)))

    def lead(vm: int) -> int:
        while leader[vm] != vm:
            vm = leader[vm]
        return vm

    for rule in rules.rules:
        if rule.kind is not RuleKind.TOGETHER:
            continue
        members = directory.vms(rule.vms, f"rule {rule.name!r}")
        if not keep_together and len({places[vms[vm].host] for vm in members}) > 1:
            continue
        for vm in members[1:]:
            leader[lead(vm)] = lead(members[0])
    units: dict[int, list[int]] = {}
    for vm in range(len(vms)):
        units.setdefault(lead(vm), []).append(vm)
    return _without_contradictions([tuple(members) for members in units.values()], rules, directory, notes)


def _without_contradictions(
    units: list[tuple[int, ...]], rules: Rules, directory: Directory, notes: list[str]
) -> list[tuple[int, ...]]:
    """VMs that one rule wants together and another one apart go each its own way, and that is said."""
    unit_of = {vm: unit for unit, members in enumerate(units) for vm in members}
    split: set[int] = set()
    for rule in rules.rules:
        asked_by = f"rule {rule.name!r}"
        if rule.kind is RuleKind.APART:
            mine = Counter(unit_of[vm] for vm in directory.vms(rule.vms, asked_by))
            against = {unit for unit, count in mine.items() if count > 1}
        elif rule.kind is RuleKind.GROUPS_APART:
            one, other = directory.vms(rule.vms, asked_by), directory.vms(rule.others, asked_by)
            against = {unit_of[vm] for vm in one} & {unit_of[vm] for vm in other}
        else:
            continue
        against = {unit for unit in against if len(units[unit]) > 1}
        if against:
            notes.append(f"{asked_by} wants apart what another rule wants together; it is apart that counts")
        split |= against
    whole = [members for unit, members in enumerate(units) if unit not in split]
    return whole + [(vm,) for unit in sorted(split) for vm in units[unit]]


def _place(members: tuple[int, ...], place: Numbers) -> int:
    there = {int(place[vm]) for vm in members}
    return there.pop() if len(there) == 1 else NOWHERE


def _admission(
    units: Sequence[tuple[int, ...]], classes: Classes, hosts: Sequence[Host], rules: Rules, directory: Directory
) -> tuple[Numbers, Bools, Bools, Numbers, Floats]:
    of_vm: dict[int, list[int]] = {}
    masks: list[Bools] = []
    for number, rule in enumerate(rules.rules):
        mask: Bools = np.zeros(len(hosts), dtype=np.bool_)
        if rule.kind.is_of_hosts:
            mask[directory.hosts(rule.hosts, f"rule {rule.name!r}")] = True
            for vm in directory.vms(rule.vms, f"rule {rule.name!r}"):
                of_vm.setdefault(vm, []).append(number)
        masks.append(mask)
    host_class = np.array(classes.hosts, dtype=np.int64)
    fits = np.array(classes.fits, dtype=np.bool_).reshape(len(classes.fits), max(classes.hosts, default=-1) + 1)
    kinds: dict[tuple[frozenset[int], frozenset[int]], int] = {}
    wishes: dict[frozenset[int], int] = {frozenset(): 0}
    admit: list[Bools] = []
    ruled: list[Bools] = []
    wish: list[Floats] = [np.zeros(len(hosts))]
    kind = np.zeros(len(units), dtype=np.int64)
    wish_of = np.zeros(len(units), dtype=np.int64)
    for unit, members in enumerate(units):
        asked = frozenset(rule for vm in members for rule in of_vm.get(vm, ()))
        key = (frozenset(classes.vms[vm] for vm in members), asked)
        if key not in kinds:
            kinds[key] = len(admit)
            ruled.append(_ruled(asked, rules, masks, len(hosts)))
            admit.append(ruled[-1] & np.all(fits[sorted(key[0])][:, host_class], axis=0))
        kind[unit] = kinds[key]
        soft = frozenset(rule for rule in asked if not rules.rules[rule].kind.is_hard)
        if soft not in wishes:
            wishes[soft] = len(wish)
            broken = [~masks[r] if rules.rules[r].kind is RuleKind.SHOULD else masks[r] for r in soft]
            wish.append(np.sum(broken, axis=0, dtype=np.float64))
        wish_of[unit] = wishes[soft]
    shape = (len(admit), len(hosts))
    return kind, np.array(admit, bool).reshape(shape), np.array(ruled, bool).reshape(shape), wish_of, np.array(wish)


def _ruled(asked: frozenset[int], rules: Rules, masks: Sequence[Bools], hosts: int) -> Bools:
    allowed = np.ones(hosts, dtype=np.bool_)
    for number in asked:
        if rules.rules[number].kind is RuleKind.MUST:
            allowed &= masks[number]
        elif rules.rules[number].kind is RuleKind.MUST_NOT:
            allowed &= ~masks[number]
    return allowed


def _sums(units: Sequence[tuple[int, ...]], of_vms: Floats) -> Floats:
    """Add up what the VMs of each unit have."""
    sums = np.zeros((len(units), of_vms.shape[1]))
    for unit, members in enumerate(units):
        sums[unit] = of_vms[members[0]] if len(members) == 1 else of_vms[list(members)].sum(axis=0)
    return sums


def _zone(names: Sequence[str], rules: Rules, host: str) -> int:
    zone = rules.zone_of(host)
    return NOWHERE if zone is None else names.index(zone)


def _stuck(units: Sequence[tuple[int, ...]], vms: Sequence[Vm], arrivals: Sequence[Arrival]) -> dict[int, str]:
    """Who is on its way, or in somebody else's hands."""
    coming = {arrival.uuid: arrival.target for arrival in arrivals}
    stuck = {}
    for unit, members in enumerate(units):
        for vm in (vms[number] for number in members):
            if vm.uuid in coming:
                stuck[unit] = f"{vm.name} is on its way to {coming[vm.uuid]}"
            elif vm.claims:
                stuck[unit] = f"{vm.name} is claimed: {vm.claims[0].in_words}"
    return stuck
