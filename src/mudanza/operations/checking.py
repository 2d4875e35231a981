"""May a VM go there? Everything that stands against it, and how everything that it is would travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza.model.finding import Finding, blockers
from mudanza.model.migration import Facts, MigrationOptions, with_wishes
from mudanza.operations.concern import About, scene_of
from mudanza.preflight.journey import Leg

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.jobs import Jobs
    from mudanza.migration.arrivals import Arrivals
    from mudanza.migration.prepare import Candidate, Judge
    from mudanza.model.cluster import Cluster
    from mudanza.operations.means import Means


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found of one host that the VM might go to."""

    target: str
    possible: bool
    findings: tuple[Finding, ...]
    travels: tuple[Leg, ...]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of every host that was asked about."""

    vm: str
    uuid: str
    source: str
    targets: tuple[Judged, ...]

    @property
    def is_possible(self) -> bool:
        """Whether it can go to any of them."""
        return any(each.possible for each in self.targets)


def check(means: Means, vm: str, to: str | None, options: MigrationOptions) -> Check:
    """Say everything that stands against a move to a host, or to every other one. The VM is not touched.

    Raises UsageError and BlockedError where VM or host are not found, HostUnreachableError.
    """
    with means.connections() as connections:
        judge, cluster = judge_of(means, connections, arrivals_of(means), about=About(vm, to))
        found = cluster.find(vm, bound_for=to)
        options = with_wishes(options, found.wishes)
        if to is None:
            candidates = judge.judge_all(found, options, rehearse=True)
        else:
            candidates = (judge.judge(found, cluster.host(to), options, rehearse=True),)
    return Check(found.name, found.uuid, found.host, tuple(map(_judged, candidates)))


def _judged(candidate: Candidate) -> Judged:
    possible = not blockers(candidate.findings)
    return Judged(candidate.target.name, possible, candidate.findings, candidate.travels, candidate.facts)


def judge_of(
    means: Means,
    connections: Connections,
    arrivals: Arrivals,
    jobs: Jobs | None = None,
    about: About | None = None,
) -> tuple[Judge, Cluster]:
    """Return who judges moves in a picture of the cluster taken now, and the picture.

    ``jobs``: the journal as whoever has claimed a job sees it, where a move is not to begin a job of its own;
    ``about``: the one move that is judged, so that hosts which it does not concern may be as they are known.
    """
    expected = arrivals.expected()
    scene = scene_of(means, connections, about, expected)
    from mudanza.migration.prepare import Judge

    judge = Judge(
        connections, means.inventory, jobs or means.jobs, scene.cluster, arrivals, expected, means.hooks, scene.age
    )
    return judge, scene.cluster


def arrivals_of(means: Means) -> Arrivals:
    """Return who knows which VMs are on their way to where."""
    from mudanza.migration.arrivals import Arrivals

    return Arrivals(means.jobs)
