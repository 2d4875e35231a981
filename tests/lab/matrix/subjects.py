"""The VMs that are moved about in the matrix, and what must be true of them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from mudanza.lab.series import Series
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB
from tests.lab import cold, domains

HOSTS = ("h1", "h2")
"""Between which they move."""
OURS = "mudanza-"
PLACES = (cold.IMAGES, cold.FAST)
PING_STEP = 0.05
"""Seconds between two pings of the client outside: no blackout is measured here."""


class Subject(Protocol):
    """A VM that is moved."""

    lab: Lab
    options: tuple[str, ...]
    """Of the command that moves it."""
    runs: bool
    """Whether it runs before the move, and so after it."""
    autostart: bool

    @property
    def name(self) -> str:
        """What libvirt calls it."""

    @property
    def uuid(self) -> str:
        """By what it is known wherever it is."""

    @property
    def files(self) -> frozenset[str]:
        """Its files' paths, the same on both hosts."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See it from outside while it is moved."""

    def await_up(self) -> None:
        """Wait until it does what it is there for, once it was started."""

    def assert_whole(self, host: str, *, off: bool, undisturbed: bool) -> None:
        """Fail unless it has lost nothing, on the host where it is. ``undisturbed``: nothing has ended its QEMU."""


@dataclass
class LiveSubject:
    """A guest that counts aloud, onto its disk and over the network, and is moved running."""

    lab: Lab
    guest: Guest
    path: str
    """Of its disk, the same on every host."""
    options: tuple[str, ...] = ("--max-downtime", "1s")
    runs: bool = True
    autostart: bool = True
    seen: Series | None = None
    """By a client outside, during the last move."""

    @property
    def name(self) -> str:
        return self.guest.name

    @property
    def uuid(self) -> str:
        return self.guest.uuid

    @property
    def files(self) -> frozenset[str]:
        return frozenset({self.path})

    @contextmanager
    def watched(self) -> Iterator[None]:
        with Watch(self.lab, self.guest.address, step=PING_STEP) as watch:
            yield
        self.seen = watch.series

    def await_up(self) -> None:
        self.guest.await_answer()

    def assert_whole(self, host: str, *, off: bool, undisturbed: bool) -> None:
        seen = self.seen
        assert seen is not None
        assert seen.last_beat is not None
        if off:
            self._assert_whole_image(host, seen.last_beat)
            return
        self.guest.await_answer()
        if undisturbed:
            assert seen.boots == 1, "it was started anew"
            assert seen.every_beat_arrived, f"{seen.beats_lost} beats lost, {seen.beats_repeated} repeated"
        _, last = self.guest.verify()
        assert last >= seen.last_beat, f"the client saw beat {seen.last_beat}; {last} is the last one on the disk"
        self.guest.verify_memory()

    def _assert_whole_image(self, host: str, told: int) -> None:
        check_image(self.lab, host, self.path)
        ring = read_ring(self.lab.cell(host), self.path, "qcow2")
        assert ring.whole, ring
        # A beat is on the disk before it is sent: what was heard of must be there.
        assert ring.last >= told, f"the client saw beat {told}; {ring.last} is the last one on the disk"


@contextmanager
def live_subject(lab: Lab, name: str = "mover", on: str = "h1") -> Iterator[LiveSubject]:
    """Have a guest that writes into its memory and onto its disk."""
    spec = GuestSpec(
        name, memory=128 * MIB, disk=48 * MIB, beat=0.05, working_set=24 * MIB, write_rate=6 * MIB, disk_write_rate=MIB
    )
    guest = create_guest(lab, spec, on=on)
    try:
        virsh(lab.cell(on), "autostart", guest.uuid)
        yield LiveSubject(lab, guest, f"{cold.IMAGES}/{spec.volume}")
    finally:
        guest.remove()
        sweep_files(lab, name)


@dataclass
class ColdSubject:
    """A VM that is off, or has nothing to boot: a qcow2 and a raw file of no round length."""

    lab: Lab
    name: str
    uuid: str
    sums: dict[str, str]
    runs: bool
    autostart: bool
    options: tuple[str, ...] = field(default=("--mode", "cold"))

    @property
    def files(self) -> frozenset[str]:
        return frozenset(self.sums)

    @contextmanager
    def watched(self) -> Iterator[None]:
        yield

    def await_up(self) -> None:
        """Nothing boots in it."""

    def assert_whole(self, host: str, *, off: bool, undisturbed: bool) -> None:
        assert cold.sums(self.lab, host, list(self.sums)) == self.sums, f"its files at {host} are others"
        for path in self.sums:
            if path.endswith(".qcow2"):
                check_image(self.lab, host, path)


@contextmanager
def cold_subject(lab: Lab, *, mib: int, running: bool = False, name: str = "freight") -> Iterator[ColdSubject]:
    """Have a VM at h1 with two files of ``mib`` MiB of data each."""
    qcow2, raw = f"{cold.IMAGES}/{name}.qcow2", f"{cold.IMAGES}/{name}.raw"
    source = lab.cell("h1")
    cold.image(lab, qcow2, "256M", f"write -q -P 0x71 0 {mib}M", "write -q -P 0x72 200M 1M")
    source.run(["sh", "-c", f"head --bytes={mib * MIB + 123} /dev/urandom >{raw}"])
    devices = domains.disk(qcow2, "vda") + domains.disk(raw, "vdb", "raw")
    sums = cold.sums(lab, "h1", [qcow2, raw])
    try:
        with cold.off(lab, name, devices, start=running) as uuid:
            subject = ColdSubject(lab, name, uuid, sums, runs=running, autostart=running)
            if running:
                virsh(source, "resume", uuid)
                virsh(source, "autostart", uuid)
                subject.options += ("--shutdown-limit", "1s", "--force-off")
            yield subject
    finally:
        sweep_files(lab, name)


def check_image(lab: Lab, host: str, path: str) -> None:
    """Fail if a qcow2 image is damaged; space that nothing refers to any more is no damage."""
    told = lab.cell(host).run(["qemu-img", "check", "-U", "-f", "qcow2", "--", path], check=False)
    assert told.returncode in (0, 3), f"{host}:{path}: {told.stdout}{told.stderr}"


def sweep_files(lab: Lab, name: str) -> None:
    """Delete the files of a VM that is gone, wherever a failed cell has left them."""
    for host in HOSTS:
        lab.cell(host).run(["sh", "-c", f"rm -f -- {cold.IMAGES}/{name}.* {cold.FAST}/{name}.*"])
    cold.refresh(lab)


def whereabouts(subject: Subject) -> dict[str, str]:
    """Return host → state of every host that knows the VM."""
    return dict(cold.states(subject.lab, subject.uuid))


def left_over(subject: Subject, at: str) -> Iterator[str]:
    """Say what is on the hosts of a VM that is at ``at``, or of ours, and should not be."""
    for host in subject.lab.hosts:
        cell = subject.lab.cell(host)
        for listed in ("list --all --name", "pool-list --all --name"):
            names = virsh(cell, *listed.split()).split()
            yield from (f"{host}: {name}" for name in names if name.startswith(OURS))
        found = cell.run(["find", *PLACES, "-maxdepth", "1", "-type", "f"]).stdout.split()
        for path in found:
            file = path.rpartition("/")[2]
            is_its_own = file.startswith(f"{subject.name}.") and not (host == at and path in subject.files)
            if is_its_own or file.startswith(OURS):
                yield f"{host}: {path}"
        for process in cell.processes():
            if "qemu-system" in "".join(process.argv[:1]):
                ours = any(word.startswith(f"guest={OURS}") for word in process.argv)
                if ours or (host != at and subject.uuid in process.argv):
                    yield f"{host}: a QEMU, process {process.id.pid}"
        if host != at and subject.uuid in virsh(cell, "list", "--all", "--uuid"):
            yield f"{host}: its definition"
        if host == at and subject.autostart != (subject.uuid in virsh(cell, "list", "--all", "--autostart", "--uuid")):
            yield f"{host}: its autostart flag is not what it was"
