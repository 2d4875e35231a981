"""A private /etc for a host or the controller: the machine's, but for what makes it another machine."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from mudanza.model.errors import UsageError

MACHINE_ETC = "/run/machine-etc"
"""Where a cell mounts the machine's own /etc, read-only."""

_NOT_TAKEN_OVER = {
    "hostname", "hosts", "libvirt", "machine-id", "pki", "resolv.conf", "ssh",
    "gshadow", "gshadow-", "shadow", "shadow-",
}  # fmt: skip
_QEMU_ACCOUNT = "libvirt-qemu:x:64055:64055:Libvirt Qemu:/var/lib/libvirt:/usr/sbin/nologin"
_QEMU_GROUPS = ("libvirt-qemu:x:64055:", "kvm:x:64056:")


def create(etc: Path, name: str, addresses: Mapping[str, str]) -> None:
    """Make a private /etc at the path ``etc``, where every name of ``addresses`` resolves and no other does.

    Files are copies. Directories are links into MACHINE_ETC: there are far too many files in them to copy for
    every cell of a lab that lives for a few seconds.
    """
    etc.mkdir()
    for original in Path("/etc").iterdir():
        if original.name in _NOT_TAKEN_OVER:
            continue
        if original.is_symlink() or original.is_file():
            shutil.copy2(original, etc / original.name, follow_symlinks=False)
        elif original.is_dir():
            (etc / original.name).symlink_to(f"{MACHINE_ETC}/{original.name}")
    known = "".join(f"{address} {other}\n" for other, address in addresses.items())
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
    (etc / "hostname").write_text(f"{name}\n")
    (etc / "machine-id").write_text(f"{secrets.token_hex(16)}\n")
    (etc / "resolv.conf").touch()
    # libvirt looks these names up even where it is told to use others; a package we can do without makes them.
    _add_missing(etc / "passwd", _QEMU_ACCOUNT)
    for group in _QEMU_GROUPS:
        _add_missing(etc / "group", group)


def account(etc: Path, name: str) -> tuple[int, int]:
    """Return the user and the group number of an account. Raises UsageError if there is none of that name."""
    for line in (etc / "passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2]), int(fields[3])
    raise UsageError(f"there is no account {name!r}", remedy="root and libvirt-qemu are always there")


def _add_missing(path: Path, line: str) -> None:
    """Add an account or a group unless there is one of its name."""
    lines = path.read_text().splitlines()
    if not any(other.partition(":")[0] == line.partition(":")[0] for other in lines):
        path.write_text("\n".join([*lines, line, ""]))
