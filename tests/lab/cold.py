"""What tests of cold moves share: VMs that are wherever they were moved to, and files as both hosts have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from lxml import etree

from mudanza.lab.guest import UNDEFINE_WITH, virsh
from mudanza.lab.lab import Lab
from tests.lab import domains
from tests.lab.kinds import sweep

IMAGES = "/var/lib/libvirt/images"
FAST = "/var/lib/libvirt/fast"
BODY = f"<memory unit='MiB'>16</memory>{domains.OS}"


@dataclass(frozen=True)
class File:
    """A file or device as a host has it. Bytes."""

    sha256: str
    size: int
    allocated: int
    owner: str
    mode: str


def look(lab: Lab, host: str, path: str) -> File:
    """Read all of a file, by the host's own programs."""
    cell = lab.cell(host)
    told = cell.run(["stat", "-L", "-c", "%s %b %u:%g %a", "--", path]).stdout.split()
    digest = cell.run(["openssl", "dgst", "-sha256", "-r", path]).stdout.split()[0]
    return File(digest, int(told[0]), int(told[1]) * 512, told[2], told[3])


def sums(lab: Lab, host: str, paths: Sequence[str]) -> dict[str, str]:
    """Return path → SHA-256 of all of each file."""
    return {path: look(lab, host, path).sha256 for path in paths}


def exists(lab: Lab, host: str, path: str) -> bool:
    return lab.cell(host).run(["test", "-e", path], check=False).returncode == 0


def refresh(lab: Lab) -> None:
    """Let libvirt see the files that were made behind its back."""
    for host in lab.hosts:
        if lab.cell(host).alive:
            virsh(lab.cell(host), "pool-refresh default; pool-refresh fast; pool-refresh shared")


def image(lab: Lab, path: str, size: str, *writes: str, kind: str = "qcow2", backing: str = "") -> str:
    """Make an image at h1 with something in it, and return its path.

    ``writes``: what qemu-io does to it; ``backing``: path of the qcow2 image below it, whose size it has.
    """
    cell = lab.cell("h1")
    below = ["-b", backing, "-F", "qcow2"] if backing else []
    cell.run(["qemu-img", "create", "-q", "-f", kind, *below, "--", path, *([] if backing else [size])])
    if writes:
        commands = [word for write in writes for word in ("-c", write)]
        cell.run(["qemu-io", "-f", kind, *commands, "--", path])
    return path


def content(lab: Lab, host: str, path: str, kind: str) -> str:
    """Return the SHA-256 of what a guest would find on a disk, through its whole chain."""
    cell = lab.cell(host)
    raw = "/tmp/content.raw"
    cell.run(["qemu-img", "convert", "-U", "-f", kind, "-O", "raw", "--", path, raw])
    try:
        return look(lab, host, raw).sha256
    finally:
        cell.run(["rm", "--", raw])


def definition(lab: Lab, host: str, vm: str) -> str:
    return virsh(lab.cell(host), "dumpxml", "--inactive", "--security-info", vm)


def states(lab: Lab, uuid: str) -> Mapping[str, str]:
    """Return host → state, of every host that knows the VM."""
    told = {host: virsh(lab.cell(host), "domstate", uuid, check=False).strip() for host in lab.hosts}
    return {host: state for host, state in told.items() if state}


@contextmanager
def off(lab: Lab, name: str, devices: str = "", *, body: str = BODY, start: bool = False) -> Iterator[str]:
    """Have a VM at h1 that needs no guest, and yield its UUID; in the end it goes from wherever it is.

    ``start``: let its QEMU run; nothing boots in it. Volumes whose names begin with the VM's go with it.
    """
    uuid = str(uuid4())
    root = etree.fromstring(domains.domain_xml("to-be", devices, uuid=uuid, body=body))
    found = root.find("name")
    assert found is not None
    found.text = name
    refresh(lab)
    virsh(lab.cell("h1"), "define", "/dev/stdin", stdin=etree.tostring(root, encoding="unicode"))
    try:
        if start:
            virsh(lab.cell("h1"), "start", "--paused", uuid)
        yield uuid
    finally:
        remove(lab, uuid)
        sweep(lab, name)


def remove(lab: Lab, uuid: str) -> None:
    for host in lab.hosts:
        virsh(lab.cell(host), "destroy", uuid, check=False)
        virsh(lab.cell(host), "undefine", *UNDEFINE_WITH, uuid, check=False)


@contextmanager
def spoiling(lab: Lab, host: str, path: str, at: int) -> Iterator[None]:
    """Have something write one byte into a file of a host over and over, as soon as there is such a file."""
    write = 'printf X | dd of="$1" bs=1 seek="$2" conv=notrunc,nocreat status=none'
    loop = f'while :; do [ -e "$1" ] && {write}; sleep 0.02; done'
    writer = lab.cell(host).popen(["sh", "-c", loop, "sh", path, str(at)])
    try:
        yield
    finally:
        writer.kill()
        writer.wait()
