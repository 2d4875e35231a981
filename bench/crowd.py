"""A thousand of the twin's hosts, in the machine's own time: they answer at once, and moves among them take theirs.

The twin's own time stands still while anybody thinks, so nothing could be measured in it. Guests do not count here, and
nobody watches over them: this is for figures, not for promises.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast
from unittest.mock import patch
from uuid import NAMESPACE_DNS, uuid5

import libvirt

from mudanza.hypervisor.twin import definitions, errors
from mudanza.hypervisor.twin.connect import Connect
from mudanza.hypervisor.twin.domain import RUNNING, Domain
from mudanza.hypervisor.twin.files import CHUNK, File
from mudanza.hypervisor.twin.guests import Oracle, Qemu
from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.line import Line
from mudanza.hypervisor.twin.processes import Process, Running
from mudanza.hypervisor.twin.scheduler import Scheduler
from mudanza.hypervisor.twin.threads import Controller
from mudanza.hypervisor.twin.world import Twin
from mudanza.model.units import KIB, MIB

IMAGES = "/var/lib/libvirt/images"
DISK = 2 * MIB
RATE = 160 * KIB
"""Bytes per second that get from host to host: a guest is on its way for about two minutes."""

Result = TypeVar("Result")
_WRITTEN: dict[tuple[str, str], str] = {}


class MachineTime:
    """Stands in for the twin's scheduler: what goes on at hosts happens in one thread, when it is due."""

    def __init__(self) -> None:
        self.controller = Controller("bench")
        self.lock = threading.RLock()
        self._more = threading.Condition(self.lock)
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._begun = time.monotonic()
        self.spent = 0.0
        """CPU-seconds of what went on at hosts by itself."""
        threading.Thread(target=self._ring, name="hosts", daemon=True).start()

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begun

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def after(self, seconds: float, act: Callable[[], None], _is_wanted: object = None) -> None:
        """Have something happen when so much time has passed."""
        with self._more:
            heapq.heappush(self._alarms, (self.now + seconds, next(self._numbers), act))
            self._more.notify()

    def spawn(self, process: Process, on_end: Callable[[Any, BaseException | None], None]) -> Running:
        """Let a process of a host run."""
        return Running(cast(Scheduler, self), process, on_end)

    def _ring(self) -> None:
        with self._more:
            while True:
                left = self._alarms[0][0] - self.now if self._alarms else None
                if left is None or left > 0:
                    self._more.wait(left)
                else:
                    begun = time.thread_time()
                    heapq.heappop(self._alarms)[2]()
                    self.spent += time.thread_time() - begun


class StraightLine(Line):
    """A connection on which nothing is lost and nothing takes time but what hosts do."""

    def __init__(self, twin: Crowd, host: TwinHost) -> None:
        super().__init__(twin, host, twin.time.controller)
        self._crowd = twin
        self._time = twin.time

    def ask(self, name: str, work: Callable[[], Result]) -> Result:  # noqa: ARG002
        """Return what libvirt finds out at once."""
        if self.broken is not None:
            raise self.broken
        begun = time.thread_time()
        try:
            return work()
        finally:
            self._crowd.spent += time.thread_time() - begun

    def order(self, name: str, work: Callable[[], Any], what: str = "") -> Any:  # noqa: ARG002
        """Have libvirt do something, and return what comes of it."""
        answer: list[tuple[Any, BaseException | None]] = []
        done = threading.Event()

        def answered(result: Any, failure: BaseException | None) -> None:
            answer.append((result, failure))
            done.set()

        with self._time.lock:
            self.host.serve(self._serve(work), answered)
        done.wait()
        result, failure = answer[0]
        if failure is not None:
            raise failure
        return result


class Answers(Connect):
    """What would be added up over all guests of all hosts is not."""

    def getMemoryStats(self, _cell: int, _flags: int = 0) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Return a host's memory, half of it free."""
        total = self._line.host.memory // KIB
        return {"total": total, "free": total // 2, "buffers": 0, "cached": 0}

    def domainEventRegisterAny(self, *_about: Any) -> int:  # noqa: N802
        """Tell of nothing: all are looked at."""
        raise errors.refusal(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_REMOTE, "this function is not supported")

    def getCapabilities(self) -> str:  # noqa: N802
        """Return them as they were written before."""
        return self._written("capabilities", super().getCapabilities)

    def getDomainCapabilities(self, *_about: Any) -> str:  # noqa: N802
        """Return them as they were written before."""
        return self._written("domain capabilities", super().getDomainCapabilities)

    def _written(self, what: str, write: Callable[[], str]) -> str:
        key = (self._line.host.name, what)
        if key not in _WRITTEN:
            _WRITTEN[key] = write()
        return _WRITTEN[key]


class Unwatched(Oracle):
    """Guests that do not count."""

    def catch_up(self, now: float) -> None:
        """Let nothing have happened."""


class Crowd(Twin):
    """Many hosts with guests that run."""

    def __init__(self, hosts: int, guests: int) -> None:
        super().__init__(lambda _count: 0, hosts)
        self.spent = 0.0
        """CPU-seconds that hosts have taken to answer what they are asked; some may be lost, none is too many."""
        self.time = MachineTime()
        self.scheduler = cast(Scheduler, self.time)
        self.oracle = Unwatched()
        self.rate = float(RATE)
        image = _image()
        homes = list(self.hosts.values())
        for number in range(guests):
            _run(homes[number % hosts], f"vm{number:05d}", image)
        for host in homes:
            host.pools["default"].seen = dict.fromkeys(host.own.names_in(IMAGES), "qcow2")

    def open(self, uri: str) -> Connect:
        """Open a connection."""
        host = self.by_uri(uri)
        if host is None:
            raise libvirt.libvirtError("there is no such host")
        return Answers(StraightLine(self, host))

    def catch_up(self) -> None:
        """Let nothing have happened."""

    def note(self, words: str) -> None:
        """Keep no record."""


def remembering_definitions() -> Any:
    """Have hosts write each definition once: elsewhere that takes their CPU, and here the controller's."""
    write, written = definitions.as_it_runs, dict[tuple[str, int], str]()

    def as_it_runs(xml: str, number: int, chain: Any, mirrors: Any) -> str:
        if (xml, number) not in written:
            written[xml, number] = write(xml, number, chain, mirrors)
        return written[xml, number]

    return patch.object(definitions, "as_it_runs", as_it_runs)


def _image() -> File:
    file = File(DISK, time.time())
    file.make_qcow2(4 * DISK, "", time.time())
    file.write(10 * CHUNK, b"data" * 1024, time.time())
    return file


def _run(host: TwinHost, name: str, like: File) -> None:
    key, path = str(uuid5(NAMESPACE_DNS, name)), f"{IMAGES}/{name}.qcow2"
    host.own.files[path] = file = File(DISK, time.time())
    file.copy(like, time.time())
    xml = definitions.text(definitions.completed(definition(name, key, path)))
    domain = host.domains[key] = Domain(host, key, name, xml)
    qemu = Qemu(key, host, definitions.memory(xml), host.open_images(xml), running=True, has_booted=True)
    qemu.runs_from = host.twin.scheduler.time()
    host.adopt(domain, xml, qemu)
    domain.enter(RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)


def definition(name: str, key: str, path: str) -> str:
    """Return a definition about as long as libvirt's usually are."""
    ports = "".join(
        f"<controller type='pci' index='{n}' model='pcie-root-port'><model name='pcie-root-port'/>"
        f"<target chassis='{n}' port='0x{n + 15:x}'/><address type='pci' domain='0x0000' bus='0x00' slot='0x02' "
        f"function='0x{n % 8}'/></controller>"
        for n in range(1, 9)
    )
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{key}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/><apic/></features><devices>"
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='{path}'/>"
        f"<target dev='vda' bus='virtio'/></disk><controller type='usb' model='none'/>{ports}"
        f"<serial type='pty'><target type='isa-serial' port='0'/></serial>"
        f"<console type='pty'><target type='serial' port='0'/></console>"
        f"<memballoon model='none'/></devices></domain>"
    )
