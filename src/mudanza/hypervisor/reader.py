"""Many hosts, read in parallel into one immutable picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mudanza.hypervisor.bounded import Deadline, Task, for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.host_reader import read_resources
from mudanza.hypervisor.vm_reader import read_vms
from mudanza.model.cluster import Cluster
from mudanza.model.errors import HostUnreachableError, MudanzaError
from mudanza.model.host import Host, HostEntry
from mudanza.model.vm import Vm

READ_TIMEOUT = 10.0
"""Seconds one host may take to be reached and read."""
_GRACE = 0.5
"""Seconds kept back of them to put together what is there when some of it does not come."""

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
        return connection.ask(lambda raw: _read(raw, entry, Deadline(deadline.left - _GRACE)), timeout=deadline.left)
    except Exception as error:
        # Whatever is the matter with one host is said of that host, and hides no other.
        return _unseen(entry, error)


def _read(raw: Any, entry: HostEntry, deadline: Deadline) -> Reading:
    resources = Task(lambda: read_resources(raw, entry))
    vms = Task(lambda: read_vms(raw, entry.name, deadline))
    try:
        return resources.wait(deadline.left), vms.wait(deadline.left)
    except TimeoutError:
        raise HostUnreachableError(
            entry.name, f"libvirt did not tell everything within {deadline.timeout:.3g} s"
        ) from None


def _unseen(entry: HostEntry, why: BaseException) -> Reading:
    return Host(entry, error=str(why) if isinstance(why, MudanzaError) else f"host {entry.name}: {why!r}"), ()
