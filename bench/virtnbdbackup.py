"""Debian's ``virtnbdbackup`` as a peer of our rounds: its packages unpacked where the lab's hosts see them.

It runs at the replica's host, as a backup server does: orders by ssh, the changes by NBD over TCP, not encrypted. What
it writes is a stream of its own, to be restored later, and is not flushed.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from mudanza.lab.lab import Lab

PACKAGES = (
    "virtnbdbackup", "python3-libnbd", "libnbd0", "python3-libvirt", "python3-lxml", "python3-lz4", "python3-paramiko",
    "python3-nacl", "libsodium23", "python3-bcrypt", "python3-cryptography", "python3-cffi-backend", "python3-tqdm",
    "python3-typing-extensions",
)  # fmt: skip
INSIDE = "/srv/shared/virtnbdbackup"
"""Where hosts see it."""
LIMIT = 600.0
"""Seconds one backup may take."""
_KEYS = """
mkdir -p -m 700 /root/.ssh
cp /etc/ssh/lab_key /root/.ssh/id_ed25519
cp /etc/ssh/ssh_known_hosts /root/.ssh/known_hosts
"""


class Backups:
    """One VM's backups at the host ``there``."""

    def __init__(self, lab: Lab, vm: str, here: str, there: str) -> None:
        self._cell = lab.cell(there)
        self._argv = [
            "/usr/bin/python3", f"{INSIDE}/usr/bin/virtnbdbackup", "-U", f"qemu+ssh://root@{here}/system",
            "--ssh-user", "root", "-d", vm, "-o", f"/var/lib/libvirt/images/{vm}.backup", "-n",
        ]  # fmt: skip
        self._environment = {
            "HOME": "/root",
            "PYTHONPATH": f"{INSIDE}/usr/lib/python3/dist-packages",
            "LD_LIBRARY_PATH": f"{INSIDE}/usr/lib/x86_64-linux-gnu",
        }
        self._cell.run(["sh", "-c", _KEYS])

    def make(self, level: str) -> None:
        """Make one: ``full``, or ``inc``. Raises LabError."""
        self._cell.run([*self._argv, "-l", level], env=self._environment, timeout=LIMIT)


def unpack(lab: Lab) -> None:
    """Fetch and unpack Debian's packages, without installing them. Raises CalledProcessError."""
    place = Path(lab.directory, "shared", Path(INSIDE).name)
    place.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as fetched:
        get = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *PACKAGES)
        subprocess.run(get, cwd=fetched, check=True, capture_output=True)
        for package in Path(fetched).glob("*.deb"):
            subprocess.run(("dpkg", "-x", package, place), check=True)
