"""What no journal of ours knows and somebody should: found in one picture of all hosts. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from mudanza.migration.cold.settle import settle_cold
from mudanza.migration.settle import settle
from mudanza.model.claim import Claim
from mudanza.model.cluster import Cluster
from mudanza.model.migration import Side, Sighting
from mudanza.model.tool import Tool
from mudanza.model.vm import Vm, VmState

_IN_BETWEEN = frozenset({"migrating", "post-copy", "post-copy failed", "starting up"})


class Kind(StrEnum):
    """What sort of thing an orphan is."""

    JOB = "job"
    """A claim of a job that this journal does not know."""
    CLAIM = "claim"
    """A claim of a job of this journal that has ended."""
    TWICE = "twice"
    """A VM that several hosts list, and no job knows why."""
    IN_BETWEEN = "in between"
    """A VM that some migration has left half done, and no job knows of it."""
    TOOL = "tool"
    """A throw-away domain, volume or pool of ours."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """One thing that is nobody's, in words."""

    name: str
    """What it is called on the command line."""
    kind: Kind
    where: tuple[str, ...]
    """Hosts."""
    what: str
    since: str
    truth: str
    """What seems to be the case."""
    would: str
    """What adopting or removing it would do."""
    adoptable: bool = False
    removable: bool = False
    uuid: str = ""
    claim: Claim | None = None
    tool: Tool | None = None


def find_orphans(
    cluster: Cluster, journal: str, ended: Iterable[int], unfinished: Mapping[int, str], tools: Sequence[Tool]
) -> tuple[Orphan, ...]:
    """Return what is nobody's.

    ``journal``: this journal's id; ``ended``, ``unfinished``: numbers of its jobs, the latter with their VM's UUID.
    """
    over, ours = frozenset(ended), frozenset(unfinished.values())
    copies: dict[str, list[Vm]] = defaultdict(list)
    for vm in cluster.vms:
        copies[vm.uuid].append(vm)
    found: list[Orphan] = []
    for uuid, vms in copies.items():
        claims = claims_of(vms)
        strange = [each for each in claims if not (each.journal == journal and each.job in unfinished)]
        found += [
            _of_claim(cluster, vms, claim, void=claim.journal == journal and claim.job in over) for claim in strange
        ]
        if not claims and uuid not in ours:
            found += _unclaimed(vms)
    return (*found, *(_of_tool(tool) for tool in tools))


def claims_of(vms: Sequence[Vm]) -> tuple[Claim, ...]:
    """Return the claims on the copies of one VM, one for each job: as far as the freshest of them knows."""
    found: dict[tuple[str, int], Claim] = {}
    for claim in (claim for vm in vms for claim in vm.claims):
        other = found.get(claim.key, claim)
        newest = max(claim, other, key=lambda each: (each.epoch, each.beat))
        made, done = ({*claim.made, *other.made}, {*claim.done, *other.done})
        found[claim.key] = replace(newest, made=tuple(sorted(made)), done=tuple(sorted(done)))
    return tuple(found.values())


def sighting_in(cluster: Cluster, host: str, uuid: str) -> Sighting:
    """Return what the picture says of a VM on a host; one that is not in it was not seen."""
    known = next((each for each in cluster.hosts if each.name == host), None)
    if known is None:
        return Sighting(Side.UNSEEN, reason=f"no host {host!r} is known here")
    if not known.seen:
        return Sighting(Side.UNSEEN, reason=known.error or "it was not seen")
    vm = next((each for each in cluster.vms_on(host) if each.uuid == uuid), None)
    if vm is None:
        return Sighting(Side.ABSENT)
    return Sighting(Side.PRESENT, vm.state, vm.reason, vm.persistent, vm.job)


def is_ours_at_target(cluster: Cluster, claim: Claim, uuid: str) -> bool:
    """Whether the target's definition carries the claim: then the job has made it."""
    there = (vm for vm in cluster.vms_on(claim.target) if vm.uuid == uuid)
    return any(claim.key == each.key for vm in there for each in vm.claims)


def was_compared(source: Sighting, target: Sighting, *, ours: bool) -> bool:
    """Whether a cold move had got so far that the VM is the target's: it lets the source go, and starts it at the
    target, only after both hosts' files were compared."""
    return ours and (source.side is Side.ABSENT or target.state.active)


def _of_claim(cluster: Cluster, vms: Sequence[Vm], claim: Claim, *, void: bool) -> Orphan:
    vm, where = vms[0], tuple(sorted(each.host for each in vms))
    what = f"VM {vm.name} ({vm.uuid}): {claim.in_words}"
    if void:
        return Orphan(
            claim.name,
            Kind.CLAIM,
            where,
            what,
            claim.since,
            "that job of this journal has ended, and the claim could not be taken off the VM then",
            "take the claim off the VM",
            removable=True,
            uuid=vm.uuid,
            claim=claim,
        )
    unknown = [host for host in (claim.source, claim.target) if host not in {each.name for each in cluster.hosts}]
    truth = _truth(cluster, claim, vm.uuid)
    if unknown or not claim.record:
        missing = f"no host {unknown[0]!r} is known here" if unknown else "the claim does not say what was decided"
        would = f"nothing: {missing}" + ("; add it under that name (mudanza host add)" if unknown else "")
        return Orphan(claim.name, Kind.JOB, where, what, claim.since, truth, would, uuid=vm.uuid, claim=claim)
    made = ", ".join(claim.made) or "nothing yet"
    would = (
        f"adopt: make it a job of this journal, which `mudanza job resume` brings to its end; remove: the same, and "
        f"give it up where it is not too late. It has made at {claim.target}: {made}"
    )
    return Orphan(
        claim.name,
        Kind.JOB,
        where,
        what,
        claim.since,
        truth,
        would,
        adoptable=True,
        removable=True,
        uuid=vm.uuid,
        claim=claim,
    )


def _truth(cluster: Cluster, claim: Claim, uuid: str) -> str:
    source, target = sighting_in(cluster, claim.source, uuid), sighting_in(cluster, claim.target, uuid)
    if claim.kind == "cpu":
        return f"it is {source.state} on {claim.source}, and its definition there has one CPU or the other"
    if claim.kind == "relocate":
        return f"it is {source.state} on {claim.source}, and its disks are moved there or half moved"
    if claim.kind == "cold":
        ours = is_ours_at_target(cluster, claim, uuid)
        cold = settle_cold(source, target, compared=was_compared(source, target, ours=ours), defined=ours)
        return f"{cold.why} ({claim.source} → {claim.target}): {cold.next}"
    live = settle(source, target)
    return f"{live.why} ({claim.source} → {claim.target}): {live.verdict}"


def _unclaimed(vms: Sequence[Vm]) -> Iterator[Orphan]:
    vm, where = vms[0], tuple(sorted(each.host for each in vms))
    states = ", ".join(f"{each.state} ({each.reason}) on {each.host}" for each in vms)
    if len(vms) > 1:
        active = [each.host for each in vms if each.state.active]
        truth = f"it is active on {' and '.join(active)}" if active else "it runs nowhere"
        yield Orphan(
            vm.name,
            Kind.TWICE,
            where,
            f"VM {vm.name} ({vm.uuid}) is listed by {len(vms)} hosts: {states}",
            "",
            truth + (": TWO COPIES MAY RUN" if len(active) > 1 else ""),
            "nothing: nobody claims it, so which one is right is for you to say (virsh undefine --keep-nvram)",
            uuid=vm.uuid,
        )
    elif vm.state is VmState.PAUSED and vm.reason in _IN_BETWEEN and vm.job is None:
        yield Orphan(
            vm.name,
            Kind.IN_BETWEEN,
            where,
            f"VM {vm.name} ({vm.uuid}) is {states}",
            "",
            "some migration has stopped half way, and no job of ours knows of it",
            "nothing: do not resume it before you know that it runs nowhere else",
            uuid=vm.uuid,
        )


def _of_tool(tool: Tool) -> Orphan:
    since = datetime.fromtimestamp(tool.made_at, UTC).isoformat(timespec="seconds")
    truth = "whoever made it is gone" if tool.abandoned else "another controller may be at work with it"
    would = "remove it" if tool.abandoned else "nothing, as long as it may be in use"
    inside = f" in pool {tool.pool}" if tool.pool else ""
    what = f"{tool.kind} {tool.name}{inside} on {tool.host}, a throw-away thing of ours"
    return Orphan(
        tool.name,
        Kind.TOOL,
        (tool.host,),
        what,
        since,
        truth,
        would,
        removable=tool.abandoned,
        tool=tool,
    )
