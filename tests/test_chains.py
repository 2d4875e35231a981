"""Chains of several replicas of one VM beside each other: whatever happens in between, each replica is what the disks
were at its newest instant. libvirt is simulated here as far as its checkpoints go, by what its sources say: each has a
bitmap of its own for each disk, that records from its instant on whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import libvirt
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.hypervisor.connections import Connections
from mudanza.journal.jobs import JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.errors import HypervisorError
from mudanza.model.protection import Protection, ReplicaDisk, RestorePoint
from mudanza.model.vm import Disk
from mudanza.protection.differences import older_copy
from mudanza.protection.instants import Instants, checkpoint_of
from tests import factories as make
from tests.test_protection_pages import protected

NAMES = ("vda", "vdb")
Content = dict[int, int]


@dataclass
class Machine:
    """A VM's disks, and what its libvirt and QEMU know of changes."""

    disks: dict[str, Content] = field(default_factory=lambda: {"vda": dict.fromkeys(range(4), 0)})
    raw: set[str] = field(default_factory=set)
    known: dict[str, list[str]] = field(default_factory=dict)
    """Checkpoint → the disks that are in it."""
    bitmaps: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    served: dict[str, set[int]] = field(default_factory=dict)

    def vm_disks(self) -> list[Disk]:
        return [
            Disk(name, "disk", "virtio", "file", f"/i/{name}", "raw" if name in self.raw else "qcow2",
                 capacity=len(content))
            for name, content in self.disks.items()
        ]  # fmt: skip

    def write(self, name: str, block: int, value: int) -> None:
        if name in self.disks:
            block %= len(self.disks[name])
            self.disks[name][block] = value
            for (disk, _), dirty in self.bitmaps.items():
                if disk == name:
                    dirty.add(block)

    def attach(self, name: str, size: int, *, raw: bool) -> None:
        """Another image comes in its place, that knows of nothing."""
        self.detach(name)
        self.disks[name] = dict.fromkeys(range(size), size)
        (self.raw.add if raw else self.raw.discard)(name)

    def detach(self, name: str) -> None:
        self.disks.pop(name, None)
        for key in [key for key in self.bitmaps if key[0] == name]:
            del self.bitmaps[key]

    def resize(self, name: str, size: int) -> None:
        if name in self.disks:
            self.disks[name] = {block: self.disks[name].get(block, 0) for block in range(size)}

    def kill(self) -> None:
        self.bitmaps.clear()

    # As ``Backups`` does it.

    def begin(
        self, _uuid: str, _socket: str, scratch: Mapping[str, str], checkpoint: str, since: str,
        uncounted: Collection[str] = (), whole: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.served = {}
        if since and since not in self.known:
            raise HypervisorError("h1", "no such checkpoint", code=libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT)
        for name in scratch:
            if since and name not in {*uncounted, *whole}:
                if (name, since) not in self.bitmaps:
                    raise HypervisorError("h1", "broken bitmap", code=libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT)
                self.served[name] = set(self.bitmaps[name, since])
        if checkpoint:
            assert checkpoint not in self.known
            self.known[checkpoint] = [name for name in scratch if name not in uncounted]
            self.bitmaps |= {(name, checkpoint): set() for name in self.known[checkpoint]}

    def set_aside(self, uuid: str, files: Mapping[str, str], checkpoint: str, since: str) -> None:
        assert since, "what has changed is set aside, and nothing else"
        self.begin(uuid, "", files, checkpoint, since)

    def checkpoints(self, _uuid: str) -> tuple[str, ...]:
        return tuple(self.known)

    def drop_checkpoint(self, _uuid: str, name: str) -> bool:
        there = [disk for disk in self.known.pop(name) if disk in self.disks]
        if not all((disk, name) in self.bitmaps for disk in there):
            return False  # libvirt refuses, and only its record of it goes
        for disk in there:
            del self.bitmaps[disk, name]
        return True


class Kept:
    """The database's part of it."""

    def __init__(self, *replicas: Protection) -> None:
        self.rows = {each.id: each for each in replicas}

    def change(self, number: int, **values: Any) -> None:
        self.rows[number] = replace(self.rows[number], **values)


class Journalled:
    def perform(self, _name: str, _about: Mapping[str, object], act: Callable[[], Any]) -> Any:
        return act()


class World:
    def __init__(self) -> None:
        self.machine = Machine()
        self.kept = Kept(*(replace(protected(), id=number, target=f"h{number + 1}") for number in (1, 2)))
        self.images: dict[int, dict[str, Content]] = {1: {}, 2: {}}
        self.carried = 0
        connections = SimpleNamespace(backups=lambda _host: self.machine)
        self.instants = Instants(cast("Connections", connections), cast("Protections", self.kept))

    def round(self, number: int, *, breaks: bool = False, aside: bool = False) -> None:
        """As ``Rounds`` makes one; ``breaks``: nothing comes over; ``aside``: a guest that writes much."""
        handle, vm, machine = cast("JobHandle", Journalled()), make.vm(), self.machine
        self.kept.change(number, rounds=self.kept.rows[number].rounds + 1)
        protection = self.kept.rows[number]
        self.instants.drop_checkpoints(handle, protection, vm)
        protection, disks = self.kept.rows[number], machine.vm_disks()
        since = self.instants.begin(handle, protection, vm, disks, protection.rounds, aside=aside)
        if not breaks:
            image: dict[str, Content] = {}
            for disk in disks:
                now = machine.disks[disk.target]
                older = older_copy(protection, disk)
                if disk.target in since.disks:
                    assert older, "there is something to put it upon"
                    told = machine.served[disk.target]
                    image[disk.target] = self.images[number][disk.target] | {block: now[block] for block in told}
                    self.carried += len(told)
                else:
                    image[disk.target] = dict(now)
            self.images[number] = image
            images = {disk.target: ReplicaDisk(f"{disk.target}.qcow2", disk.capacity or 0) for disk in disks}
            taken = RestorePoint(protection.rounds, 0.0, images, "<domain/>")
            name = checkpoint_of(protection, disks, protection.rounds)
            self.kept.change(number, points=(*protection.points, taken), checkpoint=name)
            assert image == machine.disks, f"replica {number}"
        self.instants.drop_checkpoints(handle, self.kept.rows[number], vm)


def do(world: World, step: tuple[Any, ...]) -> None:
    match step:
        case ("round", number, breaks, aside):
            world.round(number, breaks=breaks, aside=aside)
        case ("write", *what):
            world.machine.write(*what)
        case ("attach", size, raw):
            world.machine.attach("vdb", size, raw=raw)
        case ("detach",):
            world.machine.detach("vdb")
        case ("resize", name, size):
            world.machine.resize(name, size)
        case ("kill",):
            world.machine.kill()


STEPS = st.one_of(
    st.tuples(st.just("round"), st.sampled_from((1, 2)), st.booleans(), st.booleans()),
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 7), st.integers(1, 99)),
    st.tuples(st.just("attach"), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("detach")),
    st.tuples(st.just("resize"), st.sampled_from(NAMES), st.integers(1, 8)),
    st.tuples(st.just("kill")),
)


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=300)
def test_each_replica_is_the_disks_at_its_instant_whatever_comes_in_between(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    for step in steps:
        do(world, step)
    for number in (1, 2):
        world.round(number)
    names = [name.split("-")[1] for name in world.machine.known]
    assert sorted(names) == ["1", "2"], "one checkpoint is left of each"


def test_a_chain_brings_what_changed_since_its_own_point_however_many_the_other_one_has_made() -> None:
    world = World()
    world.round(1)
    world.round(2)
    world.machine.write("vda", 1, 7)
    for _ in range(3):
        world.round(1)
    world.machine.write("vda", 2, 8)
    assert world.carried == 1
    world.round(2)
    assert world.carried == 1 + 2, "both of them, for it has not seen the first one"


def test_a_disk_that_comes_or_grows_has_no_other_one_be_read_as_a_whole() -> None:
    world = World()
    world.round(1)
    world.machine.attach("vdb", 3, raw=False)
    world.machine.write("vda", 0, 5)
    world.round(1)
    assert world.carried == 1
    world.machine.resize("vda", 6)
    world.machine.write("vdb", 1, 6)
    world.round(1)
    assert world.carried == 2
    world.machine.detach("vdb")
    world.machine.write("vda", 5, 4)
    world.round(1)
    assert world.carried == 3
    assert world.images[1].keys() == {"vda"}
