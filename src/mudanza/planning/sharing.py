"""Storage that hosts share although libvirt does not know: a directory on NFS, say, of which the operator says so."""

from __future__ import annotations

from dataclasses import replace

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.rules import Rules
from mudanza.preflight.mapping import FILE_POOLS

SHARED = "netfs"
"""The kind of pool that it is taken for."""


def declared(cluster: Cluster, rules: Rules) -> Cluster:
    """Return the cluster with pools of files that the rules say are shared as pools of a kind that is."""
    if not rules.shared_pools:
        return cluster
    return replace(cluster, hosts=tuple(_with_shared(host, rules) for host in cluster.hosts))


def _with_shared(host: Host, rules: Rules) -> Host:
    if not host.pools:
        return host
    pools = (
        replace(pool, kind=SHARED) if pool.name in rules.shared_pools and pool.kind in FILE_POOLS else pool
        for pool in host.pools
    )
    return replace(host, pools=tuple(pools))
