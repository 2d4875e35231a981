"""What of our own is on a host, at work or left behind: listed, and taken away one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.throwaway import (
    active_pools,
    gone_is_fine,
    is_abandoned,
    is_carrying,
    made_at,
    purpose_of,
    remove_domain,
)
from mudanza.model.tool import Tool

LOOK_TIMEOUT = 60.0
"""Seconds that looking through a host may take."""
REMOVAL_TIMEOUT = 60.0
"""Seconds that taking one thing away may take."""


def tools_on(host: HostConnection) -> tuple[Tool, ...]:
    """Return everything of our own on a host. Raises HostUnreachableError, HypervisorError."""
    return host.ask(lambda raw: tuple(_look(raw, host.name)), timeout=LOOK_TIMEOUT)


def carriers_on(host: HostConnection, paths: frozenset[str]) -> tuple[str, ...]:
    """Return the names of the carriers on a host that have one of these files open.

    Raises HostUnreachableError, HypervisorError.
    """
    return host.ask(lambda raw: tuple(_carriers(raw, paths)), timeout=LOOK_TIMEOUT)


def remove_tool(host: HostConnection, tool: Tool) -> None:
    """Take one thing of our own away; nothing else is touched. Raises HostUnreachableError, HypervisorError."""
    host.ask(lambda raw: _remove(raw, tool), timeout=REMOVAL_TIMEOUT)


def _look(raw: Any, host: str) -> Iterator[Tool]:
    for domain in raw.listAllDomains():
        name = domain.name()
        if purpose_of(name) is not None:
            with gone_is_fine():
                yield Tool(host, "domain", name, "", made_at(name), is_abandoned(name) and not is_carrying(domain))
    for pool in active_pools(raw):
        if purpose_of(pool.name()) is not None:
            yield Tool(host, "pool", pool.name(), "", made_at(pool.name()), is_abandoned(pool.name()))
            continue
        with gone_is_fine():
            for name in pool.listVolumes():
                if purpose_of(name) is not None:
                    yield Tool(host, "volume", name, pool.name(), made_at(name), is_abandoned(name))


def _carriers(raw: Any, paths: frozenset[str]) -> Iterator[str]:
    for domain in raw.listAllDomains():
        if purpose_of(domain.name()) == "carrier":
            with gone_is_fine():
                xml = domain.XMLDesc(0)
                if any(f"'{path}'" in xml for path in paths):
                    yield domain.name()


def _remove(raw: Any, tool: Tool) -> None:
    with gone_is_fine():
        match tool.kind:
            case "domain":
                remove_domain(raw, tool.name)
            case "pool":
                raw.storagePoolLookupByName(tool.name).destroy()
            case _:
                raw.storagePoolLookupByName(tool.pool).storageVolLookupByName(tool.name).delete(0)
