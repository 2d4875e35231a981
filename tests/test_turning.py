"""After a failover: which copy is stale, what a replica can begin with, and which blocks differ."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.activation import activation_xml, epoch_of, wishes_autostart, with_epoch
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs
from mudanza.journal.protections import Protections
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Side, Sighting
from mudanza.model.protection import Protection, ReplicaDisk, RestorePoint, Standing, Trial
from mudanza.model.units import MIB
from mudanza.model.vm import Disk, Vm, VmState
from mudanza.operations.means import Means
from mudanza.operations.power import refuse_copies, start_one
from mudanza.protection import scripts
from mudanza.protection.differences import BLOCK, differing, older_copy
from mudanza.protection.turning import copies_of, seed_of
from tests.test_protection import UUID, VALUES, point

DOMAIN = f"<domain type='kvm'><name>db</name><uuid>{UUID}</uuid><os><type>hvm</type></os></domain>"


@pytest.fixture
def store(database: str) -> Protections:
    return Protections(open_database(database))


def failed_over(store: Protections, epoch: int = 1) -> Protection:
    made = store.make(VALUES)
    store.change(made.id, standing=Standing.FAILED_OVER, epoch=epoch)
    return store.of("db")


def copy(host: str, epoch: int, *, runs: bool, disks: tuple[Disk, ...] = ()) -> Vm:
    xml = with_epoch(DOMAIN, epoch, autostart=False) if epoch else DOMAIN
    state = VmState.RUNNING if runs else VmState.SHUTOFF
    return replace(parse_vm(xml, host=host, state=state), xml=xml, inactive_xml=xml, disks=disks)


def disk(path: str, *, size: int = 64 * MIB, image_format: str = "qcow2") -> Disk:
    return Disk("vda", "disk", "virtio", "file", path, image_format, capacity=size)


def test_a_definition_says_its_epoch_and_says_it_once() -> None:
    assert epoch_of(DOMAIN) == 0
    told = with_epoch(with_epoch(DOMAIN, 1, autostart=True), 2, autostart=False)
    assert epoch_of(told) == 2
    assert told.count("<activation:activation") == 1
    assert 'epoch="3" autostart="yes"' in activation_xml(3, autostart=True)


def test_that_a_host_is_to_start_it_is_kept_for_when_it_is_protected_no_more() -> None:
    assert wishes_autostart(with_epoch(DOMAIN, 0, autostart=True))
    assert not wishes_autostart(with_epoch(DOMAIN, 0, autostart=False))
    assert not wishes_autostart(DOMAIN)


def test_the_running_copy_is_the_one_of_the_newest_epoch_and_the_other_one_is_stale(store: Protections) -> None:
    cluster = Cluster((), (copy("h1", 0, runs=False), copy("h2", 1, runs=True)))
    found = copies_of(failed_over(store), cluster)
    assert (found.running.host, found.stale and found.stale.host) == ("h2", "h1")
    alone = copies_of(store.of("db"), Cluster((), cluster.vms[1:]))
    assert alone.stale is None


@pytest.mark.parametrize(
    ("copies", "said"),
    [
        ((copy("h1", 0, runs=True), copy("h2", 1, runs=True)), "is to run on one host"),
        ((copy("h1", 0, runs=False), copy("h2", 1, runs=False)), "is to run on one host"),
        ((copy("h1", 0, runs=True), copy("h2", 1, runs=False)), "came up last under epoch 1"),
        ((copy("h1", 1, runs=False), copy("h2", 1, runs=True)), "came up last under epoch 1"),
        ((copy("h1", 0, runs=False), copy("h3", 0, runs=False), copy("h2", 1, runs=True)), "old copies on h1 and h3"),
    ],
)
def test_what_is_not_clear_is_left_to_a_person(store: Protections, copies: tuple[Vm, ...], said: str) -> None:
    with pytest.raises(BlockedError, match=said):
        copies_of(failed_over(store), Cluster((), copies))


def test_what_has_not_failed_over_is_not_turned_about(store: Protections) -> None:
    with pytest.raises(BlockedError, match="nothing to turn about"):
        copies_of(store.make(VALUES), Cluster((), (copy("h1", 0, runs=True),)))


def test_it_is_not_turned_about_while_a_double_is_up(store: Protections) -> None:
    made = failed_over(store)
    store.add_point(made.id, point(1, whole=True), "c")
    store.begin_trial(made.id, Trial(1, "u-double", "db-test-1", "h2", 0.0))
    cluster = Cluster((), (copy("h1", 0, runs=False), copy("h2", 1, runs=True)))
    with pytest.raises(BlockedError, match="db-test-1 stands on the images"):
        copies_of(store.of("db"), cluster)
    store.end_trial(made.id)
    assert copies_of(store.of("db"), cluster).running.host == "h2"


def test_a_replica_begins_with_old_disks_that_can_be_compared(store: Protections) -> None:
    running = copy("h2", 1, runs=True, disks=(disk("/r/vda.active-1.qcow2"),))

    def seed(old: Disk, target: str = "h1") -> object:
        stale = copy("h1", 0, runs=False, disks=(old,))
        protection = next(iter(store.replicas(UUID)), None) or failed_over(store)
        return seed_of(copies_of(protection, Cluster((), (stale, running))), target)

    assert seed(disk("/images/db.qcow2")) == {"vda": "/images/db.qcow2"}
    assert seed(disk("/images/db.qcow2"), target="h3") == {}
    assert seed(disk("/images/db.qcow2", size=65 * MIB)) == {}, "it was resized since"
    assert seed(disk("/images/db.raw", image_format="raw")) == {}


def test_turned_about_it_has_no_points_but_what_its_replica_begins_with(store: Protections) -> None:
    made = failed_over(store)
    store.add_point(made.id, point(1, whole=True), "c")
    store.turn(made.id, "h1", "/images/u-1", {"vda": "/images/db.qcow2"})
    found = store.of("db")
    assert (found.standing, found.target, found.directory, found.epoch) == (Standing.ON, "h1", "/images/u-1", 1)
    assert (found.points, found.checkpoint, found.rounds) == ((), "", made.rounds)
    assert older_copy(found, disk("/x")) == "/images/db.qcow2"


def test_where_there_are_points_the_newest_is_what_is_compared_with(store: Protections) -> None:
    made = store.make(VALUES)
    assert older_copy(store.of("db"), disk("/x")) == ""
    newest = RestorePoint(1, 1.0, {"vda": ReplicaDisk("vda.1.whole.qcow2", 64 * MIB)}, "<domain/>")
    store.add_point(made.id, newest, "c")
    assert older_copy(store.of("db"), disk("/x")) == "vda.1.whole.qcow2"
    assert older_copy(store.of("db"), disk("/x", size=65 * MIB)) == "", "everything is brought"


def test_blocks_differ_where_their_digests_do_or_one_has_none() -> None:
    size = 5 * BLOCK + 512
    one = {0: "a", BLOCK: "b", 5 * BLOCK: "e"}
    other = {0: "a", BLOCK: "x", 2 * BLOCK: "c"}
    assert differing(one, other, size) == ((BLOCK, 2 * BLOCK), (5 * BLOCK, 512))
    assert differing(one, dict(one), size) == ()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img (Debian: qemu-utils)")
def test_the_host_s_script_finds_each_block_that_differs(tmp_path: Path) -> None:
    """Parts of 256 KiB: blocks in the middle and at the ends of parts, and a last one that is short."""
    size, part = 10 * BLOCK + 512, 4 * BLOCK
    chance = random.Random(3)
    first = bytearray(size)
    for at in (0, 1, 3, 4, 9):
        first[at * BLOCK : (at + 1) * BLOCK] = chance.randbytes(BLOCK)
    second = bytearray(first)
    second[3 * BLOCK + 17] ^= 1
    second[4 * BLOCK : 5 * BLOCK] = bytes(BLOCK)
    second[10 * BLOCK] = 7
    second[6 * BLOCK] = 9
    found = [read(image(tmp_path / name, bytes(content)), size, part) for name, content in
             (("a,b", first), ("c", second))]  # fmt: skip
    assert sorted(found[0]) == [at * BLOCK for at in (0, 1, 3, 4, 9, 10)], "the last one is no whole block"
    changed = differing(found[0], found[1], size)
    assert changed == ((3 * BLOCK, 2 * BLOCK), (6 * BLOCK, BLOCK), (10 * BLOCK, 512))


def image(path: Path, content: bytes) -> Path:
    raw = path.with_suffix(".raw")
    raw.write_bytes(content)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    return path


def read(path: Path, size: int, part: int) -> dict[int, str]:
    name = str(path).replace(",", ",,")
    image = f"driver=qcow2,file.driver=file,file.filename={name}"
    under = f"file.driver=qcow2,file.file.driver=file,file.file.filename={name}"
    values = {"image": image, "under": under, "size": size, "part": part, "block": BLOCK}
    text = "".join(f"{key}='{value}'\n" for key, value in values.items()) + scripts.DIGESTS
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    found: dict[int, str] = {}
    start = 0
    for line in done.stdout.splitlines():
        match line.split():
            case ["@", "part", at]:
                start = int(at)
            case ["@", "block", number, digest]:
                found[start + int(number) * BLOCK] = digest
    return found


def test_an_old_copy_is_not_started(database: str, store: Protections) -> None:
    failed_over(store)
    engine = open_database(database)
    means = SimpleNamespace(database=engine, jobs=Jobs(engine), inventory=Inventory(engine))
    with pytest.raises(BlockedError, match="an old copy, of epoch 0"):
        start_one(cast("Means", means), cast("object", None), copy("h1", 0, runs=False), print)  # type: ignore[arg-type]


class Definitions:
    """A host's word on one VM."""

    def __init__(self, side: Side, state: VmState = VmState.NOSTATE, epoch: int = 0) -> None:
        self._seen, self._epoch = Sighting(side, state), epoch

    def sighting(self, _uuid: str, *, timeout: float) -> Sighting:
        assert timeout
        return self._seen

    def describe(self, _uuid: str, *, inactive: bool, secure: bool) -> str:
        assert inactive
        assert not secure
        return copy("h1", self._epoch, runs=False).xml


OFF, RUNS = VmState.SHUTOFF, VmState.RUNNING


@pytest.mark.parametrize(
    ("h1", "epoch", "said"),
    [
        (Definitions(Side.ABSENT), 1, ""),
        (Definitions(Side.PRESENT, OFF, 0), 1, ""),
        (Definitions(Side.PRESENT, OFF, 1), 1, "h1 has it too"),
        (Definitions(Side.PRESENT, RUNS, 0), 1, "h1 has it too"),
        (Definitions(Side.PRESENT, OFF, 0), 0, "h1 has it too"),
        (Definitions(Side.UNSEEN), 1, "h1 could not be asked"),
    ],
)
def test_a_copy_that_it_has_left_does_not_keep_it_from_being_started(
    database: str, h1: Definitions, epoch: int, said: str
) -> None:
    """Only where it is off and of an earlier epoch for sure: else both might write."""
    engine = open_database(database)
    inventory = Inventory(engine)
    inventory.put_hosts([HostEntry(name, f"qemu+ssh://root@{name}/system") for name in ("h1", "h2")])
    means = cast("Means", SimpleNamespace(database=engine, inventory=inventory, limits=SimpleNamespace(read=9.0)))
    there = cast("Connections", SimpleNamespace(domains=lambda _host: h1))
    if not said:
        refuse_copies(means, there, "u", "db", "h2", epoch)
        return
    with pytest.raises(BlockedError, match=said) as refused:
        refuse_copies(means, there, "u", "db", "h2", epoch)
    assert ("mudanza fence off h1" in refused.value.remedy) is ("asked" in said)
