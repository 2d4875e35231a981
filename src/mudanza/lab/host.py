"""A host: a cell with a root directory of its own, bridges, disks, libvirtd and sshd."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mudanza.lab import disks, etc, layout, libvirt_config, network, pki
from mudanza.lab.cell import Cell
from mudanza.lab.process import LabError, ProcessId
from mudanza.lab.ssh import Keys

DAEMON = "libvirtd"
LOCK_DAEMON = "virtlockd"
DAEMON_LIMIT = 60.0
"""Seconds libvirtd may take until it answers."""

QEMU = "/usr/bin/qemu-system-x86_64"
QEMU_FRONT = Path(__file__).with_name("qemu-tcg.sh")

DISKS = {"default": layout.IMAGES_DIRECTORY, "fast": layout.FAST_DIRECTORY}
"""Pools that are a filesystem of their own, and where it is mounted."""

TPM_AUTHORITY = "var/lib/swtpm-localca"
"""Where the account that emulates TPMs keeps the keys that it certifies them with."""

_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MOUNT_POINTS = ("usr", "dev", "proc", "sys", "srv/shared", "srv/boot", "srv/qemu/bin")
_DIRECTORIES = (
    "root", "home", "var/cache/libvirt", "var/log/libvirt", "var/log/swtpm", TPM_AUTHORITY, "var/tmp",
)  # fmt: skip

# $1: the host's root directory, $2: the lab's directory, $3: the host's name, $4: where the machine's /etc is,
# $5: QEMU, $6: what stands in front of it on a lab host.
_MOUNT_ROOT = """
set -eu
mount --bind "$1" "$1"
cd "$1"
mount --bind -o ro /usr usr
mount --bind /dev dev
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
if [ -e dev/kvm ]; then
  # Open to QEMU whoever it runs as: libvirtd would else look at its QEMU anew, for seconds, at almost every call.
  cp -a dev/kvm run/kvm
  chmod 666 run/kvm
  mount --bind run/kvm dev/kvm
fi
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -o loop,discard,noinit_itable "$2/$3-default.img" var/lib/libvirt/images
mount -o loop,discard,noinit_itable "$2/$3-fast.img" var/lib/libvirt/fast
mount --bind -o ro /etc "$1$4"
mount --bind -o ro "$5" srv/qemu/bin/qemu-system-x86_64
mount --bind -o ro "$6" "$1$5"
mount --bind "$2/shared" srv/shared
mount --bind -o ro "$2/boot" srv/boot
pivot_root . .
umount -l .
"""


@dataclass(frozen=True, slots=True)
class HostFiles:
    """Where a host's files are, outside the namespaces."""

    lab_directory: Path
    name: str

    @property
    def root(self) -> Path:
        """The host's root directory (its mounts are visible inside only)."""
        return self.lab_directory / self.name

    def disk(self, pool: str) -> Path:
        """The file behind the filesystem of a pool."""
        return self.lab_directory / f"{self.name}-{pool}.img"


def create_files(
    switch: Cell,
    files: HostFiles,
    addresses: Mapping[str, str],
    keys: Keys,
    authority: pki.Authority | None,
    pool_size: int,
    qemu_user: str,
    *,
    virtlockd: bool = False,
) -> None:
    """Make everything of a host that outlives its death. ``pool_size`` in bytes."""
    root, name = files.root, files.name
    root.mkdir(mode=0o755)
    for link in _SYSTEM_LINKS:
        if Path("/", link).is_symlink():
            (root / link).symlink_to(Path("/", link).readlink())
    for directory in (*_MOUNT_POINTS, *_DIRECTORIES, *(path.lstrip("/") for path in DISKS.values())):
        (root / directory).mkdir(parents=True)
    _copy_owner(Path("/", TPM_AUTHORITY), root / TPM_AUTHORITY)
    (root / "srv/qemu/bin/qemu-system-x86_64").touch()
    for beside in ("lib", "share"):  # QEMU looks for its modules and firmware beside the directory it lies in
        (root / "srv/qemu" / beside).symlink_to(f"/usr/{beside}")
    front = files.lab_directory / QEMU_FRONT.name
    shutil.copyfile(QEMU_FRONT, front)  # an installed package may have lost the file's mode
    front.chmod(0o755)
    (root / "var/run").symlink_to("/run")
    (root / "var/lock").symlink_to("/run/lock")
    for pool in DISKS:
        disks.create(switch, files.disk(pool), pool_size)
    etc.create(root / "etc", name, addresses)
    keys.install_client(root / "etc")
    keys.install_server(root / "etc", name, addresses[name])
    if authority is not None:
        pki.install(authority, root / "etc", name, addresses[name])
        for key in (root / "etc/pki/qemu").glob("*-key.pem"):
            os.chown(key, *etc.account(root / "etc", qemu_user))
    tls = authority is not None
    own = root / "etc/libvirt"
    libvirt_config.write(
        own, name, addresses[name], uuid.uuid4(), tls=tls, qemu_user=qemu_user, virtlockd=virtlockd
    )  # fmt: skip


def boot(files: HostFiles, switch: Cell, rate: int | None) -> Cell:
    """Start the host's cell on its files and return it once libvirtd answers. ``rate`` caps its uplink (bytes/s)."""
    for pool in DISKS:
        disks.await_release(str(files.disk(pool)))
    for volatile in ("run", "tmp"):
        shutil.rmtree(files.root / volatile, ignore_errors=True)
        (files.root / volatile).mkdir()
    (files.root / "tmp").chmod(0o1777)
    for directory in ("run/sshd", "run/lock", etc.MACHINE_ETC.lstrip("/")):
        (files.root / directory).mkdir()
    cell = Cell.create(files.name, within=switch)
    try:
        network.plug(switch, cell)
        network.configure_host(cell)
        if rate is not None:
            network.set_rate(switch, cell, rate)
        front = files.lab_directory / QEMU_FRONT.name
        paths = [str(files.root), str(files.lab_directory), files.name, etc.MACHINE_ETC, QEMU, str(front)]
        cell.run(["sh", "-c", _MOUNT_ROOT, "sh", *paths])
        cell.run(["/usr/sbin/sshd"])
        if libvirt_config.has_virtlockd(files.root / "etc/libvirt"):
            cell.run([LOCK_DAEMON, "--daemon"], timeout=DAEMON_LIMIT)
        start_daemon(cell)
    except BaseException:
        # Nobody has written down yet that it is there.
        cell.kill()
        raise
    return cell


def start_daemon(cell: Cell) -> None:
    """Start libvirtd and wait until it answers. Raises LabError, with its last words, if it does not."""
    try:
        cell.run([DAEMON, "--daemon", "--listen"], timeout=DAEMON_LIMIT)
        cell.run(["virsh", "--connect", "qemu:///system", "uri"], timeout=DAEMON_LIMIT)
    except LabError as error:
        said = cell.run(["tail", "--lines=5", "/var/log/libvirt/libvirtd.log"], check=False)
        raise LabError(f"{error}\n{said.stdout.strip()}") from error


def daemon_process(cell: Cell) -> ProcessId | None:
    """Return the host's libvirtd, None if there is none."""
    try:
        inner_pid = Path(f"/proc/{cell.pid}/root/run/{DAEMON}.pid").read_text().strip()
    except FileNotFoundError:
        return None
    # By name alone it could be a child that has not yet become the program it was forked for.
    known = (process for process in cell.processes() if str(process.inner_pid) == inner_pid)
    return next((process.id for process in known if process.argv and Path(process.argv[0]).name == DAEMON), None)


def daemon_state(cell: Cell) -> str:
    """Return ``running``, ``stopped`` or ``dead``."""
    try:
        process = daemon_process(cell) if cell.alive else None
    except LabError:
        if cell.alive:
            raise
        process = None  # the host died while we looked
    if process is None:
        return "dead"
    return "stopped" if process.stopped else "running"


def _copy_owner(model: Path, path: Path) -> None:
    if model.exists():
        status = model.stat()
        os.chown(path, status.st_uid, status.st_gid)
