"""A guest's display, seen and typed into by every way that leads to one: real QEMUs, whose BIOS offers a boot menu."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lxml import etree

from mudanza.hypervisor.pictures import NAMED
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab, Via
from mudanza.lab.layout import CONTROLLER
from tests.lab import looking

pytestmark = pytest.mark.lab

LOOKING = str(Path(looking.__file__))
LISTEN = "<graphics type='vnc' autoport='yes'{}><listen type='address' address='{}'/></graphics>"
SOCKET = "<graphics type='vnc'><listen type='socket'/></graphics>"
PASSWORD = " passwd='0pensesm'"


@contextmanager
def bios(lab: Lab, graphics: str, *, name: str = "shown", on: str = "h1") -> Iterator[str]:
    """A machine with nothing to boot from, which says so, offers its menu and begins anew: the UUID."""
    cell, uuid = lab.cell(on), str(uuid4())
    root = etree.fromstring(f"""<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory>
      <os><type arch='x86_64'>hvm</type><bootmenu enable='yes' timeout='60000'/><bios rebootTimeout='0'/></os>
      <features><acpi/></features><devices><controller type='usb' model='none'/><memballoon model='none'/>
      <serial type='pty'/>{graphics}<video><model type='vga'/></video></devices></domain>""")
    virsh(cell, "define", "/dev/stdin", stdin=etree.tostring(root, encoding="unicode"))
    try:
        virsh(cell, "start", uuid)
        yield uuid
    finally:
        for host in lab.hosts:  # it may have moved
            virsh(lab.cell(host), "destroy", uuid, check=False)
            virsh(lab.cell(host), "undefine", uuid, check=False)


def looked_at(lab: Lab, uuid: str, via: Via) -> dict[str, Any]:
    """Look at it from the controller's seat; by a host's socket from outside."""
    argv = [sys.executable, LOOKING, lab.uri("h1", via), uuid]
    if via is Via.UNIX:
        process = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    else:
        process = lab.cell(CONTROLLER).run(argv)
    found: dict[str, Any] = json.loads(process.stdout)
    return found


@pytest.mark.parametrize(
    ("graphics", "via"),
    [
        pytest.param(LISTEN.format(PASSWORD, "127.0.0.1"), Via.SSH, id="by ssh, with a password"),
        pytest.param(SOCKET, Via.SSH, id="by ssh, at a socket", marks=pytest.mark.soak),
        pytest.param(LISTEN.format(PASSWORD, "127.0.0.1"), Via.UNIX, id="handed over"),
        pytest.param(LISTEN.format(PASSWORD, "0.0.0.0"), Via.TLS, id="over the network", marks=pytest.mark.soak),
    ],
)
def test_a_display_is_seen_and_typed_into(lab: Lab, graphics: str, via: Via) -> None:
    with bios(lab, graphics) as uuid:
        found = looked_at(lab, uuid, via)
        assert found.get("after", 0) > found.get("before", 0) > 100, found
        assert found["name"] == "QEMU (shown)"


def test_what_nobody_can_be_brought_to_is_shown_by_pictures_and_what_refuses_is_left(lab: Lab) -> None:
    with bios(lab, LISTEN.format(PASSWORD, "127.0.0.1")) as uuid:
        found = looked_at(lab, uuid, Via.TLS)
        assert found.get("after", 0) > found.get("before", 0) > 100, found
        assert found["name"].startswith(NAMED + "the display of VM 'shown' listens at 127.0.0.1:59")
        assert "qemu+ssh://" in found["name"]
        xml = LISTEN.format(PASSWORD + " passwdValidTo='2020-01-01T00:00:00'", "127.0.0.1")
        virsh(lab.cell("h1"), "update-device", uuid, "/dev/stdin", "--live", stdin=xml)
        expired = looked_at(lab, uuid, Via.SSH)
        assert "lets nobody in: Authentication failed" in expired["error"], expired
