"""Tiny domains: a real QEMU that runs no guest, up in half a second, for what needs a domain and no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from lxml import etree

from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB


def domain_xml(name: str, uuid: str, *, disk: tuple[str, str] | None = None, extra: str = "", body: str = "") -> str:
    """``disk``: path and format; ``extra``: further devices as XML; ``body``: further children of the domain."""
    root = etree.fromstring(f"""<domain type='qemu'><name/><uuid>{uuid}</uuid><memory unit='MiB'>1</memory>
      <os><type arch='x86_64'>hvm</type></os>{body}
      <devices><controller type='usb' model='none'/><memballoon model='none'/>{extra}</devices></domain>""")
    name_element, devices = root.find("name"), root.find("devices")
    assert name_element is not None
    assert devices is not None
    name_element.text = name
    if disk is not None:
        element = etree.SubElement(devices, "disk", type="file", device="disk")
        etree.SubElement(element, "driver", name="qemu", type=disk[1])
        etree.SubElement(element, "source", file=disk[0])
        etree.SubElement(element, "target", dev="vda", bus="virtio")
    return etree.tostring(root, encoding="unicode")


@contextmanager
def tiny(
    lab: Lab,
    name: str,
    *,
    on: str = "h1",
    run: bool = False,
    disk: tuple[str, str] | None = None,
    extra: str = "",
    body: str = "",
) -> Iterator[str]:
    """Define a domain (``run``: and start it, its vCPU stopped), yield its UUID, and take it away again."""
    cell, uuid = lab.cell(on), str(uuid4())
    virsh(cell, "define", "/dev/stdin", stdin=domain_xml(name, uuid, disk=disk, extra=extra, body=body))
    try:
        if run:
            virsh(cell, "start", "--paused", uuid)
        yield uuid
    finally:
        virsh(cell, "destroy", uuid, check=False)
        virsh(cell, "undefine", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata", uuid, check=False)


@contextmanager
def volume(
    lab: Lab, name: str, *, on: str = "h1", pool: str = "default", size: int = 8 * MIB, backing: str | None = None
) -> Iterator[str]:
    """Make a qcow2 volume, yield its path, and delete it again. ``backing``: path of the image below it."""
    cell = lab.cell(on)
    below = f"<backingStore><path>{backing}</path><format type='qcow2'/></backingStore>" if backing else ""
    xml = f"""<volume><name>{name}</name><capacity>{size}</capacity>
      <target><format type='qcow2'/><compat>1.1</compat></target>{below}</volume>"""
    virsh(cell, "vol-create", pool, "/dev/stdin", stdin=xml)
    try:
        yield virsh(cell, "vol-path", "--pool", pool, name).strip()
    finally:
        virsh(cell, "vol-delete", "--pool", pool, name, check=False)


@contextmanager
def file(cell: Cell, path: str, content: str = "x") -> Iterator[str]:
    """Have a file on a host."""
    cell.run(["tee", "--", path], stdin=content)
    try:
        yield path
    finally:
        cell.run(["rm", "-f", "--", path])
