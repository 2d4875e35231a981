"""Hosts' power as it is asked for: what they draw, which have to stay on, and what a plan would save."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mudanza.model.host_power import HostPower
from mudanza.model.plan import Goal, Plan

if TYPE_CHECKING:
    from mudanza.model.cluster import Cluster
    from mudanza.operations.means import Means, Tariff

LOCAL = ("localhost", "127.0.0.1", "::1", "")


def put(means: Means, host: str, wanted: HostPower) -> bool:
    """Keep exactly this of a host's power; return whether it was something else before. Raises UsageError."""
    from mudanza.journal.host_power import HostPowers

    means.inventory.host(host)
    return HostPowers(means.database).put(host, wanted)


def put_all(means: Means, wanted: Mapping[str, HostPower]) -> tuple[str, ...]:
    """Keep exactly this of each host's power; return of whom it was something else."""
    return tuple(host for host, power in wanted.items() if put(means, host, power))


def needed_hosts(means: Means, cluster: Cluster) -> Mapping[str, str]:
    """Return the hosts that are not switched off, and why."""
    from mudanza.journal.host_power import HostPowers
    from mudanza.planning.saving.needed import needed

    awake = [host.name for host in cluster.hosts if host.seen and not host.entry.maintenance]
    kept = {name: "it is to be kept on" for name, power in HostPowers(means.database).all().items() if power.keep_on}
    kept |= _of_the_controller(cluster, means.database.url.host or "")
    return needed(cluster, means.inventory.rules(), awake, kept)


def _of_the_controller(cluster: Cluster, server: str) -> Mapping[str, str]:
    """Return the hosts that this controller or the database's server is on."""
    found = {}
    for host in cluster.hosts:
        address = urlsplit(host.entry.uri).hostname or ""
        if address in LOCAL or host.hostname == os.uname().nodename:
            found[host.name] = "the controller runs on it"
        elif server and _same(server, address):
            found[host.name] = "the database is on it"
    return found


def _same(one: str, other: str) -> bool:
    return one == other or bool(_addresses(one) & _addresses(other))


def _addresses(name: str) -> set[str]:
    try:
        return {str(ipaddress.ip_address(name))}
    except ValueError:
        pass
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def with_savings(means: Means, plan: Plan, cluster: Cluster, tariff: Tariff) -> Plan:
    """Return a plan of consolidation that says besides what it saves, done and not done."""
    from mudanza.journal.host_power import HostPowers
    from mudanza.planning.saving.estimate import estimate, in_words

    if plan.goal is not Goal.CONSOLIDATE:
        return plan
    known = HostPowers(means.database).all()
    models = {name: power.watts for name, power in known.items() if power.watts is not None}
    found = estimate(plan.outlooks, models, needed_hosts(means, cluster))
    return replace(plan, notes=(*plan.notes, *in_words(found, tariff.price, tariff.currency)))
