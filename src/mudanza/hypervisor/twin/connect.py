"""A connection to a host, as libvirt-python shows it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import libvirt
from lxml import etree

from mudanza.hypervisor.twin import errors
from mudanza.hypervisor.twin.domain_handle import DomainHandle
from mudanza.hypervisor.twin.host import Domain
from mudanza.hypervisor.twin.line import Line
from mudanza.hypervisor.twin.storage import PoolHandle, StreamHandle, VolumeHandle, put_pool

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.host import TwinHost
    from mudanza.hypervisor.twin.scheduler import Controller
    from mudanza.hypervisor.twin.world import Twin

__all__ = ["Connect", "DomainHandle", "Line", "open_line"]

NO_ANSWER = 127.0
"""Seconds until the kernel gives up a connection to a host that is not there."""
_LIBVIRT, _QEMU = 9_000_000, 7_002_022
_KIB = 1024
_NETWORK = "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>"

_MARKS: dict[int, Callable[[Domain], bool]] = {
    libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT: lambda domain: domain.definition is not None,
    libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART: lambda domain: domain.autostart,
    libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE: lambda _domain: False,
    libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT: lambda domain: bool(domain.snapshots),
    libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT: lambda domain: bool(domain.checkpoints),
    0: lambda _domain: True,
}


@cache
def _recorded(name: str) -> str:
    return resources.files("mudanza.hypervisor.twin").joinpath("recorded", name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Named:
    """Something of which only the name is asked."""

    called: str

    def name(self) -> str:
        return self.called


@dataclass(frozen=True)
class _Network:
    xml: str

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802 - libvirt's names, here and below
        return self.xml


def open_line(twin: Twin, host: TwinHost | None, controller: Controller) -> Connect:
    """Log in to a host. Raises libvirtError."""
    twin.scheduler.point("open")
    if host is None:
        raise errors.no_way("nowhere", "Name or service not known", errno.EINVAL)
    if not twin.reachable(host):
        twin.scheduler.sleep(NO_ANSWER)
        raise errors.no_way(host.name, "Connection timed out", errno.ETIMEDOUT)
    twin.scheduler.sleep(0.02)
    if not host.answers:
        raise errors.no_way(host.name, "Connection refused", errno.ECONNREFUSED)
    if host.refuses_logins:
        raise errors.refusal(libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_FROM_RPC, "authentication failed")
    return Connect(Line(twin, host, controller))


class Connect:
    """As virConnect."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def setKeepAlive(self, _interval: int, _count: int) -> int:  # noqa: N802
        return 0

    def isAlive(self) -> int:  # noqa: N802
        return int(self._line.stands)

    def isSecure(self) -> int:  # noqa: N802
        return 1

    def close(self) -> int:
        self._line.close()
        return 0

    # The host.

    def getHostname(self) -> str:  # noqa: N802
        return self._line.ask("hostname", lambda: self._line.host.name)

    def getLibVersion(self) -> int:  # noqa: N802
        return self._line.ask("version", lambda: _LIBVIRT)

    def getVersion(self) -> int:  # noqa: N802
        return self._line.ask("version", lambda: _QEMU)

    def getInfo(self) -> list[Any]:  # noqa: N802
        return self._line.ask("info", lambda: ["x86_64", self._line.host.memory // 1024**2, 2, 2793, 1, 1, 2, 1])

    def getMemoryStats(self, _cell: int, _flags: int = 0) -> dict[str, int]:  # noqa: N802
        def look() -> dict[str, int]:
            host = self._line.host
            used = sum(qemu.memory for qemu in self._line.twin.oracle.qemus if qemu.host is host)
            return {"total": host.memory // _KIB, "free": (host.memory - used) // _KIB, "buffers": 0, "cached": 0}

        return self._line.ask("memory", look)

    def getFreePages(self, pages: list[int], _start: int, _count: int, _flags: int = 0) -> dict[int, dict[int, int]]:  # noqa: N802
        return self._line.ask("pages", lambda: {0: dict.fromkeys(pages, 0)})

    def getCapabilities(self) -> str:  # noqa: N802
        def look() -> str:
            root = etree.fromstring(_recorded("capabilities.xml"))
            name = root.find("host/uuid")
            if name is not None:
                name.text = self._line.host.uuid
            return etree.tostring(root, encoding="unicode")

        return self._line.ask("capabilities", look)

    def getDomainCapabilities(self, *_about: Any) -> str:  # noqa: N802
        return self._line.ask("domain capabilities", lambda: _recorded("domain_capabilities.xml"))

    def baselineCPU(self, _cpus: list[str], _flags: int = 0) -> str:  # noqa: N802
        return self._line.ask("baseline CPU", lambda: _recorded("cpu.xml"))

    def compareCPU(self, _cpu: str, _flags: int = 0) -> int:  # noqa: N802
        return self._line.ask("compare CPU", lambda: int(libvirt.VIR_CPU_COMPARE_IDENTICAL))

    def compareHypervisorCPU(self, *_about: Any) -> int:  # noqa: N802
        return self._line.ask("compare CPU", lambda: int(libvirt.VIR_CPU_COMPARE_SUPERSET))

    def listAllInterfaces(self, _flags: int = 0) -> list[_Named]:  # noqa: N802
        return self._line.ask("interfaces", lambda: [_Named("br0"), _Named("lo")])

    def listAllNWFilters(self, _flags: int = 0) -> list[_Named]:  # noqa: N802
        return self._line.ask("filters", list)

    def listAllSecrets(self, _flags: int = 0) -> list[Any]:  # noqa: N802
        return self._line.ask("secrets", list)

    def listAllNetworks(self, flags: int = 0) -> list[_Network]:  # noqa: N802
        active = not flags or flags & libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE
        return self._line.ask("networks", lambda: [_Network(_NETWORK)] if active else [])

    # Domains.

    def listAllDomains(self, flags: int = 0) -> list[DomainHandle]:  # noqa: N802
        marked = _MARKS[flags]
        return self._line.ask("list domains", lambda: [self._handle(each) for each in self._domains() if marked(each)])

    def _domains(self) -> list[Domain]:
        return list(self._line.host.domains.values())

    def _handle(self, domain: Domain) -> DomainHandle:
        return DomainHandle(self._line, domain.uuid, domain.name)

    def lookupByUUIDString(self, uuid: str) -> DomainHandle:  # noqa: N802
        return self._line.ask("look up", lambda: self._handle(self._line.host.domain(uuid)))

    def lookupByName(self, name: str) -> DomainHandle:  # noqa: N802
        def look() -> DomainHandle:
            for domain in self._domains():
                if domain.name == name:
                    return self._handle(domain)
            raise errors.no_domain("name", name)

        return self._line.ask("look up", look)

    def getAllDomainStats(self, _stats: int = 0, _flags: int = 0) -> list[tuple[DomainHandle, dict[str, int]]]:  # noqa: N802
        return self._line.ask(
            "stats",
            lambda: [
                (self._handle(each), {"state.state": each.state, "state.reason": each.reason})
                for each in self._domains()
            ],
        )

    def domainListGetStats(  # noqa: N802
        self, domains: list[DomainHandle], _stats: int = 0, _flags: int = 0
    ) -> list[tuple[DomainHandle, dict[str, Any]]]:
        return self._line.ask("stats", lambda: [(each, self._figures(each.UUIDString())) for each in domains])

    def _figures(self, uuid: str) -> dict[str, Any]:
        domain = self._line.host.domain(uuid)
        figures: dict[str, Any] = {"cpu.time": 10**9}
        if domain.qemu is None:
            return figures
        figures |= {"balloon.rss": domain.qemu.memory // _KIB, "block.count": len(domain.qemu.images)}
        for number, image in enumerate(domain.qemu.images):
            file = image.file
            figures |= {
                f"block.{number}.name": image.target,
                f"block.{number}.wr.bytes": domain.qemu.counter * 16,
                f"block.{number}.capacity": file.virtual_size,
                f"block.{number}.physical": file.allocated,
            }
        return figures

    def defineXML(self, xml: str) -> DomainHandle:  # noqa: N802
        domain: Domain = self._line.order("define", lambda: self._line.host.define(xml))
        return self._handle(domain)

    def createXML(self, xml: str, flags: int = 0) -> DomainHandle:  # noqa: N802
        paused = bool(flags & libvirt.VIR_DOMAIN_START_PAUSED)
        owner = self._line if flags & libvirt.VIR_DOMAIN_START_AUTODESTROY else None
        uuid = self._line.order("create", lambda: self._line.host.create(xml, paused=paused, owner=owner))
        return self.lookupByUUIDString(uuid)

    # Storage.

    def listAllStoragePools(self, flags: int = 0) -> list[PoolHandle]:  # noqa: N802
        def wanted(active: bool) -> bool:
            kinds = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE, libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE
            return not flags or bool(flags & kinds[0 if active else 1])

        pools = self._line.host.pools
        return self._line.ask(
            "list pools", lambda: [PoolHandle(self._line, pool) for pool in pools.values() if wanted(pool.active)]
        )

    def storagePoolLookupByName(self, name: str) -> PoolHandle:  # noqa: N802
        def look() -> PoolHandle:
            if name not in self._line.host.pools:
                raise errors.no_pool(name)
            return PoolHandle(self._line, self._line.host.pools[name])

        return self._line.ask("look up pool", look)

    def storageVolLookupByPath(self, path: str) -> VolumeHandle:  # noqa: N802
        def look() -> VolumeHandle:
            directory, _, name = path.rpartition("/")
            for pool in self._line.host.pools.values():
                if pool.active and pool.path == directory and name in pool.seen:
                    return VolumeHandle(self._line, pool, name)
            raise errors.no_volume("path", path)

        return self._line.ask("look up volume", look)

    def storagePoolCreateXML(self, xml: str, _flags: int = 0) -> PoolHandle:  # noqa: N802
        pool = self._line.order("create pool", lambda: put_pool(self._line.host, xml))
        return PoolHandle(self._line, pool)

    def newStream(self, _flags: int = 0) -> StreamHandle:  # noqa: N802
        return StreamHandle(self._line)
