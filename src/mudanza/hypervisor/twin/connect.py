"""A connection to a host, as libvirt-python shows it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import libvirt
from lxml import etree

from mudanza.hypervisor.twin import cpus, definitions, errors
from mudanza.hypervisor.twin.domain import Domain
from mudanza.hypervisor.twin.domain_handle import DomainHandle
from mudanza.hypervisor.twin.line import Line
from mudanza.hypervisor.twin.storage import PoolHandle, StreamHandle, VolumeHandle, put_pool
from mudanza.model.units import MIB

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.host import TwinHost
    from mudanza.hypervisor.twin.threads import Controller
    from mudanza.hypervisor.twin.world import Twin

__all__ = ["Connect", "DomainHandle", "Line", "open_line"]

NO_ANSWER = 127.0
"""Seconds until the kernel gives up a connection to a host that is not there."""
_LIBVIRT, _QEMU = 9_000_000, 7_002_022
_KIB = 1024
_CPUS = 2
_OWN_MEMORY = 256 * MIB
_ITSELF = 0.05
"""CPUs that a host uses for itself."""
_NETWORK = "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>"
_CARD = (
    "<device><path>/sys/devices/pci0000:00/0000:00:02.0/net/eth0</path><parent>pci_0000_00_02_0</parent>"
    "<capability type='net'><interface>eth0</interface><address>52:54:00:AA:00:01</address><link state='{}'/>"
    "</capability></device>"
)
"""Of every host alike: nothing is sent there."""
_BRIDGE = (
    "<interface type='bridge' name='br0'><bridge><interface type='ethernet' name='eth0'><link state='{}'/></interface>"
    "</bridge></interface>"
)

_MARKS: dict[int, Callable[[Domain], bool]] = {
    libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT: lambda domain: domain.definition is not None,
    libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART: lambda domain: domain.autostart,
    libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE: lambda _domain: False,
    libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT: lambda domain: bool(domain.snapshots),
    libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT: lambda domain: bool(domain.checkpoints),
    0: lambda _domain: True,
}


_recorded = cache(cpus.recorded)


@dataclass(frozen=True)
class _Named:
    """Something of which only the name is asked."""

    called: str

    def name(self) -> str:
        return self.called


@dataclass(frozen=True)
class _Described(_Named):
    """... and what it is."""

    xml: str

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return self.xml


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
        return self._line.ask("info", lambda: ["x86_64", self._line.host.memory // 1024**2, _CPUS, 2793, 1, 1, 2, 1])

    def getMemoryStats(self, cell: int, _flags: int = 0) -> dict[str, int]:  # noqa: N802
        def look() -> dict[str, int]:
            host = self._line.host
            used = _OWN_MEMORY + sum(qemu.memory for qemu in self._line.twin.oracle.qemus if qemu.host is host)
            told = {"total": host.memory // _KIB, "free": (host.memory - used) // _KIB}
            if cell == libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS:
                return {**told, "buffers": 0, "cached": 0}
            if not 0 <= cell < host.nodes:
                words = f"cellNum in virHostMemGetStatsLinux must be less than or equal to {host.nodes - 1}"
                raise errors.refusal(libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_FROM_NONE, f"invalid argument: {words}")
            return {name: (amount - host.beyond_nodes // _KIB) // host.nodes for name, amount in told.items()}

        return self._line.ask("memory", look)

    def getCPUStats(self, _cpu: int, _flags: int = 0) -> dict[str, int]:  # noqa: N802
        def look() -> dict[str, int]:
            host, twin = self._line.host, self._line.twin
            busy = host.cpu_seconds_before + sum(
                twin.cpu_seconds(each) for each in twin.oracle.qemus if each.host is host
            )
            busy += _ITSELF * twin.scheduler.now
            idle = max(0.0, _CPUS * twin.scheduler.now - busy)
            return {"kernel": 0, "user": int(busy * 1e9), "idle": int(idle * 1e9), "iowait": 0}

        return self._line.ask("CPU stats", look)

    def getFreePages(self, pages: list[int], _start: int, _count: int, _flags: int = 0) -> dict[int, dict[int, int]]:  # noqa: N802
        return self._line.ask("pages", lambda: {n: dict.fromkeys(pages, 0) for n in range(self._line.host.nodes)})

    def getCapabilities(self) -> str:  # noqa: N802
        def look() -> str:
            root = etree.fromstring(_recorded("capabilities.xml"))
            name = root.find("host/uuid")
            if name is not None:
                name.text = self._line.host.uuid
            host = self._line.host
            _divide(root, (host.memory - host.beyond_nodes) // _KIB, host.nodes)
            return etree.tostring(root, encoding="unicode")

        return self._line.ask("capabilities", look)

    def getDomainCapabilities(self, *_about: Any) -> str:  # noqa: N802
        host = self._line.host
        return self._line.ask("domain capabilities", lambda: cpus.capabilities(host.cpu_lacks, host.cpu_vendor))

    def baselineCPU(self, _cpus: list[str], _flags: int = 0) -> str:  # noqa: N802
        return self._line.ask("baseline CPU", lambda: _recorded("cpu.xml"))

    def compareCPU(self, _cpu: str, _flags: int = 0) -> int:  # noqa: N802
        return self._line.ask("compare CPU", lambda: int(libvirt.VIR_CPU_COMPARE_IDENTICAL))

    def compareHypervisorCPU(  # noqa: N802
        self, _emulator: Any, _arch: Any, _machine: Any, _kind: Any, cpu: str, _flags: int = 0
    ) -> int:
        return self._line.ask("compare CPU", lambda: cpus.assert_gives(cpu, self._line.host.cpu_lacks))

    def baselineHypervisorCPU(  # noqa: N802
        self, _emulator: Any, _arch: Any, _machine: Any, _kind: Any, given: list[str], flags: int = 0
    ) -> str:
        return self._line.ask("baseline CPU", lambda: cpus.baseline(given, flags, self._line.host.cpu_lacks))

    def listAllDevices(self, _flags: int = 0) -> list[_Described]:  # noqa: N802
        return self._line.ask("cards", lambda: [_Described("net_eth0", _CARD.format(self._link))])

    def listAllInterfaces(self, _flags: int = 0) -> list[_Described]:  # noqa: N802
        def look() -> list[_Described]:
            bridge = _Described("br0", _BRIDGE.format(self._link))
            return [bridge, _Described("lo", "<interface type='ethernet' name='lo'/>")]

        return self._line.ask("interfaces", look)

    @property
    def _link(self) -> str:
        return "down" if self._line.host.name in self._line.twin.dark else "up"

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

    def getAllDomainStats(self, stats: int = 0, flags: int = 0) -> list[tuple[DomainHandle, dict[str, Any]]]:  # noqa: N802
        def look() -> list[tuple[DomainHandle, dict[str, Any]]]:
            only_active = flags & libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            found = [each for each in self._domains() if each.is_active or not only_active]
            return [(self._handle(each), self._stats_of(each, stats)) for each in found]

        return self._line.ask("stats", look)

    def _stats_of(self, domain: Domain, groups: int) -> dict[str, Any]:
        figures: dict[str, Any] = {"state.state": domain.state, "state.reason": domain.reason}
        return figures if groups == libvirt.VIR_DOMAIN_STATS_STATE else figures | self._figures(domain.uuid)

    def domainListGetStats(  # noqa: N802
        self, domains: list[DomainHandle], _stats: int = 0, _flags: int = 0
    ) -> list[tuple[DomainHandle, dict[str, Any]]]:
        return self._line.ask("stats", lambda: [(each, self._figures(each.UUIDString())) for each in domains])

    def _figures(self, uuid: str) -> dict[str, Any]:
        domain = self._line.host.domain(uuid)
        if domain.qemu is None:
            return {}
        figures: dict[str, Any] = {"cpu.time": int(self._line.twin.cpu_seconds(domain.qemu) * 1e9)}
        figures |= {"balloon.rss": domain.qemu.memory // _KIB, "block.count": len(domain.qemu.images), "net.count": 0}
        for number, image in enumerate(domain.qemu.images):
            file = image.file
            figures |= {
                f"block.{number}.name": image.target,
                f"block.{number}.rd.bytes": 0,
                f"block.{number}.wr.bytes": domain.qemu.counter * 16,
                f"block.{number}.capacity": file.virtual_size,
                f"block.{number}.physical": file.allocated,
            }
        return figures

    def defineXML(self, xml: str) -> DomainHandle:  # noqa: N802
        domain: Domain = self._line.order("define", lambda: self._line.host.define(xml), definitions.uuid_of(xml))
        return self._handle(domain)

    def createXML(self, xml: str, flags: int = 0) -> DomainHandle:  # noqa: N802
        paused = bool(flags & libvirt.VIR_DOMAIN_START_PAUSED)
        owner = self._line if flags & libvirt.VIR_DOMAIN_START_AUTODESTROY else None
        uuid = self._line.order("create", lambda: self._line.host.create(xml, paused=paused, owner=owner))
        return self.lookupByUUIDString(uuid)

    def domainEventRegisterAny(  # noqa: N802
        self, _domain: None, event: int, callback: Callable[..., None], opaque: object
    ) -> int:
        if event != libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG:
            raise errors.refusal(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_QEMU, "the twin tells of watchdogs alone")
        ears = self._line.twin.ears
        return self._line.ask("hear events", lambda: ears.register(self._line, self, callback, opaque))

    def domainEventDeregisterAny(self, number: int) -> None:  # noqa: N802
        self._line.twin.ears.forget(number)

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


def _divide(root: etree._Element, kib: int, nodes: int) -> None:
    """Have capabilities tell of so many NUMA nodes, with equal parts of the memory."""
    cells = root.find("host/topology/cells")
    cell = root.find("host/topology/cells/cell")
    if cells is None or cell is None:
        return
    for number in range(nodes):
        one = cell if number == 0 else deepcopy(cell)
        one.set("id", str(number))
        for memory in one.findall("memory"):
            memory.text = str(kib // nodes)
        if number:
            cells.append(one)
