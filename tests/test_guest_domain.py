"""The XML a lab guest is defined by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from mudanza.lab.domain import BootFiles, GuestSpec, domain_xml, mac_of, volume_xml
from mudanza.model.errors import UsageError
from mudanza.model.units import GIB, MIB

BOOT = BootFiles(kernel="/srv/boot/x/vmlinuz", initrd="/srv/boot/x/initrd.cpio")
UUID = "11111111-2222-3333-4444-555555555555"


def settled(spec: GuestSpec) -> GuestSpec:
    return replace(spec, address="10.77.0.101", mac=mac_of("10.77.0.101"), uuid=UUID)


def text(tree: etree._Element, path: str) -> str | None:
    return tree.findtext(path)


@given(
    name=st.text(
        alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\ufffe\uffff"), min_size=1
    )
)
def test_any_name_comes_through_whole(name: str) -> None:
    spec = settled(GuestSpec(name))
    assert etree.fromstring(domain_xml(spec, BOOT, ["/x"])).findtext("name") == name
    assert etree.fromstring(volume_xml(spec.volume, GIB, "qcow2")).findtext("name") == f"{name}.qcow2"


def test_a_name_with_a_control_character_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot stand in XML"):
        domain_xml(settled(GuestSpec("a\x00b")), BOOT, [])


def test_the_settings_reach_the_agent() -> None:
    spec = settled(GuestSpec("web", write_rate=5, working_set=4 * MIB, disk_write_rate=6, beat=0.1, burn=2))
    assert "mudanza.little=0" in domain_xml(spec, BOOT, ["/x"])
    assert "mudanza.little=1" in domain_xml(replace(spec, changes_little=True), BOOT, ["/x"])
    words = str(text(etree.fromstring(domain_xml(spec, BOOT, ["/x"])), "os/cmdline")).split()
    assert {
        "console=ttyS0", "mudanza.ip=10.77.0.101/24", "mudanza.beat=100", "mudanza.write=5",
        f"mudanza.workingset={4 * MIB}", "mudanza.diskwrite=6", "mudanza.burn=2",
    } <= set(words)  # fmt: skip


def test_options_appear_only_when_asked_for() -> None:
    plain = etree.fromstring(domain_xml(settled(GuestSpec("web")), BOOT, []))
    assert plain.find("cpu") is None
    assert plain.find("devices/graphics") is None
    assert plain.find("devices/disk") is None
    wishes = GuestSpec("web", cpu_model="Nehalem", vnc=True, disk_format="raw")
    full = etree.fromstring(domain_xml(settled(wishes), BOOT, ["/x.raw"]))
    assert text(full, "cpu/model") == "Nehalem"
    assert full.find("devices/graphics[@type='vnc']") is not None
    assert full.find("devices/disk/driver[@type='raw']") is not None
    assert full.find("devices/disk/source[@file='/x.raw']") is not None
    most = etree.fromstring(domain_xml(settled(GuestSpec("web", cpu_model="maximum")), BOOT, []))
    assert most.find("cpu[@mode='maximum']") is not None


def test_firmware_tpm_and_further_devices_appear_only_when_asked_for() -> None:
    plain = etree.fromstring(domain_xml(settled(GuestSpec("web")), BOOT, ["/a", "/b"]))
    assert [target.get("dev") for target in plain.findall("devices/disk/target")] == ["vda", "vdb"]
    assert (plain.find("os/loader"), plain.find("os/nvram"), plain.find("devices/tpm")) == (None, None, None)
    assert plain.find("devices/channel") is None
    assert "mudanza.stubborn=0" in str(text(plain, "os/cmdline"))
    wishes = GuestSpec(
        "web", uefi=True, tpm=True, stubborn=True, guest_agent=True, devices="<rng model='virtio'/><vsock/>"
    )
    full = etree.fromstring(domain_xml(settled(wishes), BOOT, []))
    assert "secboot" not in str(text(full, "os/loader"))
    assert text(full, "os/nvram") == "/var/lib/libvirt/qemu/nvram/web_VARS.fd"
    assert full.find("devices/channel/target[@name='org.qemu.guest_agent.0']") is not None
    assert full.find("devices/tpm/backend[@type='emulator'][@version='2.0']") is not None
    assert full.find("devices/rng") is not None
    assert full.find("devices/vsock") is not None
    assert "mudanza.stubborn=1" in str(text(full, "os/cmdline"))
    with pytest.raises(UsageError, match="not XML"):
        domain_xml(settled(GuestSpec("web", devices="<rng>")), BOOT, [])


def test_two_addresses_never_share_a_mac() -> None:
    assert len({mac_of(f"10.77.0.{last}") for last in range(256)}) == 256


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: GuestSpec("web", memory=64 * MIB),
        lambda: GuestSpec("web", memory=128 * MIB, working_set=64 * MIB),
        lambda: GuestSpec("web", disk=MIB),
        lambda: GuestSpec("web", disk=0, disk_write_rate=1),
        lambda: GuestSpec("web", extra_disk=-1),
        lambda: GuestSpec("web", disk_format="vmdk"),
        lambda: GuestSpec("web", disk_format="raw", backing="base.qcow2"),
        lambda: GuestSpec("web", disk=0, backing="base.qcow2"),
        lambda: GuestSpec("web", vcpus=0),
        lambda: GuestSpec("web", beat=0.0),
        lambda: GuestSpec("web", write_rate=-1),
    ],
)
def test_what_cannot_be_is_refused(impossible: Callable[[], GuestSpec]) -> None:
    with pytest.raises(UsageError):
        impossible()


def test_what_can_be_is_taken() -> None:
    assert GuestSpec("web", memory=GIB, working_set=GIB - 96 * MIB, disk=0).volume == "web.qcow2"
