"""Disks of every kind for guests: things to be had on hosts, and the XML (``GuestSpec.devices``) that uses them.

Each thing goes with its ``with``, and with the lab at the latest. Sizes in bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mudanza.lab import layout, network
from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.lab.libvirt_config import POOLS
from mudanza.lab.process import run
from mudanza.model.units import MIB
from tests.lab.domains import disk, write

NBD_PORT = 10809
ISCSI_PORT = 3260
ISCSI_NAME = "iqn.2026-01.example.lab:disk"
SQUASH = Path(__file__).with_name("squash.c")
SQUASHED = "/srv/squashed"
EXPORT = f"{layout.SHARED_DIRECTORY}/export"
"""What lies on the storage behind SQUASHED."""
MARKER_AT = 48 * MIB
"""Where a base image holds something: far behind what the guest's agent writes unasked."""

_numbers = itertools.count(1)


def read_only(path: str, target: str = "vdc", image_format: str = "raw") -> str:
    """Return a disk the guest cannot write to."""
    return disk(path, target, image_format, extra="<readonly/>")


def shareable(path: str, target: str = "vdc") -> str:
    """Return a raw disk that several guests may have at once."""
    return disk(path, target, "raw", extra="<shareable/>")


def block(path: str, target: str = "vdc") -> str:
    """Return a disk that is a block device."""
    return disk(path, target, "raw", kind="block")


def cdrom(path: str, target: str = "hda") -> str:
    """Return a CD-ROM drive with that image in it."""
    return disk(path, target, "raw", device="cdrom", extra="<readonly/>")


def floppy(path: str, target: str = "fda") -> str:
    """Return a floppy drive with that raw image in it, which the guest can write to."""
    return disk(path, target, "raw", device="floppy")


def network_disk(source: str, target: str = "vdc") -> str:
    """Return a disk that is served over the network; ``source`` as ``nbd`` yields it."""
    return disk(source, target, "raw", kind="network")


@contextmanager
def base_image(
    lab: Lab, name: str = "base.qcow2", *, on: Sequence[str] = ("h1",), pool: str = "default", size: int = 64 * MIB
) -> Iterator[str]:
    """Have an image with something in it, byte for byte the same on each host, and yield its path.

    ``GuestSpec.backing`` takes its name. Its format is its name's ending.
    """
    path, kind = f"{POOLS[pool]}/{name}", name.rpartition(".")[2]
    with _in_pool(lab, path, pool, on):
        for cell in map(lab.cell, on):
            cell.run(["qemu-img", "create", "-q", "-f", kind, "--", path, str(size)])
            cell.run(["qemu-io", "-f", kind, "-c", f"write -q -P 0xb5 {MARKER_AT} 4M", "--", path])
        _refresh(lab, pool, on)
        yield path


@contextmanager
def iso(lab: Lab, name: str = "tools.iso", *, on: Sequence[str] = ("h1",), pool: str = "default") -> Iterator[str]:
    """Have an image that a CD-ROM drive takes, the same on each host, and yield its path. (QEMU takes any.)"""
    path = f"{POOLS[pool]}/{name}"
    with _in_pool(lab, path, pool, on):
        for cell in map(lab.cell, on):
            write(cell, path, (bytes(32769) + b"CD001").ljust(MIB, b"i"))
        _refresh(lab, pool, on)
        yield path


@contextmanager
def shared_raw(lab: Lab, name: str = "quorum.raw", size: int = 32 * MIB) -> Iterator[str]:
    """Have a raw volume on storage that all hosts share, and yield its path."""
    path = f"{POOLS['shared']}/{name}"
    with _in_pool(lab, path, "shared", lab.hosts[:1]):
        virsh(lab.cell(lab.hosts[0]), "vol-create-as", "shared", name, str(size), "--format", "raw")
        _refresh(lab, "shared", lab.hosts)
        yield path


@contextmanager
def loop_device(lab: Lab, size: int = 32 * MIB) -> Iterator[str]:
    """Have a block device and yield its path. Every host sees it, as on a SAN: one host's own is one not told of."""
    file = lab.directory / f"block-{next(_numbers)}.raw"
    file.touch(exist_ok=False)
    try:
        file.open("r+b").truncate(size)
        path = run(["losetup", "--show", "--find", str(file)]).stdout.strip()
        # Let go of while it is open, it ends with the last that has it open: at the latest with us, however we end.
        with Path(path).open("rb"):
            run(["losetup", "--detach", path])
            yield path
    finally:
        file.unlink()


@contextmanager
def nbd(lab: Lab, size: int = 32 * MIB, *, writers: int = 8) -> Iterator[str]:
    """Have a seat in the lab that serves a disk to all hosts, and yield the disk's ``<source>`` element."""
    with _storage(lab, size) as (storage, file, address):
        where = [f"--bind={address}", f"--port={NBD_PORT}", "--export-name=disk", f"--shared={writers}"]
        storage.run(["qemu-nbd", "--fork", "--persistent", "--format=raw", *where, str(file)])
        yield f"<source protocol='nbd' name='disk'><host name='{address}' port='{NBD_PORT}'/></source>"


@contextmanager
def iscsi(lab: Lab, size: int = 32 * MIB) -> Iterator[str]:
    """The same by iSCSI, from a target that needs no kernel module; hosts reach it by QEMU's own initiator."""
    with _storage(lab, size) as (storage, file, address):
        socket = {"TGT_IPC_SOCKET": f"{file}.socket"}
        portal = ["--iscsi", f"portal={address}:{ISCSI_PORT}"]
        storage.run(["tgtd", *portal], env=socket)
        new = ["tgtadm", "--lld", "iscsi", "--op", "new", "--tid", "1", "--mode"]
        try:
            storage.run([*new, "target", "--targetname", ISCSI_NAME], env=socket)
            storage.run([*new, "logicalunit", "--lun", "1", "--backing-store", str(file)], env=socket)
            anybody = ["--op", "bind", "--tid", "1", "--mode", "target", "--initiator-address", "ALL"]
            storage.run(["tgtadm", "--lld", "iscsi", *anybody], env=socket)
            where = f"<host name='{address}' port='{ISCSI_PORT}'/>"
            yield f"<source protocol='iscsi' name='{ISCSI_NAME}/1'>{where}</source>"
        finally:
            for left in file.parent.glob(f"{file.name}.socket*"):
                left.unlink()


@contextmanager
def _storage(lab: Lab, size: int) -> Iterator[tuple[Cell, Path, str]]:
    """Have the seat that serves disks, with a file to be one, and its address."""
    file = lab.directory / f"export-{next(_numbers)}.raw"
    file.touch(exist_ok=False)
    switch = lab.cell(layout.SWITCH)
    storage = Cell.create(layout.STORAGE, within=switch)
    try:
        file.open("r+b").truncate(size)
        network.plug(switch, storage)
        network.configure_seat(storage)
        yield storage, file, layout.address(layout.STORAGE)
    finally:
        storage.kill()
        file.unlink()


@contextmanager
def squashed(lab: Lab) -> Iterator[str]:
    """Have a pool ``squashed`` on storage that all hosts see and where root is nobody, as on an NFS export, and yield
    its directory. Root finds all of it in EXPORT.

    To libvirt it is a file system of the network. Anybody may make files there.
    """
    program, export = lab.directory / "boot" / SQUASH.stem, lab.directory / "shared" / Path(EXPORT).name
    libraries = run(["pkg-config", "--cflags", "--libs", "fuse3"]).stdout.split()
    run(["gcc", "-O2", "-Wall", "-Werror", "-o", str(program), str(SQUASH), *libraries])
    export.mkdir()
    export.chmod(0o777)
    cells = [lab.cell(host) for host in lab.hosts]
    try:
        for cell in cells:
            cell.run(["mkdir", SQUASHED])
            cell.run([f"{layout.BOOT_DIRECTORY}/{program.name}", EXPORT, SQUASHED])
            virsh(cell, "pool-define-as", "squashed", "dir", "--target", SQUASHED)
            virsh(cell, "pool-start", "squashed")
        yield SQUASHED
    finally:
        for cell in cells:
            virsh(cell, "pool-destroy squashed; pool-undefine squashed", check=False)
            cell.run(["umount", SQUASHED], check=False)


def sweep(lab: Lab, prefix: str) -> None:
    """Delete every volume whose name begins so, such as what snapshots left, in all pools of all live hosts."""
    for cell in (lab.cell(host) for host in lab.hosts if lab.cell(host).alive):
        for pool in POOLS:
            virsh(cell, "pool-refresh", pool)
            for name in virsh(cell, "vol-list", pool).splitlines():
                volume = name.rpartition(f"{POOLS[pool]}/")[2].strip()
                if volume and volume.startswith(prefix):
                    virsh(cell, "vol-delete", "--pool", pool, "--", volume)


@contextmanager
def _in_pool(lab: Lab, path: str, pool: str, on: Sequence[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for cell in map(lab.cell, on):
            if cell.alive:
                cell.run(["rm", "-f", "--", path])
        _refresh(lab, pool, on)


def _refresh(lab: Lab, pool: str, on: Sequence[str]) -> None:
    """Let libvirt see what was put into a pool, or taken out of it, beside it."""
    for cell in map(lab.cell, on):
        if cell.alive:
            virsh(cell, "pool-refresh", pool)
