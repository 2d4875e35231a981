"""Test failover: whether a protected VM comes up from its replica is tried with a double that is cut off."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mudanza.journal.protections import Protections
from mudanza.protection.trial import Trials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudanza import clock
    from mudanza.operations.means import Means
    from mudanza.protection.trial import Report


def begin(
    means: Means, vm: str, point: int | None, asked_by: str, *, digests: bool, networks: Mapping[str, str]
) -> Report:
    """Have a double run, and leave it up. ``networks``: isolated ones for its cards. Raises UsageError, and as
    ``Trials.begin``."""
    store = Protections(means.database)
    protection = store.of(vm)
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        trials = Trials(connections, means.jobs, store)
        return trials.begin(protection, point, cluster, asked_by, digests=digests, networks=networks)


def await_agent(means: Means, vm: str, patience: float, over: clock.Event) -> bool:
    """Wait until the double's guest answers, ``patience`` seconds at the most, or until ``over``; return whether it
    does. Raises UsageError, BlockedError where there is no double."""
    store = Protections(means.database)
    with means.connections() as connections:
        return Trials(connections, means.jobs, store).await_agent(store.of(vm), patience, over)


def end(means: Means, vm: str, asked_by: str) -> Report:
    """Take the double away; return what was compared. Raises UsageError, and as ``Trials.end``."""
    store = Protections(means.database)
    protection = store.of(vm)
    with means.connections() as connections:
        read = partial(means.read_cluster, connections)
        return Trials(connections, means.jobs, store).end(protection, read, asked_by)
