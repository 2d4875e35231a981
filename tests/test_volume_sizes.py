"""How large an image becomes that libvirt can only make in whole KiB."""

from __future__ import annotations

import struct

import pytest

from mudanza.hypervisor.volumes import size_in_header
from mudanza.migration.destination import volume_xml
from mudanza.preflight.mapping import DiskPlan


def xml(size: int, image_format: str) -> str:
    return volume_xml(DiskPlan("vda", "copy", "", pool="p", volume="v", format=image_format, size=size), None)


@pytest.mark.parametrize("size", [512, 1536, 10 * 1024**2 + 512])
def test_an_odd_number_of_sectors_is_put_into_the_header(size: int) -> None:
    assert size_in_header(xml(size, "qcow2")) == (24, struct.pack(">Q", size))


@pytest.mark.parametrize(("size", "image_format"), [(0, "qcow2"), (1024, "qcow2"), (1536, "raw"), (1536, "vmdk")])
def test_what_libvirt_makes_as_asked_is_left_alone(size: int, image_format: str) -> None:
    assert size_in_header(xml(size, image_format)) is None
