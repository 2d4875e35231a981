"""What a carrier is made of, and when it counts as left behind."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from mudanza.hypervisor.own.carrier import SECTOR, Kind, Load, carrier_xml, joined
from mudanza.hypervisor.own.throwaway import (
    CARRIER_STALE_AFTER,
    STALE_AFTER,
    is_abandoned,
    is_throwaway,
    throwaway_name,
)

KIND = Kind("kvm", "x86_64", "q35")
FILE = Load("/a/x.raw", False, "/b/x.raw", False, 0, 4096, whole=True, read_only=False)


def disks(loads: list[Load], over: dict[int, str] | None = None) -> list[Any]:
    root = etree.fromstring(carrier_xml("c", "u", KIND, loads, over=over))
    assert (root.get("type"), root.findtext("name"), root.findtext("uuid")) == ("kvm", "c", "u")
    return root.findall("devices/disk")


def source_and_target(load: Load, overlay: str | None = None) -> tuple[Any, Any]:
    (source,) = disks([load], {0: overlay} if overlay else {})
    (target,) = disks([load])
    return source, target


def slices(disk: Any, under: str = "source") -> tuple[int, int] | None:
    found = disk.find(f"{under}/slices/slice")
    return None if found is None else (int(found.get("offset")), int(found.get("size")))


def test_a_whole_file_is_a_raw_disk_at_both_ends() -> None:
    source, target = source_and_target(FILE)
    assert (source.find("source").get("file"), target.find("source").get("file")) == ("/a/x.raw", "/b/x.raw")
    assert source.find("driver").get("type") == target.find("driver").get("type") == "raw"
    assert (slices(source), slices(target)) == (None, None)


def test_a_range_is_the_same_range_at_both_ends() -> None:
    source, target = source_and_target(replace(FILE, start=1024, length=512, whole=False))
    assert slices(source) == slices(target) == (1024, 512)


def test_onto_a_device_no_more_goes_than_there_is() -> None:
    source, target = source_and_target(
        replace(FILE, source="/dev/v/x", source_is_block=True, target="/dev/w/x", target_is_block=True)
    )
    assert (source.get("type"), source.find("source").get("dev")) == ("block", "/dev/v/x")
    assert (target.get("type"), target.find("source").get("dev")) == ("block", "/dev/w/x")
    assert (slices(source), slices(target)) == (None, (0, 4096))


def test_what_others_have_open_lies_under_an_overlay_at_the_source_alone() -> None:
    source, target = source_and_target(replace(FILE, start=512, length=512, whole=False, read_only=True), "/a/over")
    assert (source.find("driver").get("type"), source.find("source").get("file")) == ("qcow2", "/a/over")
    assert source.find("backingStore/format").get("type") == "raw"
    assert source.find("backingStore/source").get("file") == "/a/x.raw"
    assert slices(source, "backingStore/source") == slices(target) == (512, 512)
    assert len(source.find("backingStore/backingStore")) == 0
    assert (target.find("driver").get("type"), target.find("source").get("file")) == ("raw", "/b/x.raw")


def test_a_chain_is_named_to_its_base_so_that_nothing_is_probed() -> None:
    load = replace(FILE, source_format="qcow2", backing=(("/a/mid", "qcow2"), ("/dev/v/base", "raw")))
    source, target = source_and_target(load, "/a/over")
    top = source.find("backingStore")
    below = top.find("backingStore")
    base = below.find("backingStore")
    assert [each.find("format").get("type") for each in (top, below, base)] == ["qcow2", "qcow2", "raw"]
    assert [each.get("type") for each in (top, below, base)] == ["file", "file", "block"]
    assert base.find("source").get("dev") == "/dev/v/base"
    assert len(base.find("backingStore")) == 0
    assert (target.find("driver").get("type"), slices(target)) == ("raw", None)


def test_only_a_raw_source_that_nobody_else_has_is_opened_for_writing() -> None:
    assert not FILE.is_shielded
    assert not replace(FILE, target_format="qcow2").is_shielded
    assert replace(FILE, read_only=True).is_shielded
    assert replace(FILE, source_format="qcow2").is_shielded


def test_ranges_of_one_file_share_it_at_both_ends() -> None:
    parts = [replace(FILE, start=start, length=512, whole=False) for start in (0, 1024)]
    alone = replace(FILE, source="/a/x", target="/b/y")
    for at_source in (True, False):
        found = disks([*parts, alone], {} if at_source else None)
        assert [disk.find("shareable") is not None for disk in found] == [True, True, False]


def test_a_file_that_keeps_its_path_does_not_share_it_with_itself() -> None:
    assert disks([replace(FILE, target=FILE.source)])[0].find("shareable") is None


def test_two_images_made_of_one_chain_share_nothing() -> None:
    loads = [replace(FILE, source_format="qcow2", target=target) for target in ("/b/x", "/b/y")]
    assert all(disk.find("shareable") is None for disk in disks(loads, {0: "/a/over", 1: "/a/under"}))


def test_more_disks_than_libvirt_would_put_on_one_controller() -> None:
    loads = [replace(FILE, source=f"/a/{n}", target=f"/b/{n}") for n in range(40)]
    found = disks(loads)
    assert [disk.find("address").get("unit") for disk in found] == [str(n) for n in range(40)]
    assert len({disk.find("target").get("dev") for disk in found}) == 40
    assert {disk.find("address").get("controller") for disk in found} == {"0"}


ranges = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda pair: (pair[0] * SECTOR, pair[1] * SECTOR))
loads_of_files = st.lists(
    st.builds(
        lambda name, part: replace(
            FILE, source=name, target=name, start=part[0], length=part[1], whole=False, read_only=name != "/mine"
        ),
        st.sampled_from(["/mine", "/base", "/iso"]),
        ranges,
    ),
    max_size=8,
)


@given(loads_of_files)
def test_joined_loads_carry_all_there_was_and_no_shielded_file_twice(loads: list[Load]) -> None:
    found = joined(loads)
    shielded = [load.source for load in found if load.is_shielded]
    assert len(shielded) == len(set(shielded))
    for load in loads:
        assert any(
            each.source == load.source
            and each.start <= load.start
            and each.start + each.length >= load.start + load.length
            for each in found
        )


def test_a_small_shielded_range_grows_to_whole_kibibytes_towards_the_beginning() -> None:
    base = replace(FILE, whole=False, read_only=True)
    assert [(each.start, each.length) for each in joined([replace(base, start=1024, length=512)])] == [(512, 1024)]
    assert [(each.start, each.length) for each in joined([replace(base, start=512, length=1024)])] == [(512, 1024)]
    assert [(each.start, each.length) for each in joined([replace(base, start=0, length=512)])] == [(0, 512)]


def aged(purpose: str, seconds: float) -> str:
    """Return a name that a living process of another machine gave, so long ago."""
    *words, _, _, pid, unique = throwaway_name(purpose).split("-")
    return "-".join((*words, f"{int(time.time() - seconds):08x}", "0" * 8, pid, unique))


def test_a_carrier_may_be_at_work_for_days() -> None:
    for purpose in ("carrier", "overlay"):
        old = aged(purpose, STALE_AFTER + 60)
        assert is_throwaway(old)
        assert not is_abandoned(old)
        stale = aged(purpose, CARRIER_STALE_AFTER + 60)
        assert not is_throwaway(stale)
        assert is_abandoned(stale)
