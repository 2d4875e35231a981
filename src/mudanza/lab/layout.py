"""Names, addresses and paths of a lab: what can be said about it without touching anything."""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Address
from pathlib import Path

from mudanza.model.errors import UsageError

PARENT_VARIABLE = "MUDANZA_LAB_DIR"
DEFAULT_PARENT = Path("/var/lib/mudanza/lab")

SWITCH = "switch"
CLIENT = "client"
CONTROLLER = "controller"
SEATS = (CLIENT, CONTROLLER)
STORAGE = "storage"
"""A seat that only some tests open: it serves network disks."""
MANAGEMENT = "management"
"""Another one: the BMCs of the hosts are there."""

PREFIX_LENGTH = 24
FIRST_GUEST = IPv4Address("10.77.0.101")
MAX_GUESTS = 150
FIRST_HOST = IPv4Address("10.77.0.11")
MAX_HOSTS = 64
SEAT_ADDRESSES = {CLIENT: "10.77.0.2", CONTROLLER: "10.77.0.3", STORAGE: "10.77.0.4", MANAGEMENT: "10.77.0.5"}

UNIX_SOCKET_PATH_MAX = 107
"""Bytes a socket address holds, without its closing NUL (sun_path in unix(7))."""

SHARED_DIRECTORY = "/srv/shared"
"""On every host: one directory all hosts see. Pool ``shared``."""
BOOT_DIRECTORY = "/srv/boot"
"""On every host, read-only: kernels and initramfs images for the guests."""
IMAGES_DIRECTORY = "/var/lib/libvirt/images"
"""On every host: a filesystem of its own. Pool ``default``."""
FAST_DIRECTORY = "/var/lib/libvirt/fast"
"""On every host: another filesystem of its own. Pool ``fast``."""

_NAME = re.compile(r"[a-z0-9-]{1,16}")


def parent() -> Path:
    """Return the directory all labs live in. ``$MUDANZA_LAB_DIR`` overrides it; raises UsageError if relative."""
    path = Path(os.environ.get(PARENT_VARIABLE) or DEFAULT_PARENT)
    if not path.is_absolute():
        raise UsageError(f"${PARENT_VARIABLE} is not an absolute path: {path}", remedy="write it from / on")
    return path


def is_name(text: str) -> bool:
    """Whether a lab can have that name."""
    return _NAME.fullmatch(text) is not None


def directory(name: str) -> Path:
    """Return the directory of one lab. Raises UsageError for a name or a place that cannot work."""
    if not is_name(name):
        raise UsageError(f"{name!r} is not a name for a lab", remedy="use 1 to 16 of the characters a-z, 0-9 and -")
    path = parent() / name
    longest = libvirt_socket(path, f"h{MAX_HOSTS}")
    if len(os.fsencode(longest)) > UNIX_SOCKET_PATH_MAX:
        raise UsageError(
            f"the path of a libvirt socket would be too long: {longest}",
            remedy=f"choose a shorter ${PARENT_VARIABLE} or a shorter name",
        )
    return path


def libvirt_socket(lab_directory: Path, host: str) -> Path:
    """Return the path, outside the namespaces, of a host's libvirt socket."""
    return lab_directory / host / "run/libvirt/libvirt-sock"


def host_names(count: int) -> tuple[str, ...]:
    """Return ``h1``, ``h2``… Raises UsageError below 1 or above MAX_HOSTS."""
    if not 1 <= count <= MAX_HOSTS:
        raise UsageError(f"a lab cannot have {count} hosts", remedy=f"ask for 1 to {MAX_HOSTS}")
    return tuple(f"h{number}" for number in range(1, count + 1))


def address(cell: str) -> str:
    """Return the address of a host (``h1`` is 10.77.0.11), the client or the controller."""
    if cell in SEAT_ADDRESSES:
        return SEAT_ADDRESSES[cell]
    return str(FIRST_HOST + int(cell.removeprefix("h")) - 1)


def guest_address(number: int) -> str:
    """Return the address of the guest of that number; 1 is 10.77.0.101. Raises UsageError when they run out."""
    if not 1 <= number <= MAX_GUESTS:
        raise UsageError(f"there is no address for guest {number}", remedy=f"a lab holds {MAX_GUESTS} guests")
    return str(FIRST_GUEST + number - 1)
