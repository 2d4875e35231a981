"""The twin as a whole: hosts, the ways between them, and whatever can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import libvirt_qemu

from mudanza import clock
from mudanza.hypervisor.connection import lines_opened_by
from mudanza.hypervisor.twin.connect import Connect, DomainHandle, open_line
from mudanza.hypervisor.twin.ears import Ears
from mudanza.hypervisor.twin.files import FileSystem
from mudanza.hypervisor.twin.guests import Oracle, Qemu, ran_until
from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.scheduler import Choose, Scheduler
from mudanza.hypervisor.twin.threads import Controller
from mudanza.model.host import HostEntry
from mudanza.model.units import MIB

STARTING = 0.2
"""CPU-seconds that a QEMU takes to start."""
USUAL_WORK = 0.1
"""CPUs that a guest uses while it runs, unless told otherwise."""


class Twin:
    """Some hosts and their guests."""

    def __init__(self, choose: Choose, hosts: int = 2) -> None:
        self.scheduler = Scheduler(choose)
        self.oracle = Oracle()
        self.shared = FileSystem()
        self.hosts = {f"h{n}": TwinHost(self, f"h{n}", self.shared) for n in range(1, hosts + 1)}
        self.rate = 4.0 * MIB
        """Bytes per second that get from host to host."""
        self.works: dict[str, float] = {}
        """UUID → how many CPUs its guest uses while it runs; others a tenth of one."""
        self.actor = ""
        """Whose call is being served; empty: libvirt does something by itself."""
        self.log: list[str] = []
        self.strangers: set[str] = set()
        self.on_order: Callable[[Controller, str, str], None] = lambda _controller, _call, _what: None
        """Told of everything that a controller has a host do, and to what: a domain's UUID, a volume's name."""
        self.on_note: Callable[[str], None] = lambda _words: None
        self.ears = Ears()
        self.dark: set[str] = set()
        """Hosts whose bridge has lost the world outside; they themselves are reached by another way."""
        self._cuts: set[frozenset[str]] = set()
        self._lost_answers: list[tuple[str, str]] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the hypervisor's room talk to these hosts, in the twin's time."""
        with clock.replaced_by(self.scheduler), self.answering():
            yield

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Have the hypervisor's room talk to these hosts."""
        by_libvirt = libvirt_qemu.qemuMonitorCommand

        def monitor(domain: Any, command: str, flags: int = 0) -> str:
            if isinstance(domain, DomainHandle):
                return domain.monitor(command)
            return str(by_libvirt(domain, command, flags))

        libvirt_qemu.qemuMonitorCommand = monitor
        try:
            with lines_opened_by(self.open):
                yield
        finally:
            libvirt_qemu.qemuMonitorCommand = by_libvirt

    def entries(self) -> list[HostEntry]:
        """Return the hosts as a controller is told of them."""
        return [HostEntry(name, f"qemu+tls://{name}/system", migration_address=name) for name in self.hosts]

    def open(self, uri: str) -> Connect:
        """Open a connection, as libvirt.open. Raises libvirtError."""
        return open_line(self, self.by_uri(uri), self.scheduler.controller)

    def by_uri(self, uri: str) -> TwinHost | None:
        """Return the host that a URI leads to; None where there is none."""
        return self.hosts.get(urlsplit(uri).hostname or "")

    # What goes on.

    def catch_up(self) -> None:
        """Let the guests do what they would have done until now."""
        self.oracle.catch_up(self.scheduler.time())

    def run(self, qemu: Qemu) -> None:
        """Let a guest run."""
        self.note(f"{qemu.uuid[:8]} runs on {qemu.host.name}")
        self.oracle.run(qemu, self.scheduler.time(), self.actor)

    def stop(self, qemu: Qemu) -> None:
        """Let it stand still."""
        self.oracle.stop(qemu, self.scheduler.time())

    def cpu_seconds(self, qemu: Qemu) -> float:
        """Return what a process has worked so far: a little to start, then as its guest does."""
        return STARTING + ran_until(qemu, self.scheduler.time()) * self.works.get(qemu.uuid, USUAL_WORK)

    def end(self, qemu: Qemu) -> None:
        """End its process."""
        if qemu.dead:
            return
        self.stop(qemu)
        qemu.host.cpu_seconds_before += self.cpu_seconds(qemu)
        qemu.dead = True
        if qemu in self.oracle.qemus:
            self.oracle.qemus.remove(qemu)

    def note(self, words: str) -> None:
        """Write down that something happened."""
        self.log.append(f"{self.scheduler.now:10.3f} {self.actor or 'libvirt'}: {words}")
        self.on_note(words)

    # What can go wrong.

    def linked(self, one: TwinHost, other: TwinHost) -> bool:
        """Whether packets get from one host to another."""
        ways = one.powered and other.powered and not one.isolated and not other.isolated
        return ways and frozenset({one.name, other.name}) not in self._cuts

    def reachable(self, host: TwinHost) -> bool:
        """Whether packets get from the controllers to a host."""
        return host.powered and not host.isolated

    def cut(self, one: str, other: str) -> None:
        """Cut the way between two hosts."""
        self._cuts.add(frozenset({one, other}))

    @property
    def is_cut(self) -> bool:
        """Whether any way between two hosts is cut."""
        return bool(self._cuts)

    def heal(self) -> None:
        """Mend every way and every disk; whoever is off stays so."""
        self._cuts.clear()
        self._lost_answers.clear()
        self.shared.is_full = False
        for host in self.hosts.values():
            host.isolated = host.refuses_logins = host.own.is_full = False
            self.world_changed(host)

    def lose_answer(self, host: str, call: str) -> None:
        """Have the connection break over the next call of that name, after it was done."""
        self._lost_answers.append((host, call))

    def loses(self, host: str, call: str) -> bool:
        """Whether this is the answer that is lost."""
        if (host, call) in self._lost_answers:
            self._lost_answers.remove((host, call))
            return True
        return False

    def world_changed(self, host: TwinHost) -> None:
        """Let those look again who wait for a host to answer."""
        for line in list(host.lines):
            line.look_again()

    def kill(self, controller: Controller) -> None:
        """SIGKILL to a controller; its kernel closes its connections."""
        self.scheduler.kill(controller)
        for host in self.hosts.values():
            for line in [line for line in host.lines if line.controller is controller]:
                line.close()
