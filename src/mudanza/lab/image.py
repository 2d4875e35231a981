"""The guest image: Debian's cloud kernel and a busybox initramfs with our agent, built once and kept.

Nothing is installed: the kernel package is downloaded and unpacked into a scratch directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mudanza.lab import state
from mudanza.lab.cell import BASE_ENVIRONMENT
from mudanza.lab.process import LabError, run

CACHE = Path("/var/cache/mudanza/lab")
"""Every lab host sees it at this path, as a direct kernel boot needs."""

SCRATCH = ".build-"
INITRD = "initrd.cpio"
"""Not compressed: an emulated CPU is slow to unpack it."""
KERNEL, PACKED_KERNEL = "vmlinux", "vmlinuz"

KERNEL_PACKAGE = "linux-image-cloud-amd64"
DOWNLOAD_LIMIT = 300.0
"""Seconds for the kernel package to arrive."""
BUILD_LIMIT = 600.0
"""Seconds to wait for another process that is building."""
STEP_LIMIT = 120.0
"""Seconds for any other single step of the build."""

_LZ4 = (0x184C2102).to_bytes(4, "little")
"""How what lz4 has packed in its older format begins."""

MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_console", "evdev", "button", "efivarfs")

AGENT_SOURCES = tuple(Path(__file__).with_name(name) for name in ("agent.c", "agent_keep.c", "agent_keep.h"))
COMPILE = ("gcc", "-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror")

NEEDED = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "dpkg": "dpkg",
    "gcc": "gcc",
    "lz4": "lz4",
    "modprobe": "kmod",
}
"""Program → the Debian package it comes with."""

INIT_SOURCE = Path(__file__).with_name("init.c")
INITTAB = """\
::once:/agent
ttyS0::respawn:-/bin/sh
::ctrlaltdel:/bin/poweroff -f
"""

PROFILE = """\
PS1='\\h:\\w# '
echo
echo "mudanza lab guest $(hostname): heartbeat on TCP port 7000, control on port 7001."
echo
"""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What a lab guest boots from, at the same paths on every lab host."""

    kernel: Path
    """Not packed: QEMU itself puts it in place, where an emulated CPU would take 0.6 s to unpack it."""
    packed_kernel: Path
    """The same as firmware takes it."""
    initrd: Path

    @classmethod
    def of(cls, home: Path) -> GuestImage:
        """Return the one in a directory."""
        return cls(home / KERNEL, home / PACKED_KERNEL, home / INITRD)


def guest_image(cache: Path = CACHE) -> GuestImage:
    """Return the guest image, building it first if there is none of this kernel and agent yet.

    Safe when several processes ask at once: one builds, the others wait for it. A kernel once downloaded is
    kept; remove the cache directory to get a newer one. Raises LabError naming what is missing.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with state.locked(cache, limit=BUILD_LIMIT):
        _remove_leftovers(cache)
        package = kernel_package(cache)
        home = cache / f"guest-{kernel_version(package)}-{_content_hash(package)}"
        if not home.is_dir():
            _require_programs()
            with tempfile.TemporaryDirectory(dir=cache, prefix=SCRATCH) as scratch:
                _build(package, Path(scratch)).rename(home)
    return GuestImage.of(home)


def _remove_leftovers(cache: Path) -> None:
    """Remove what killed builds left; whoever holds the lock is the only one building."""
    for scratch in cache.glob(f"{SCRATCH}*"):
        shutil.rmtree(scratch)


def missing_packages() -> tuple[str, ...]:
    """Return the Debian packages that must be installed before an image can be built."""
    packages = {package for program, package in NEEDED.items() if not _which(program)}
    if not Path("/usr/include/stdlib.h").exists():
        packages.add("libc6-dev")
    return tuple(sorted(packages))


def _require_programs() -> None:
    if missing := missing_packages():
        raise LabError(
            f"the lab's guest image cannot be built without {', '.join(missing)}",
            remedy=f"apt-get install -y --no-install-recommends {' '.join(missing)}",
        )


def _which(program: str) -> str | None:
    return shutil.which(program, path=BASE_ENVIRONMENT["PATH"])


def run_step(
    argv: list[str],
    *,
    directory: Path = Path("/"),
    stdin: str | None = None,
    limit: float = STEP_LIMIT,
    remedy: str = "",
) -> str:
    """Run one step in a directory, in English, with the caller's proxies. Raises LabError with the remedy."""
    environment = {**os.environ, "PATH": BASE_ENVIRONMENT["PATH"], "LC_ALL": "C"}
    step = ["env", f"--chdir={directory}", "--", *argv]
    try:
        return run(step, stdin=stdin, timeout=limit, env=environment).stdout
    except LabError as error:
        raise LabError(str(error), remedy=remedy) from error


def kernel_package(cache: Path) -> Path:
    """Return the newest kernel package in the cache, downloading one if there is none."""
    known = sorted(cache.glob("linux-image-*.deb"), key=lambda path: path.stat().st_mtime)
    if known:
        return known[-1]
    _require_programs()
    name = _real_package_name()
    with tempfile.TemporaryDirectory(dir=cache, prefix=SCRATCH) as scratch:
        run_step(
            ["apt-get", "-o", "APT::Sandbox::User=root", "download", name],
            directory=Path(scratch),
            limit=DOWNLOAD_LIMIT,
            remedy="check the network and /etc/apt/sources.list, then run: apt-get update",
        )
        (package,) = Path(scratch).glob("*.deb")
        return package.replace(cache / package.name)


def _real_package_name() -> str:
    """Return the package the meta package stands for, such as ``linux-image-6.1.0-56-cloud-amd64``."""
    listing = run_step(["apt-cache", "depends", KERNEL_PACKAGE], remedy="run: apt-get update")
    match = re.search(r"Depends: (linux-image-\d\S*)", listing)
    if not match:
        raise LabError(
            f"apt knows no kernel behind {KERNEL_PACKAGE}",
            remedy="the lab's guests need Debian's amd64 archive in /etc/apt/sources.list; then run: apt-get update",
        )
    return match[1]


def kernel_version(package: Path) -> str:
    return package.name.split("_")[0].removeprefix("linux-image-")


def _content_hash(package: Path) -> str:
    agent = (source.read_text() for source in AGENT_SOURCES)
    parts = (package.name, *agent, INIT_SOURCE.read_text(), INITTAB, PROFILE, *COMPILE, *MODULES, KERNEL)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _build(package: Path, scratch: Path) -> Path:
    """Build kernel and initramfs below ``scratch`` and return the directory that holds both."""
    unpacked, root, result = scratch / "kernel", scratch / "root", scratch / "result"
    run_step(["dpkg", "-x", str(package), str(unpacked)])
    for directory in (*(root / name for name in ("bin", "dev", "etc", "modules", "proc", "sys", "tmp")), result):
        directory.mkdir(parents=True)
    busybox = _which("busybox")
    assert busybox, "looked for before"
    shutil.copy(busybox, root / "bin/busybox")
    for applet in run_step([busybox, "--list"]).split():  # an emulated CPU takes long to make them when it boots
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for number, module in enumerate(modules_in_order(unpacked, kernel_version(package), MODULES)):
        shutil.copy(module, root / f"modules/{number:02}-{module.name}")
    run_step([*COMPILE, "-o", str(root / "agent"), *(str(source) for source in AGENT_SOURCES if source.suffix == ".c")])
    run_step([*COMPILE, "-o", str(root / "init"), str(INIT_SOURCE)])
    (root / "etc/inittab").write_text(INITTAB)
    (root / "etc/profile").write_text(PROFILE)
    pack(root, result / INITRD)
    packed = shutil.copy(next((unpacked / "boot").glob("vmlinuz-*")), result / PACKED_KERNEL)
    (scratch / "kernel.lz4").write_bytes(payload(Path(packed).read_bytes()))
    run_step(["lz4", "-q", "-d", str(scratch / "kernel.lz4"), str(result / KERNEL)])
    return result


def payload(kernel: bytes) -> bytes:
    """Return the kernel that is packed in a bootable image, as it is there: packed by lz4, in Debian's for clouds.

    Where it lies is told by its header (Documentation/arch/x86/boot.rst of Linux). Raises LabError for anything else.
    """
    magic, sectors = kernel[0x202:0x206], kernel[0x1F1] or 4
    offset, length = struct.unpack_from("<II", kernel, 0x248)
    start = (sectors + 1) * 512 + offset
    found = kernel[start : start + length - 4]  # its size when unpacked comes last
    if magic != b"HdrS" or not found.startswith(_LZ4):
        raise LabError("the guests' kernel is not packed as it used to be", remedy=f"remove {CACHE}, then try again")
    return found


def modules_in_order(unpacked: Path, version: str, wanted: Sequence[str]) -> list[Path]:
    """Return the files of kernel modules in an order that satisfies every dependency."""
    run_step(["depmod", "-b", str(unpacked), version])
    ordered: dict[Path, None] = {}
    for name in wanted:
        listing = run_step(["modprobe", "-d", str(unpacked), "-S", version, "--show-depends", name])
        for line in listing.splitlines():
            verb, _, path = line.strip().partition(" ")
            if verb == "insmod":
                ordered[Path(path)] = None
    return list(ordered)


def pack(root: Path, target: Path) -> None:
    """Make an archive of a directory, as the kernel unpacks it into its first file system."""
    names = [".", *sorted(str(path.relative_to(root)) for path in root.rglob("*"))]
    packing = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0", f"--file={target}"]
    run_step(packing, directory=root, stdin="\n".join(names))
