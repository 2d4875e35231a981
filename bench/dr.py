"""Rounds of replication: what they take beside Debian's ``virtnbdbackup``, what many need, what the guest feels.

The controller logs in to the hosts from a seat of its own, by ssh; every uplink carries RATE, and bytes are counted at
the switch. ``floor`` is what has changed, and that ÷ RATE.

* rounds: two VMs with disks that are the same, and are written to in the same way; a round of ours of one, an
  incremental backup of the other, by turns. Ours logs in to the hosts, reads and checks them, keeps its journal, has
  the changes in an image that a VM can be started from, and flushes it. It is made by the daemon, as rounds are, and
  by the command, without the start of its Python: see ``tests.lab.forking``.
* many: VMs that all write, protected with an RPO of 60 s. Violations are the times that a replica became older.
* writes: what a guest that writes as fast as it can gets done while rounds are made, beside before and after each.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from uuid import uuid4

from bench.figures import Figure
from bench.virtnbdbackup import Backups, unpack
from mudanza.journal.database import open_database
from mudanza.journal.protections import Protections
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import GIB, KIB, MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import know_by_ssh
from tests.lab.test_serve import serving

RATE = 125_000_000
"""Bytes per second that each uplink takes: 1 Gbit/s."""
CHANGES = (MIB, 10 * MIB, 100 * MIB)
PIECES = 16
"""In how many places of the disk that is."""
DISK = GIB
IMAGES = "/var/lib/libvirt/images"
NOISE = "/tmp/noise"
DAEMON, COMMAND, PEER = "daemon", "command", "virtnbdbackup"
LIMIT = 600.0
"""Seconds a round may take."""

MANY, MANY_DISK = 20, 64 * MIB
RPO = 60.0
EVERY = 30.0
"""Seconds between two rounds: half of the RPO, for the next point is there only once its round is through."""
WATCHED = 180.0
"""Seconds that many VMs are looked at."""
LOOK_EVERY = 0.5

SHARE = 0.9
"""Of its writes a guest is to get done while rounds are made."""
WITHOUT = 5.0
"""Seconds that its writes are counted without one."""


def measure(runs: int, only: str | None = None) -> Sequence[Figure]:
    """Measure every case, or only one; of rounds and writes that many by turns. Tells each on stderr as it ends."""
    lab = Lab.up(f"bench{os.getpid() % 100000}", hosts=2, tied=True, uplink=RATE, controller_uplink=RATE)
    try:
        with tempfile.TemporaryDirectory() as seat:
            mudanza = know_by_ssh(lab, Path(seat))
            found = [_load("before")]
            for name in [only] if only else list(CASES):
                found += CASES[name](lab, mudanza, runs)
                found.append(_load(f"after {name}"))
        return found
    finally:
        lab.down()


def _load(when: str) -> Figure:
    return Figure(f"load of the machine's {os.cpu_count()} CPUs, {when}", os.getloadavg()[0], "")


def _rounds(lab: Lab, mudanza: Mudanza, runs: int) -> Iterator[Figure]:
    unpack(lab)
    lab.cell("h1").run(["sh", "-c", f"head -c {max(CHANGES) // PIECES} /dev/urandom >{NOISE}"])
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(_tiny(lab, name, DISK)) for name in ("ours", "theirs"))
        peer = Backups(lab, theirs, "h1", "h2")
        mudanza("protect", ours, "--to", "h2", "--scratch", "4GiB", "--every", "1d")
        peer.make("full")
        _, daemon = stack.enter_context(serving(mudanza, mudanza.config.with_name("rounds.sock")))
        path = f"/vms/{ours}/protection/rounds"
        ways: dict[str, tuple[str, Callable[[], object]]] = {
            COMMAND: (ours, lambda: mudanza("protection", "sync", ours)),
            DAEMON: (ours, lambda: daemon.post(path, json={}, timeout=LIMIT).raise_for_status()),
            PEER: (theirs, lambda: peer.make("inc")),
        }
        for changed in CHANGES:
            taken: dict[str, list[float]] = {name: [] for name in ways}
            sent: dict[str, list[int]] = {name: [] for name in ways}
            for turn in range(runs):
                for name, (vm, make) in ways.items() if turn % 2 else reversed(ways.items()):
                    _write(lab, vm, changed, turn)
                    before, begun = lab.switch_bytes(), time.monotonic()
                    make()
                    taken[name].append(time.monotonic() - begun)
                    sent[name].append(lab.switch_bytes()["h1"].received - before["h1"].received)
                    _tell(f"{changed // MIB} MiB: {name}: {taken[name][-1]:.2f} s, {sent[name][-1] / MIB:.1f} MiB")
            what, peers = f"{changed // MIB} MiB changed", median(taken[PEER])
            mine = median(taken[DAEMON])
            yield Figure(f"{what}: a round of the daemon", mine, "s", "≤ the peer's", met=mine <= peers, peer=peers)
            yield Figure(f"{what}: the same, worst", max(taken[DAEMON]), "s", peer=max(taken[PEER]))
            yield Figure(f"{what}: a round by the command", median(taken[COMMAND]), "s", peer=peers)
            yield Figure(f"{what}: floor", changed / RATE, "s")
            yield Figure(f"{what}: left the source", median(sent[DAEMON]) / MIB, "MiB", peer=median(sent[PEER]) / MIB)
        mudanza("protection", "verify", ours)


def _many(lab: Lab, mudanza: Mudanza, _runs: int) -> Iterator[Figure]:
    lab.cell("h1").run(["sh", "-c", f"head -c {MIB} /dev/urandom >{NOISE}"])
    with ExitStack() as stack:
        names = [stack.enter_context(_tiny(lab, f"vm{number:02d}", MANY_DISK)) for number in range(MANY)]
        _, daemon = stack.enter_context(serving(mudanza, mudanza.config.with_name("many.sock")))
        for name in names:
            order = {"to": "h2", "every": EVERY}
            daemon.post(f"/vms/{name}/protection", json=order).raise_for_status()
        oldest, violations, rounds = _watched(lab, mudanza, names)
        yield Figure(f"{MANY} VMs, RPO {RPO:g} s: violations", violations, "", "0", met=violations == 0)
        yield Figure(f"{MANY} VMs: the oldest a replica became", oldest, "s", f"≤ {RPO:g}")
        yield Figure(f"{MANY} VMs: rounds in {WATCHED:g} s", rounds, "")


def _watched(lab: Lab, mudanza: Mudanza, names: Sequence[str]) -> tuple[float, int, int]:
    """Have VMs write by turns, and look how old their replicas are; return the most, how often one became older than
    it may, and how many rounds were made."""
    settings = mudanza.config.read_text()
    protections = Protections(open_database(settings.split('"')[1]))
    # What came before each had its first point does not count.
    while any(each.newest is None for each in protections.all()):
        time.sleep(LOOK_EVERY)
    first = sum(each.rounds for each in protections.all())
    until, turn, oldest, violations = time.monotonic() + WATCHED, 0, 0.0, 0
    broken: set[str] = set()
    while time.monotonic() < until:
        _write(lab, names[turn % len(names)], MIB, turn)
        turn += 1
        lags = {each.vm_name: each.lag or 0.0 for each in protections.all()}
        oldest = max(oldest, *lags.values())
        late = {name for name, lag in lags.items() if lag > RPO}
        violations += len(late - broken)
        broken = late
        time.sleep(LOOK_EVERY)
    return oldest, violations, sum(each.rounds for each in protections.all()) - first


def _writes(lab: Lab, mudanza: Mudanza, runs: int) -> Iterator[Figure]:
    guest = create_guest(lab, GuestSpec("writer", memory=128 * MIB, disk=256 * MIB, disk_write_rate=GIB, beat=0.5))
    mudanza("protect", guest.uuid, "--to", "h2", "--scratch", "4GiB")
    # By turns, and each round beside what came before and after it: the machine is not always as fast.
    without = [_rate(guest, lambda: time.sleep(WITHOUT))]
    during: list[float] = []
    for _ in range(runs):
        during.append(_rate(guest, lambda: mudanza("protection", "sync", guest.uuid)))
        without.append(_rate(guest, lambda: time.sleep(WITHOUT)))
        told = f"{without[-2] / MIB:.1f} MiB/s before a round, {during[-1] / MIB:.1f} during it"
        _tell(f"writes: {told}, {without[-1] / MIB:.1f} after it")
    beside = [(before + after) / 2 for before, after in pairwise(without)]
    shares, errors = [one / other for one, other in zip(during, beside, strict=True)], guest.stats()["disk_errors"]
    yield Figure("guest's writes during rounds", median(during) / MIB, "MiB/s", peer=median(beside) / MIB)
    yield Figure("of what it gets done without", median(shares), "ratio", f"≥ {SHARE}", met=median(shares) >= SHARE)
    yield Figure("the same, worst", min(shares), "ratio")
    yield Figure("its writes that failed", errors, "", "0", met=errors == 0)


def _rate(guest: Guest, work: Callable[[], object]) -> float:
    """Return how many bytes per second a guest writes while that is done."""
    before, begun = guest.stats(), time.monotonic()
    work()
    return (guest.stats()["disk_written"] - before["disk_written"]) / (time.monotonic() - begun)


CASES: dict[str, Callable[[Lab, Mudanza, int], Iterator[Figure]]] = {
    "rounds": _rounds,
    "many": _many,
    "writes": _writes,
}


@contextmanager
def _tiny(lab: Lab, name: str, size: int) -> Iterator[str]:
    """Have a VM with a disk and no guest: what is written to it is written by its QEMU, to the byte."""
    cell, path = lab.cell("h1"), f"{IMAGES}/{name}.qcow2"
    cell.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)])
    definition = f"""<domain type='qemu'><name>{name}</name><uuid>{uuid4()}</uuid><memory unit='MiB'>16</memory>
      <os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/><source file='{path}'/><target dev='vda' bus='virtio'/></disk>
      <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
    virsh(cell, "define", "/dev/stdin", stdin=definition)
    virsh(cell, "start", "--paused", name)
    try:
        yield name
    finally:
        virsh(cell, "destroy", name)
        virsh(cell, "undefine", "--checkpoints-metadata", name)
        cell.run(["rm", "-f", "--", path])


def _write(lab: Lab, name: str, amount: int, turn: int) -> None:
    """Have so many bytes of a VM's disk be others, in PIECES places, each turn in others."""
    cell, piece = lab.cell("h1"), amount // PIECES
    size = int(virsh(cell, "domblkinfo", name, "vda").split()[1])
    apart = size // PIECES
    # Of whole clusters, or more has changed than was written.
    places = max((apart - piece) // (64 * KIB), 1)
    device = "/machine/peripheral/virtio-disk0/virtio-backend"
    commands = [
        f'qemu-io -d {device} "write -q -s {NOISE} {number * apart + turn * 7 % places * 64 * KIB} {piece}"'
        for number in range(PIECES)
    ]
    for command in commands:
        virsh(cell, "qemu-monitor-command", name, "--hmp", command)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
