"""The definition at the destination: what must change does, and nothing else."""

from __future__ import annotations

import pytest
from lxml import etree

from mudanza.migration.destination import destination_xml, disk_sources, volume_xml, with_places_of
from mudanza.model.errors import MudanzaError
from mudanza.preflight.mapping import DiskPlan

DOMAIN = """
<domain type='kvm'>
  <name>a;reboot "&gt; €</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <metadata><x:mine xmlns:x='urn:x'>kept</x:mine></metadata>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/old/a.qcow2' index='2'/>
      <backingStore type='file'><format type='raw'/><source file='/old/base.img'/></backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>S1</serial>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw'/>
      <source pool='p' volume='v'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><source file='/iso/x.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='blue' portid='77' bridge='br0'/>
      <model type='virtio'/>
    </interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/></interface>
  </devices>
</domain>
"""

COPY = DiskPlan("vda", "copy", "", "fast", "a.qcow2", "/new/a.qcow2", "qcow2", 1024)
BLOCK = DiskPlan("vdb", "copy", "", "vg", "v", "/dev/vg/v", "raw", 2048, pool_is_block=True)
IN_PLACE = DiskPlan("sda", "none", "", path="/iso/x.iso")


def texts(xml: str, path: str) -> list[str]:
    found = etree.fromstring(xml).xpath(path)
    assert isinstance(found, list)
    return [str(each) for each in found]


def test_copied_disks_point_at_their_volumes_and_lose_the_chain_of_the_source() -> None:
    xml = destination_xml(DOMAIN, [COPY, BLOCK, IN_PLACE], {})
    assert texts(xml, "//disk[1]/source/@*") == ["/new/a.qcow2"]
    assert texts(xml, "//disk[2]/@type") == ["block"]
    assert texts(xml, "//disk[2]/source/@*") == ["/dev/vg/v"]
    assert texts(xml, "//backingStore") == []
    assert texts(xml, "//disk[3]/source/@file") == ["/iso/x.iso"]
    assert texts(xml, "//disk[1]/driver/@cache") == ["none"]


def test_networks_are_mapped_and_what_belongs_to_the_old_port_goes() -> None:
    names = {"52:54:00:00:00:01": "green", "52:54:00:00:00:02": "br9"}
    xml = destination_xml(DOMAIN, [], names)
    assert texts(xml, "//interface[1]/source/@*") == ["green"]
    assert texts(xml, "//interface[2]/source/@*") == ["br9"]


def test_without_plans_nothing_changes() -> None:
    def canonical(xml: str) -> bytes:
        return etree.tostring(etree.fromstring(xml), method="c14n")

    assert canonical(destination_xml(DOMAIN, [], {})) == canonical(DOMAIN)
    assert canonical(destination_xml(DOMAIN, [COPY], {})) != canonical(DOMAIN)


def test_a_doctype_is_refused() -> None:
    with pytest.raises(MudanzaError, match="DOCTYPE"):
        destination_xml("<!DOCTYPE domain [<!ENTITY e 'x'>]><domain>&e;</domain>", [], {})


def test_a_qcow2_volume_keeps_its_traits_and_is_empty() -> None:
    source = """<volume><target><path>/old/a</path><format type='qcow2'/>
      <permissions><mode>0600</mode></permissions>
      <compat>1.1</compat><clusterSize unit='B'>131072</clusterSize>
      <features><lazy_refcounts/></features></target></volume>"""
    xml = volume_xml(COPY, source)
    assert texts(xml, "/volume/name/text()") == ["a.qcow2"]
    assert texts(xml, "/volume/capacity/text()") == ["1024"]
    assert texts(xml, "//compat/text()") == ["1.1"]
    assert texts(xml, "//clusterSize/text()") == ["131072"]
    assert len(texts(xml, "//lazy_refcounts")) == 1
    assert texts(xml, "//path") == []
    assert texts(xml, "//permissions") == []
    assert texts(volume_xml(BLOCK, source), "//compat") == []


def test_a_qcow2_volume_of_unknown_origin_can_hold_bitmaps() -> None:
    assert texts(volume_xml(COPY, None), "//compat/text()") == ["1.1"]
    assert texts(volume_xml(BLOCK, None), "//compat") == []


def test_a_logical_volume_has_all_its_space_and_a_file_none() -> None:
    assert texts(volume_xml(BLOCK, None), "/volume/allocation/text()") == ["2048"]
    assert texts(volume_xml(COPY, None), "/volume/allocation/text()") == ["0"]


def test_what_fills_a_drive_is_compared_without_what_libvirt_numbers_anew() -> None:
    assert disk_sources(DOMAIN) == disk_sources(DOMAIN.replace(" index='2'", ""))
    assert disk_sources(DOMAIN) != disk_sources(DOMAIN.replace("/old/a.qcow2", "/old/b.qcow2"))
    assert disk_sources(DOMAIN) != disk_sources(DOMAIN.replace("dev='vdb'", "dev='vdc'"))
    assert disk_sources(DOMAIN)["vdb"] != ()


def test_saved_memory_is_restored_with_the_disks_and_cards_of_the_target() -> None:
    saved = """<domain><devices>
      <disk type='file'><driver name='qemu' type='qcow2'/><source file='/old/a.qcow2' index='1'/>
        <backingStore type='file'><source file='/old/base'/></backingStore><target dev='vda'/><alias name='d0'/></disk>
      <disk type='file' device='cdrom'><source file='/old/cd.iso'/><target dev='sda'/></disk>
      <disk type='file'><source file='/old/gone'/><target dev='vdz'/></disk>
      <interface type='network'><mac address='52:54:00:00:00:01'/><source network='a' portid='x' bridge='br0'/>
        <target dev='vnet0'/></interface></devices></domain>"""
    there = """<domain><devices>
      <disk type='block'><driver type='raw' cache='none'/><source dev='/dev/vg/a'/><target dev='vda'/></disk>
      <disk type='file' device='cdrom'><target dev='sda'/></disk>
      <interface type='network'><mac address='52:54:00:00:00:01'/><source network='b'/></interface>
      </devices></domain>"""
    xml = with_places_of(there, saved)
    assert texts(xml, "//disk[target/@dev='vda']/@type") == ["block"]
    assert texts(xml, "//disk[target/@dev='vda']/source/@dev") == ["/dev/vg/a"]
    assert texts(xml, "//disk[target/@dev='vda']/driver/@*") == ["qemu", "raw"]
    assert texts(xml, "//backingStore") == []
    assert texts(xml, "//alias/@name") == ["d0"]
    assert texts(xml, "//disk[target/@dev='sda']/source") == []
    assert texts(xml, "//disk[target/@dev='vdz']/source/@file") == ["/old/gone"]
    assert texts(xml, "//interface/source/@*") == ["b"]
    assert texts(xml, "//interface/target/@dev") == ["vnet0"]
