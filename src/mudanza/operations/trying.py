"""Test failover: whether a protected VM comes up from its replica is tried with a double that is cut off."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mudanza.journal.protections import Protections, the_one_at
from mudanza.model.migration import Side
from mudanza.protection.choosing import meant, unseen
from mudanza.protection.trial import Trials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudanza import clock
    from mudanza.model.protection import Protection
    from mudanza.operations.means import Means
    from mudanza.protection.trial import Report


def begin(
    means: Means,
    vm: str,
    point: int | None,
    asked_by: str,
    *,
    digests: bool,
    networks: Mapping[str, str],
    on: str | None = None,
) -> Report:
    """Have a double run, and leave it up. ``networks``: isolated ones for its cards; ``on``: the host whose replica is
    tried, else that which a failover would take. Raises UsageError, and as ``Trials.begin``."""
    store = Protections(means.database)
    replicas = store.all_of(vm) if on is None else (store.of(vm, on),)
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        protection = meant(replicas, unseen(cluster))
        trials = Trials(connections, means.jobs, store)
        return trials.begin(protection, point, cluster, asked_by, digests=digests, networks=networks)


def await_agent(means: Means, vm: str, patience: float, over: clock.Event, on: str | None = None) -> bool:
    """Wait until the double's guest answers, ``patience`` seconds at the most, or until ``over``; return whether it
    does. Raises UsageError, BlockedError where there is no double."""
    store = Protections(means.database)
    with means.connections() as connections:
        return Trials(connections, means.jobs, store).await_agent(tried(store, vm, on), patience, over)


def runs(means: Means, vm: str, on: str) -> bool:
    """Whether the double from a replica at a host runs now."""
    trial = tried(Protections(means.database), vm, on).trial
    with means.connections() as connections:
        seen = connections.domains(on).sighting(trial.uuid if trial is not None else "")
    return seen.side is Side.PRESENT and seen.state.active


def end(means: Means, vm: str, asked_by: str, on: str | None = None) -> Report:
    """Take the double away; return what was compared. Raises UsageError, and as ``Trials.end``."""
    store = Protections(means.database)
    protection = tried(store, vm, on)
    with means.connections() as connections:
        read = partial(means.read_cluster, connections)
        return Trials(connections, means.jobs, store).end(protection, read, asked_by)


def tried(store: Protections, vm: str, on: str | None = None) -> Protection:
    """Return the replica of a VM that is being tried: that at a host, or the only one of which a double is up. Raises
    UsageError where that is not clear."""
    replicas = store.all_of(vm)
    up = [each for each in replicas if each.trial is not None]
    return the_one_at(up if up and on is None else replicas, on)
