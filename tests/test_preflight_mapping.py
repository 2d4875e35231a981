"""Where disks and cards end up."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mudanza.model.host import Pool
from mudanza.model.migration import Answer, Facts, MigrationOptions, Probe
from mudanza.model.units import GIB
from mudanza.model.vm import Backing, Disk, Firmware, HostDevice
from mudanza.preflight.files import files_needed
from mudanza.preflight.mapping import DiskPlan, NicPlan, Resolution, resolve, shared_candidates
from tests import factories as make
from tests.factories import IMAGES, NO, YES


def planned(
    disk: Disk,
    *,
    pools: tuple[Pool, ...] = (make.pool(),),
    shared: Probe = NO,
    map_storage: Mapping[str, str] | None = None,
) -> Resolution:
    vm = make.vm(disks=(disk,))
    facts = Facts(shared={disk.target: shared})
    return resolve(
        vm, make.host("h1"), make.host("h2", pools=pools), MigrationOptions(map_storage=map_storage or {}), facts
    )


def only(resolution: Resolution) -> DiskPlan:
    assert resolution.findings == ()
    (plan,) = resolution.disks
    return plan


def test_a_local_disk_is_copied_into_the_pool_of_the_same_directory() -> None:
    other_name = make.pool(name="vms")
    decoy = make.pool(name="images", path="/srv")
    plan = only(planned(make.disk(), pools=(decoy, other_name)))
    assert plan == DiskPlan(
        target="vda",
        action="copy",
        reason="copied into pool vms of h2",
        pool="vms",
        volume="web.qcow2",
        path=f"{IMAGES}/web.qcow2",
        format="qcow2",
        size=10 * GIB,
        pool_is_block=False,
    )


def test_else_into_the_pool_of_the_same_name() -> None:
    plan = only(planned(make.disk(), pools=(make.pool(path="/srv/"),)))
    assert (plan.pool, plan.path) == ("images", "/srv/web.qcow2")


@pytest.mark.parametrize("key", ["images", IMAGES, f"{IMAGES}/"])
def test_a_map_names_the_pool_or_its_directory(key: str) -> None:
    fast = make.pool(name="fast", path="/fast")
    plan = only(planned(make.disk(), pools=(make.pool(), fast), map_storage={key: "fast"}))
    assert (plan.action, plan.path) == ("copy", "/fast/web.qcow2")


def test_a_map_moves_even_a_shared_disk() -> None:
    plan = only(
        planned(make.disk(), pools=(make.pool(name="fast", path="/fast"),), shared=YES, map_storage={"images": "fast"})
    )
    assert plan.action == "copy"


def test_an_image_becomes_raw_in_a_volume_group_and_back_a_file() -> None:
    group = make.pool(name="vg", kind="logical", path="/dev/vg")
    plan = only(planned(make.disk(), pools=(group,), map_storage={"images": "vg"}))
    assert (plan.path, plan.format, plan.pool_is_block) == ("/dev/vg/web.qcow2", "raw", True)
    volume = make.disk(kind="block", source="/dev/vg/web", format="raw", pool="vg", volume="web")
    plan = only(planned(volume, map_storage={"/dev/vg": "images"}))
    assert (plan.path, plan.format, plan.pool_is_block) == (f"{IMAGES}/web", "raw", False)


def test_a_disk_in_no_pool_is_named_after_its_file() -> None:
    plan = only(planned(make.disk(pool=None, volume=None)))
    assert (plan.pool, plan.volume) == ("images", "web.qcow2")


@pytest.mark.parametrize(
    ("disk", "action"),
    [
        (make.iso(), "none"),
        (make.iso(source=None), "none"),
        (make.disk(readonly=True), "none"),
        (make.disk(kind="network", source="rbd://m/p/v"), "shared"),
    ],
)
def test_what_is_not_copied(disk: Disk, action: str) -> None:
    plan = only(planned(disk, shared=Probe(Answer.UNKNOWN)))
    assert plan.action == action
    assert plan.path == (disk.source or "")


def test_a_shared_disk_stays_where_it_is_and_says_how_that_is_known() -> None:
    plan = only(planned(make.disk(), pools=(), shared=Probe(Answer.YES, "a marker file was seen")))
    assert (plan.action, plan.path, plan.reason) == (
        "shared",
        f"{IMAGES}/web.qcow2",
        "both hosts see the same image: a marker file was seen",
    )


def test_an_unproven_disk_is_never_copied_onto_its_own_path() -> None:
    resolution = planned(make.disk(), shared=Probe(), map_storage={"images": "images"})
    assert [finding.code for finding in resolution.findings] == ["shared-unknown"]
    assert resolution.disks == ()


def test_cards_keep_their_name_or_get_the_mapped_one() -> None:
    cards = (
        make.nic(mac="a", kind="bridge", source="br0"),
        make.nic(mac="b", kind="network", source="lan"),
        make.nic(mac="c", kind="user", source=None),
        make.nic(mac="d", kind="hostdev", source="br0"),
    )
    options = MigrationOptions(map_network={"br0": "br1"})
    host = make.host("h1")
    resolution = resolve(make.vm(nics=cards, disks=()), host, make.host("h2"), options, Facts())
    assert resolution.nics == (
        NicPlan("a", "bridge", "br0", "br1", mapped=True),
        NicPlan("b", "network", "lan", "lan"),
        NicPlan("c", "user", None, None),
        NicPlan("d", "hostdev", "br0", "br0"),
    )
    assert resolution.nic_names == {"a": "br1", "b": "lan", "d": "br0"}


def test_only_writable_local_images_are_asked_about_sharing() -> None:
    disks = (make.disk(), make.iso(), make.iso(source=None), make.disk(kind="network", source="rbd://m/p/v"))
    assert shared_candidates(make.vm(disks=disks)) == (disks[0],)


def test_the_paths_to_look_up() -> None:
    vm = make.vm(
        disks=(make.disk(backing=(Backing("/base", "raw"),)), make.iso(source="/cd.iso")),
        firmware=Firmware("/loader", "/nvram", "/template"),
        boot_files=("/vmlinuz",),
        host_devices=(HostDevice("char", "serial", path="/dev/ttyS0"), HostDevice("rng", "rng", path="/dev/urandom")),
        emulator="/qemu",
    )
    everything = ("/base", "/cd.iso", "/dev/ttyS0", "/loader", "/nvram", "/qemu", "/template", "/vmlinuz")
    assert files_needed(vm, make.host("h2")) == everything
    known = make.host("h2", firmware_loaders=frozenset({"/loader"}))
    assert set(everything) - set(files_needed(vm, known)) == {"/loader"}
