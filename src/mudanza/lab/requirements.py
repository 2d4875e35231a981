"""What a lab needs of the machine, checked before anything is built."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mudanza.lab import image
from mudanza.model.errors import UsageError

_PACKAGE_OF_PROGRAM = {
    "hostname": "hostname",
    "ip": "iproute2",
    "libvirtd": "libvirt-daemon",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "tc": "iproute2",
    "tini": "tini",
    "virtlockd": "libvirt-daemon",
    "virsh": "libvirt-clients",
}
_QEMU_DRIVER = ("libvirt/connection-driver/libvirt_driver_qemu.so", "libvirt-daemon-driver-qemu")
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing_packages() -> tuple[str, ...]:
    """Return the Debian packages that must be installed first."""
    packages = {
        package for program, package in _PACKAGE_OF_PROGRAM.items() if shutil.which(program, path=_SEARCH_PATH) is None
    }
    driver, package = _QEMU_DRIVER
    if not any(Path("/usr/lib").glob(f"*/{driver}")):
        packages.add(package)
    return tuple(sorted(packages.union(image.missing_packages())))


def check() -> None:
    """Raise UsageError, naming everything at once, unless a lab can be built here."""
    problems, remedies = [], []
    if os.geteuid() != 0:
        problems.append("it needs root")
        remedies.append("run it with sudo")
    if packages := missing_packages():
        problems.append(f"these Debian packages are not installed: {', '.join(packages)}")
        remedies.append(f"apt-get install -y --no-install-recommends {' '.join(packages)}")
    if not Path("/dev/net/tun").exists():
        problems.append("there is no /dev/net/tun")
        remedies.append("modprobe tun")
    if not Path("/dev/loop-control").exists():
        problems.append("there is no /dev/loop-control")
        remedies.append("modprobe loop")
    if problems:
        raise UsageError(f"a lab cannot be built here: {'; '.join(problems)}", remedy="; ".join(remedies))
