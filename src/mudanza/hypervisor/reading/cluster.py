"""Many hosts, read in parallel into one immutable picture."""

from __future__ import annotations

from collections.abc import Iterable

from mudanza.hypervisor.bounded import Deadline, for_many
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.hosts import read_resources
from mudanza.hypervisor.reading.vms import read_vms
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host, HostEntry
from mudanza.model.vm import Vm

READ_TIMEOUT = 10.0
"""Seconds one host may take to be reached and read."""
AT_ONCE = 48
"""Hosts that are read at one time..."""
PATIENCE = 1.0
"""... not counting those that take longer than so many seconds: they hold up nobody."""
_GRACE = 0.5
"""Seconds more until a host is given up that has kept none of its limits."""

Reading = tuple[Host, tuple[Vm, ...]]


def read_cluster(
    entries: Iterable[HostEntry],
    *,
    timeout: float = READ_TIMEOUT,
    connections: Connections | None = None,
    resources: bool = True,
    gap: float = 0.0,
) -> Cluster:
    """Return all hosts and their VMs, every host within ``timeout`` seconds of its turn, side by side.

    Raises nothing for a host that is down, slow or broken: its ``error`` says why, and nothing is known of it.
    ``connections``: those to use and leave open; else they are opened and closed here. ``resources`` False: of the
    hosts themselves only whether they answer, in a fraction of the time. ``gap``: seconds between the turns of two.
    """
    hosts = list(entries)
    if connections is None:
        with Connections(hosts, timeout=timeout) as own:
            return read_cluster(hosts, timeout=timeout, connections=own, resources=resources, gap=gap)
    held = connections
    readings = for_many(
        lambda entry: read_host(entry, timeout, connections=held, resources=resources),
        hosts,
        at_once=AT_ONCE,
        patience=PATIENCE,
        timeout=timeout + _GRACE,
        gap=gap,
    )
    seen = [
        _unseen(entry, reading) if isinstance(reading, BaseException) else reading
        for entry, reading in zip(hosts, readings, strict=True)
    ]
    return Cluster(tuple(host for host, _ in seen), tuple(vm for _, vms in seen for vm in vms))


def read_host(
    entry: HostEntry, timeout: float = READ_TIMEOUT, *, connections: Connections | None = None, resources: bool = True
) -> Reading:
    """Return one host and its VMs within ``timeout`` seconds; never raises, see ``read_cluster``."""
    if connections is None:
        with Connections([entry], timeout=timeout) as own:
            return read_host(entry, timeout, connections=own, resources=resources)
    deadline = Deadline(timeout)
    try:
        connection = connections.get(entry.name, timeout=deadline.left)
        host = read_resources(connection, deadline) if resources else Host(entry)
        return host, read_vms(connection, deadline)
    except Exception as error:
        # Whatever is the matter with one host is said of that host, and hides no other.
        return _unseen(entry, error)


def _unseen(entry: HostEntry, why: BaseException) -> Reading:
    # Whoever shows it names the host.
    return Host(
        entry, error=str(why).removeprefix(f"host {entry.name}: ") if isinstance(why, MudanzaError) else repr(why)
    ), ()
