"""XML of domains that have something the matter with them, and boot sectors that get a guest into trouble."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from string import ascii_lowercase
from uuid import uuid4

from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh

MEMORY = "<memory unit='MiB'>32</memory>"
OS = "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>"

_OUT_PANIC = (0xBA, 0x05, 0x05, 0xB0, 0x01, 0xEE)  # out 0x505, 1: "panicked", to the pvpanic device
_OUT_SLEEP = (0xBA, 0x04, 0x06, 0xB8, 0x00, 0x24, 0xEF)  # out 0x604, 0x2400: ACPI S3, to the PIIX4's power management
_WRITE_SECTOR = (0xB8, 0x01, 0x03, 0xB9, 0x21, 0x00, 0xB6, 0x00, 0x31, 0xDB, 0xCD, 0x13)  # int 13h: write sector 33
_HALT = (0xF4, 0xEB, 0xFD)


def _boot_sector(*code: int) -> bytes:
    return bytes((*code, *_HALT)).ljust(510, b"\0") + b"\x55\xaa"


PANICS = _boot_sector(*_OUT_PANIC)
FALLS_ASLEEP = _boot_sector(*_OUT_SLEEP)
WRITES = _boot_sector(*_WRITE_SECTOR)


def domain_xml(
    name: str, devices: str = "", *, uuid: str = "", body: str = MEMORY + OS, kind: str = "qemu", after: str = ""
) -> str:
    """``body``: what comes before the devices, ``after``: what comes behind them."""
    return f"""<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{name}</name>
      <uuid>{uuid or uuid4()}</uuid>{body}<devices>{devices}<memballoon model='none'/></devices>{after}</domain>"""


def disk(
    source: str,
    target: str,
    format: str = "qcow2",  # noqa: A002  # libvirt's word for it
    *,
    kind: str = "file",
    device: str = "disk",
    cache: str = "none",
    extra: str = "",
) -> str:
    """``source``: a path, or a whole element where a path is not enough."""
    bus = {"sd": "scsi", "hd": "ide", "vd": "virtio", "fd": "fdc"}[target[:2]]
    attribute = {"block": "dev", "dir": "dir"}.get(kind, "file")
    element = source if source.startswith("<") else f"<source {attribute}='{source}'/>"
    return f"""<disk type='{kind}' device='{device}'><driver name='qemu' type='{format}' cache='{cache}'/>{element}
      <target dev='{target}' bus='{bus}'/>{extra}</disk>"""


def disks(*sources: str) -> str:
    """Ordinary qcow2 disks: vda, vdb…"""
    return "".join(disk(source, f"vd{letter}") for source, letter in zip(sources, ascii_lowercase, strict=False))


def mac(number: int) -> str:
    return f"52:54:00:00:0c:{number:02x}"


def card(kind: str, number: int, source: str = "", extra: str = "") -> str:
    """A network card with the address ``mac(number)``."""
    return f"<interface type='{kind}'><mac address='{mac(number)}'/>{source}{extra}</interface>"


@contextmanager
def defined(cell: Cell, xml: str, *start: str) -> Iterator[str]:
    """Define a domain, yield its UUID, and take it away again. ``start``: and how to start it (``start --paused``)."""
    virsh(cell, "define", "/dev/stdin", stdin=xml)
    uuid = xml.partition("<uuid>")[2].partition("<")[0]
    try:
        if start:
            virsh(cell, *start, uuid)
        yield uuid
    finally:
        remove(cell, uuid)


def remove(cell: Cell, uuid: str) -> None:
    """Take a domain away, in whatever state it is."""
    metadata = ("--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram")
    virsh(cell, "destroy", uuid, check=False)
    virsh(cell, "undefine", *metadata, uuid, check=False)


def write(cell: Cell, path: str, content: bytes) -> None:
    """Put bytes into a file of the host."""
    cell.run(["sh", "-c", 'base64 --decode >"$1"', "sh", path], stdin=base64.b64encode(content).decode())


def image(cell: Cell, path: str, size: str = "8M", *, backing: str = "") -> str:
    """Make a qcow2 image on the host and return its path."""
    below = ["-b", backing, "-F", "qcow2"] if backing else []
    cell.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, "--", path, *([] if backing else [size])])
    return path
