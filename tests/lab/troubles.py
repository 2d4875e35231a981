"""Things that are wrong with a host, each for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from mudanza.lab import faults
from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab

CAPABILITIES = "/var/cache/libvirt/qemu/capabilities"
"""What libvirt has found out about a QEMU, and believes until the binary changes."""
EMULATOR = "/usr/bin/qemu-system-x86_64"
UNPRIVILEGED = """s/^user = .*/user = "nobody"/; s/^group = .*/group = "nogroup"/"""
POOLS = ("default", "fast", "shared")


@contextmanager
def pool(cell: Cell, name: str, path: str, *, start: bool = True) -> Iterator[None]:
    """Have a pool on a directory of its own."""
    cell.run(["mkdir", "--parents", "--", path])
    virsh(cell, "pool-define-as", name, "dir", "--target", path)
    try:
        if start:
            virsh(cell, "pool-start", name)
        yield
    finally:
        virsh(cell, "pool-destroy", name, check=False)
        virsh(cell, "pool-undefine", name, check=False)
        cell.run(["rm", "-r", "--", path])


@contextmanager
def held(cell: Cell, kind: str, name: str, xml: str) -> Iterator[None]:
    """Have a definition of that kind: ``pool``, ``net``, ``nwfilter``…"""
    virsh(cell, f"{kind}-define", "/dev/stdin", stdin=xml)
    try:
        yield
    finally:
        virsh(cell, f"{kind}-undefine", name)


@contextmanager
def moved_away(cell: Cell, path: str) -> Iterator[None]:
    """Be without a file or directory."""
    cell.run(["mv", "--", path, f"{path}.away"])
    try:
        yield
    finally:
        cell.run(["mv", "--", f"{path}.away", path])


@contextmanager
def read_only(cell: Cell, directory: str) -> Iterator[None]:
    """Let nothing be written into a directory."""
    cell.run(["mount", "--bind", directory, directory])
    try:
        cell.run(["mount", "-o", "remount,bind,ro", directory])
        yield
    finally:
        cell.run(["umount", directory])


@contextmanager
def lesser_host(lab: Lab, name: str, edits: Sequence[str]) -> Iterator[None]:
    """Let a host have no KVM, an unprivileged user for QEMU, no pool started, and a QEMU that can do less.

    ``edits``: expressions for sed, on what libvirt believes of the QEMU.
    """
    cell = lab.cell(name)
    with ExitStack() as stack:
        stack.callback(_start_pools, cell)
        stack.callback(_restart_daemon, lab, name, forget=True)
        stack.enter_context(_without_kvm(cell))
        stack.enter_context(_qemu_settings(cell, UNPRIVILEGED))
        _restart_daemon(lab, name, forget=True)
        virsh(cell, "capabilities")
        known = cell.run(["grep", "-l", f"<emulator>{EMULATOR}<", "-r", CAPABILITIES]).stdout.strip()
        cell.run(["sed", "--in-place", *(word for edit in edits for word in ("-e", edit)), "--", known])
        _restart_daemon(lab, name)
        virsh(cell, "capabilities")  # What libvirt learns of QEMU at the first question is no part of what follows.
        for each in POOLS:
            virsh(cell, "pool-destroy", each)
        yield


def _start_pools(cell: Cell) -> None:
    for each in POOLS:
        virsh(cell, "pool-start", each, check=False)


def _restart_daemon(lab: Lab, name: str, *, forget: bool = False) -> None:
    faults.kill_daemon(lab, name)
    if forget:
        lab.cell(name).run(["rm", "-rf", "--", CAPABILITIES])
    faults.start_daemon(lab, name)


@contextmanager
def _without_kvm(cell: Cell) -> Iterator[None]:
    """Let a machine that has KVM hide it from a host."""
    if cell.run(["test", "-e", "/dev/kvm"], check=False).returncode:
        yield
        return
    cell.run(["install", "--mode=600", "/dev/null", "/root/no-kvm"])
    cell.run(["mount", "--bind", "/root/no-kvm", "/dev/kvm"])
    try:
        yield
    finally:
        cell.run(["umount", "/dev/kvm"])


@contextmanager
def _qemu_settings(cell: Cell, edit: str) -> Iterator[None]:
    """Have other settings in qemu.conf, as libvirt reads them at its next start. ``edit``: an expression for sed."""
    settings = "/etc/libvirt/qemu.conf"
    cell.run(["cp", "--preserve", settings, f"{settings}.away"])
    cell.run(["sed", "--in-place", edit, settings])
    try:
        yield
    finally:
        cell.run(["mv", "--", f"{settings}.away", settings])


@contextmanager
def called(lab: Lab, host: str, name: str) -> Iterator[None]:
    """Let a host call itself by another name, and let libvirt send migrations to that name."""
    cell = lab.cell(host)
    with ExitStack() as stack:
        stack.callback(_restart_daemon, lab, host)
        stack.enter_context(_qemu_settings(cell, "/^migration_host/d"))
        stack.callback(cell.run, ["hostname", cell.run(["hostname"]).stdout.strip()])
        cell.run(["hostname", name])
        _restart_daemon(lab, host)
        yield


@contextmanager
def qemu_driver_only(lab: Lab, name: str) -> Iterator[None]:
    """Let a host's libvirt have no drivers for storage, networks, interfaces, filters and secrets."""
    cell = lab.cell(name)
    (driver,) = cell.run(["find", "/usr/lib", "-name", "libvirt_driver_qemu.so"]).stdout.split()
    directory = driver.rpartition("/")[0]
    cell.run(["mkdir", "/root/drivers"])
    cell.run(["cp", "--", driver, "/root/drivers"])
    cell.run(["mount", "--bind", "/root/drivers", directory])
    try:
        _restart_daemon(lab, name)
        yield
    finally:
        faults.kill_daemon(lab, name)  # it holds what is mounted there
        cell.run(["umount", directory])
        cell.run(["rm", "-r", "/root/drivers"])
        faults.start_daemon(lab, name)
