"""What guests do, and an oracle that knows what really happened, whatever the hosts say of it.

A guest counts, ten times a second, in its memory and on each of its disks. So a write that was lost, a disk that is
old, a memory that was rewound and a second running copy can be seen.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mudanza.hypervisor.twin.files import CHUNK, File

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.host import TwinHost

RATE = 10
"""How often a guest counts in a second."""
_STAMP = struct.Struct(">8sQ")
_MAGIC = b"COUNTER\0"


@dataclass(eq=False)
class Image:
    """A file as a QEMU has it open."""

    target: str
    path: str
    file: File
    writable: bool = True
    shareable: bool = False
    mirror: File | None = None
    """Where whatever the guest writes goes too."""


@dataclass(eq=False)
class Qemu:
    """A process with a guest in it, or one to come."""

    uuid: str
    host: TwinHost
    memory: int
    """How much of it a guest has, in bytes."""
    images: list[Image]
    incoming: bool = False
    running: bool = False
    since: float = 0.0
    counter: int = 0
    """How far the guest has counted, in its memory."""
    has_booted: bool = False
    dead: bool = False
    migration_status: str = ""
    """QEMU's word for how far its migration away is, or how its last one ended."""
    ran: float = 0.0
    """For how many seconds its guest has run in this process, until ``runs_from``..."""
    runs_from: float | None = None
    """...since when it has run without a stop; None: it stands still."""


@dataclass
class Truth:
    """What is known of one VM from outside."""

    counter: int = 0
    """The furthest that any of its guests has written anywhere."""
    spoiled: bool = False
    """Somebody did by hand what no tool can put right: nothing more is held against anybody."""


@dataclass(frozen=True)
class Violation:
    """Something that must never be."""

    what: str
    actor: str
    """Whose call led to it: a controller's name, empty for libvirt by itself."""
    at: float

    def __str__(self) -> str:
        return f"at {self.at:.3f} s, {self.actor or 'libvirt'}: {self.what}"


@dataclass
class Oracle:
    """Watches every guest."""

    truths: dict[str, Truth] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    qemus: list[Qemu] = field(default_factory=list)

    def truth(self, uuid: str) -> Truth:
        """Return what is known of a VM."""
        return self.truths.setdefault(uuid, Truth())

    def catch_up(self, now: float) -> None:
        """Let every guest that runs do what it would have done until now."""
        for qemu in self.qemus:
            if qemu.running:
                self._count(qemu, now)

    def _count(self, qemu: Qemu, now: float) -> None:
        counted = int((now - qemu.since) * RATE)
        if counted <= 0 or not _writable(qemu):
            return
        qemu.since += counted / RATE
        qemu.counter += counted
        for image in _writable(qemu):
            for file in filter(None, (image.file, image.mirror)):
                write_stamp(file, qemu.counter, now)
        truth = self.truth(qemu.uuid)
        truth.counter = max(truth.counter, qemu.counter)

    def run(self, qemu: Qemu, now: float, actor: str) -> None:
        """Let a guest run from now on, and see whether it may."""
        self.catch_up(now)
        truth = self.truth(qemu.uuid)
        for other in self.qemus:
            if other is not qemu and other.running and other.uuid == qemu.uuid:
                self._violated(f"{qemu.uuid} runs on {other.host.name} and on {qemu.host.name}", truth, actor, now)
        stamps = [stamp for image in _writable(qemu) if (stamp := read_stamp(image.file)) is not None]
        if not qemu.has_booted:
            qemu.counter = max(stamps, default=0)
            if stamps and (old := min(stamps)) < truth.counter:
                self._violated(f"{qemu.uuid} boots from a disk that is {truth.counter - old} behind", truth, actor, now)
        elif qemu.counter < truth.counter:
            behind = truth.counter - qemu.counter
            self._violated(f"{qemu.uuid} goes on with a memory that is {behind} behind", truth, actor, now)
        elif any(stamp != qemu.counter for stamp in stamps):
            self._violated(f"{qemu.uuid} finds {stamps} on its disks, and {qemu.counter} in memory", truth, actor, now)
        qemu.has_booted = qemu.running = True
        qemu.since = now
        qemu.runs_from = qemu.runs_from or now

    def stop(self, qemu: Qemu, now: float) -> None:
        """Let it stand still."""
        self.catch_up(now)
        qemu.running = False
        qemu.ran, qemu.runs_from = ran_until(qemu, now), None

    def runs_on(self, uuid: str) -> list[str]:
        """Return where a VM runs."""
        return [qemu.host.name for qemu in self.qemus if qemu.running and qemu.uuid == uuid]

    def _violated(self, what: str, truth: Truth, actor: str, now: float) -> None:
        if not truth.spoiled:
            self.violations.append(Violation(what, actor, now))
        truth.spoiled = True


def ran_until(qemu: Qemu, now: float) -> float:
    """Return for how many seconds a guest has run in this process."""
    return qemu.ran + (now - qemu.runs_from if qemu.runs_from is not None else 0.0)


def _writable(qemu: Qemu) -> list[Image]:
    return [image for image in qemu.images if image.writable and not image.shareable and image.file.size > CHUNK]


def write_stamp(file: File, counter: int, now: float) -> None:
    """Have a guest write how far it has counted."""
    file.write(CHUNK, _STAMP.pack(_MAGIC, counter), now)


def read_stamp(file: File) -> int | None:
    """Return how far the guest that wrote there had counted; None: no guest ever did."""
    found = file.read(CHUNK, _STAMP.size)
    if len(found) < _STAMP.size or not found.startswith(_MAGIC):
        return None
    return int(_STAMP.unpack(found)[1])
