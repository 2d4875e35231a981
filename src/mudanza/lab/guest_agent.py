"""QEMU's own guest agent in a lab guest: Debian's package, unpacked behind the guest image, never installed."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from mudanza.lab import state
from mudanza.lab.image import (
    BUILD_LIMIT,
    DOWNLOAD_LIMIT,
    INITTAB,
    SCRATCH,
    GuestImage,
    kernel_package,
    kernel_version,
    modules_in_order,
    pack,
    run_step,
)

PACKAGE = "qemu-guest-agent"
PROGRAM = "usr/sbin/qemu-ga"
PORT = "org.qemu.guest_agent.0"

LASTING = "/data/lasting"
"""A directory of a second disk: if it is there, ``network`` in it is ``/etc/network``, which is gone by at boot."""
FILE_SYSTEM_MODULES = ("ext4",)
START = f"""\
#!/bin/busybox sh
ln -s /bin /sbin  # where it looks for hwclock
# A second disk has a file system, which the agent can freeze.
if [ -b /dev/vdb ]; then
    for module in /file-system/*; do insmod "$module"; done 2>/dev/null
    mkdir -p /data
    mount -t ext4 /dev/vdb /data 2>/dev/null || {{ mke2fs /dev/vdb >/dev/null && mount -t ext4 /dev/vdb /data; }}
    # With this directory on it, what its network's files say lasts, as in any other guest.
    if [ -d {LASTING} ]; then
        mkdir -p {LASTING}/network {LASTING}/mudanza /etc/network /var/lib/mudanza /var/run
        mount -o bind {LASTING}/network /etc/network
        mount -o bind {LASTING}/mudanza /var/lib/mudanza
        ifup -a
    fi
fi
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" = {PORT} ] || continue
    exec /{PROGRAM} -m virtio-serial -p "/dev/${{port##*/}}" -t /tmp -f /tmp/agent.pid
done
"""


def with_guest_agent(image: GuestImage) -> GuestImage:
    """Return the image with the agent in it, building that if it is not there yet. Raises LabError."""
    cache = image.initrd.parent.parent
    parts = (image.initrd.parent.name, START, INITTAB, *FILE_SYSTEM_MODULES)
    content = hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
    home = cache / f"agent-{content}"
    with state.locked(cache, limit=BUILD_LIMIT):
        if not home.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix=SCRATCH) as scratch:
                _build(image, kernel_package(cache), Path(scratch)).rename(home)
    return GuestImage.of(home)


def _build(image: GuestImage, kernel: Path, scratch: Path) -> Path:
    unpacked, root, result = scratch / "agent", scratch / "root", scratch / "result"
    for directory in (root / "etc", root / "file-system", result):
        directory.mkdir(parents=True)
    download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
    run_step(download, directory=scratch, limit=DOWNLOAD_LIMIT, remedy="check the network, then run: apt-get update")
    (package,) = scratch.glob("*.deb")
    run_step(["dpkg", "-x", str(package), str(unpacked)])
    for file in (unpacked / PROGRAM, *_libraries(unpacked / PROGRAM)):
        place = root / (PROGRAM if file.is_relative_to(unpacked) else str(file).lstrip("/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    run_step(["dpkg", "-x", str(kernel), str(scratch / "kernel")])
    modules = modules_in_order(scratch / "kernel", kernel_version(kernel), FILE_SYSTEM_MODULES)
    for number, module in enumerate(modules):
        shutil.copy(module, root / f"file-system/{number:02}-{module.name}")
    (root / "etc/inittab").write_text(f"{INITTAB}::once:/etc/guest-agent\n")
    (root / "etc/guest-agent").write_text(START)
    (root / "etc/guest-agent").chmod(0o755)
    pack(root, scratch / "agent.cpio")
    for file in (image.kernel, image.packed_kernel):
        shutil.copy(file, result)
    # The kernel unpacks one archive after the other; what comes later counts.
    (result / image.initrd.name).write_bytes(image.initrd.read_bytes() + (scratch / "agent.cpio").read_bytes())
    return result


def _libraries(program: Path) -> list[Path]:
    """Return what the dynamic linker would load for it, and the linker. Raises LabError where something is missing."""
    listing = run_step(["ldd", str(program)], remedy="apt-get install -y libglib2.0-0 libnuma1 libudev1 liburing2")
    return [Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+)", listing, re.MULTILINE)]
