"""Many hosts, read in parallel into one immutable picture."""

from __future__ import annotations

from collections.abc import Iterable

from mudanza.hypervisor.bounded import Deadline, for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.hosts import read_resources
from mudanza.hypervisor.reading.vms import read_vms
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host, HostEntry
from mudanza.model.vm import Vm

READ_TIMEOUT = 10.0
"""Seconds one host may take to be reached and read."""
_GRACE = 0.5
"""Seconds more until a host is given up that has kept none of its limits."""

Reading = tuple[Host, tuple[Vm, ...]]


def read_cluster(
    entries: Iterable[HostEntry], *, timeout: float = READ_TIMEOUT, connections: Connections | None = None
) -> Cluster:
    """Return all hosts and their VMs, every host within ``timeout`` seconds and all of them at once.

    Raises nothing for a host that is down, slow or broken: its ``error`` says why, and nothing is known of it.
    ``connections``: those to use and leave open; else they are opened and closed here.
    """
    hosts = list(entries)
    if connections is None:
        with Connections(hosts, timeout=timeout) as own:
            return read_cluster(hosts, timeout=timeout, connections=own)
    held = connections
    readings = for_each(
        lambda entry: read_host(entry, timeout, connections=held),
        hosts,
        workers=max(len(hosts), 1),
        timeout=timeout + _GRACE,
    )
    seen = [
        _unseen(entry, reading) if isinstance(reading, BaseException) else reading
        for entry, reading in zip(hosts, readings, strict=True)
    ]
    return Cluster(tuple(host for host, _ in seen), tuple(vm for _, vms in seen for vm in vms))


def read_host(entry: HostEntry, timeout: float = READ_TIMEOUT, *, connections: Connections | None = None) -> Reading:
    """Return one host and its VMs within ``timeout`` seconds; never raises, see ``read_cluster``."""
    if connections is None:
        with Connections([entry], timeout=timeout) as own:
            return read_host(entry, timeout, connections=own)
    deadline = Deadline(timeout)
    try:
        connection = connections.get(entry.name, timeout=deadline.left)
        return read_resources(connection, deadline), read_vms(connection, deadline)
    except Exception as error:
        # Whatever is the matter with one host is said of that host, and hides no other.
        return _unseen(entry, error)


def _unseen(entry: HostEntry, why: BaseException) -> Reading:
    # Whoever shows it names the host.
    return Host(
        entry, error=str(why).removeprefix(f"host {entry.name}: ") if isinstance(why, MudanzaError) else repr(why)
    ), ()
