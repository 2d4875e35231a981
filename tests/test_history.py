"""Snapshots and checkpoints as the target is told of them: every file where it lies there, and nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from mudanza.migration.history import memory_files, moved
from mudanza.model.errors import HypervisorError

PLACES = {
    "/old/a.qcow2": "/new/a.qcow2",
    "/old/a.s1.qcow2": "/new/a.s1.qcow2",
    "/old/s1.mem": "/new/s1.mem",
    "/old/nvram.fd": "/new/nvram.fd",
    "/old/data.raw": "/dev/vg/data",
}
NICS = {"52:54:00:00:00:01": "green"}

DISKS = """
  <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/old/a.s1.qcow2' index='3'/>
    <backingStore type='file'><format type='qcow2'/><source file='/old/a.qcow2'/>
      <backingStore type='file'><format type='raw'/><source file='/base/debian.img'/><backingStore/></backingStore>
    </backingStore><target dev='vda' bus='virtio'/></disk>
  <disk type='file' device='disk'><source file='/old/data.raw'/><target dev='vdb' bus='virtio'/></disk>
  <disk type='file' device='cdrom'><source file='/iso/x.iso'/><target dev='sda'/></disk>
  <interface type='network'><mac address='52:54:00:00:00:01'/><source network='blue' portid='7'/></interface>
  <interface type='direct'><mac address='52:54:00:00:00:02'/><source dev='eth0' mode='bridge'/></interface>
"""
SNAPSHOT = f"""<domainsnapshot><name>s1</name><state>running</state>
  <memory snapshot='external' file='/old/s1.mem'/>
  <disks><disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='/old/a.s1.qcow2'/></disk>
    <disk name='vdb' snapshot='no'/></disks>
  <domain type='kvm'><name>/old/a.qcow2</name><memory unit='KiB'>1024</memory>
    <os><nvram>/old/nvram.fd</nvram><kernel>/boot/vmlinuz</kernel></os><devices>{DISKS}</devices></domain>
  <inactiveDomain type='kvm'><devices>{DISKS}</devices></inactiveDomain>
  <cookie><slirpHelper/></cookie></domainsnapshot>"""
CHECKPOINT = f"""<domaincheckpoint><name>monday</name>
  <disks><disk name='vda' checkpoint='bitmap' bitmap='monday'/></disks>
  <domain type='kvm'><devices>{DISKS}</devices></domain></domaincheckpoint>"""


def found(xml: str, path: str) -> list[str]:
    values = etree.fromstring(xml).xpath(path)
    assert isinstance(values, list)
    return [str(value) for value in values]


def canonical(xml: str) -> str:
    return str(etree.canonicalize(xml))


@pytest.mark.parametrize("xml", [SNAPSHOT, CHECKPOINT])
def test_every_definition_in_it_has_the_paths_and_networks_of_the_target(xml: str) -> None:
    told = moved(xml, PLACES, NICS)
    for definition in etree.fromstring(told).iterchildren("domain", "inactiveDomain"):
        inside = etree.tostring(definition, encoding="unicode")
        images = ["/new/a.s1.qcow2", "/new/a.qcow2", "/base/debian.img", "/iso/x.iso"]
        assert found(inside, "devices/disk//source/@file") == images
        assert found(inside, "devices/disk[2]/@type") == ["block"]
        assert found(inside, "devices/disk[2]/source/@dev") == ["/dev/vg/data"]
        assert found(inside, "devices/interface/source/@network") == ["green"]
        assert found(inside, "devices/interface/source/@portid") == []
        assert found(inside, "devices/interface/source/@dev") == ["eth0"]


def test_a_snapshots_own_files_move_too() -> None:
    told = moved(SNAPSHOT, PLACES, NICS)
    assert found(told, "disks/disk/source/@file") == ["/new/a.s1.qcow2"]
    assert found(told, "memory/@file") == ["/new/s1.mem"]
    assert found(told, "domain/os/nvram/text()") == ["/new/nvram.fd"]
    assert found(told, "domain/os/kernel/text()") == ["/boot/vmlinuz"]


def test_what_only_looks_like_a_path_stays() -> None:
    told = moved(SNAPSHOT, PLACES, NICS)
    assert found(told, "domain/name/text()") == ["/old/a.qcow2"]
    assert found(told, "domain/memory/text()") == ["1024"]


def test_files_that_change_places_are_not_mixed_up() -> None:
    sources = "".join(f"<disk><source file='{path}'/></disk>" for path in ("/a", "/b"))
    xml = f"<domainsnapshot><disks>{sources}</disks></domainsnapshot>"
    assert found(moved(xml, {"/a": "/b", "/b": "/a"}, {}), "//@file") == ["/b", "/a"]


def test_memory_files() -> None:
    assert memory_files(SNAPSHOT) == ("/old/s1.mem",)
    assert memory_files("<domainsnapshot><memory snapshot='internal'/></domainsnapshot>") == ()
    assert memory_files(CHECKPOINT) == ()


def test_document_types_are_refused() -> None:
    with pytest.raises(HypervisorError, match="DOCTYPE"):
        moved("<!DOCTYPE domainsnapshot [<!ENTITY x 'y'>]><domainsnapshot>&x;</domainsnapshot>", {}, {})


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=6)
HERE = st.one_of(NAMES.map("/here/{}".format), NAMES.map("/dev/here/{}".format))
THERE = st.one_of(NAMES.map("/there/{}".format), NAMES.map("/dev/there/{}".format))


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return a snapshot, and where the files and NICs in it go; some stay where they are."""
    paths = draw(st.lists(HERE, min_size=1, max_size=4, unique=True))
    ends = draw(st.lists(THERE, min_size=len(paths), max_size=len(paths), unique=True))
    places = {path: end for path, end in zip(paths, ends, strict=True) if draw(st.booleans())}
    macs = [f"52:54:00:00:00:0{number}" for number in range(draw(st.integers(0, 2)))]
    nics = {mac: f"net-{draw(NAMES)}" for mac in macs if draw(st.booleans())}
    chains = st.lists(st.sampled_from(paths), min_size=1, max_size=3)
    domains = "".join(
        f"<{kind}><os><nvram>{escape(draw(st.sampled_from(paths)))}</nvram></os><devices>"
        + "".join(map(_disk, draw(st.lists(chains, max_size=3))))
        + "".join(map(_nic, macs))
        + f"</devices></{kind}>"
        for kind in ("domain", "inactiveDomain")
    )
    memory = f"<memory snapshot='external' file={_quoted(draw(st.sampled_from(paths)))}/>"
    disks = "".join(map(_disk, draw(st.lists(chains.map(lambda chain: chain[:1]), max_size=2))))
    return f"<domainsnapshot>{memory}<disks>{disks}</disks>{domains}</domainsnapshot>", places, nics


def _quoted(path: str) -> str:
    return f'"{escape(path)}"'


def _kind(path: str) -> str:
    return "block" if path.startswith("/dev/") else "file"


def _source(path: str) -> str:
    return f"<source {'dev' if _kind(path) == 'block' else 'file'}={_quoted(path)}/>"


def _disk(chain: list[str]) -> str:
    below = ""
    for path in reversed(chain[1:]):
        below = f"<backingStore type='{_kind(path)}'>{_source(path)}{below}</backingStore>"
    return f"<disk type='{_kind(chain[0])}'>{_source(chain[0])}{below}</disk>"


def _nic(mac: str) -> str:
    return f"<interface type='network'><mac address='{mac}'/><source network='blue'/></interface>"


def _back(mapping: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in mapping.items()}


@given(histories())
def test_nothing_changes_where_nothing_moves(history: tuple[str, dict[str, str], dict[str, str]]) -> None:
    xml, places, nics = history
    assert canonical(moved(xml, {}, {})) == canonical(xml)
    assert canonical(moved(xml, {path: path for path in places}, dict.fromkeys(nics, "blue"))) == canonical(xml)


@given(histories())
def test_there_and_back_is_where_it_was(history: tuple[str, dict[str, str], dict[str, str]]) -> None:
    xml, places, nics = history
    there = moved(xml, places, nics)
    assert not set(places) & set(found(there, "//@file | //@dev | //nvram/text()"))
    assert canonical(moved(there, _back(places), dict.fromkeys(nics, "blue"))) == canonical(xml)
