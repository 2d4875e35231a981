"""How everything that a VM is would travel: what, how much, where to and how. Pure, and said before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mudanza.model.host import Host
from mudanza.model.migration import Answer, Facts, MigrationOptions, Tls, Verify
from mudanza.model.vm import Vm
from mudanza.preflight.cargo import SMALL, CargoFile, Role, cargo_of
from mudanza.preflight.mapping import Resolution
from mudanza.preflight.wording import uri_transport

_BY_ORDERS = "through the controller, by libvirt"
_NOT_AT_ALL = "stays where it is: both hosts see it"


@dataclass(frozen=True, slots=True)
class Leg:
    """One thing that travels, or that need not."""

    what: str
    size: int | None
    """Bytes that it holds now, as far as the host tells; of memory the most that it can be."""
    place: str
    """Where it will be, as ``POOL/VOLUME`` or a path; empty where that is not a place of its own."""
    way: str


def goes_encrypted(options: MigrationOptions, facts: Facts) -> bool:
    """Whether memory and disks travel encrypted: unless that is not wanted, or known not to work.

    Where it is not known it is tried. If it does not work, the move ends before anything of the VM has travelled.
    """
    return options.tls is not Tls.OFF and facts.tls.answer is not Answer.NO


def journey(
    vm: Vm, source: Host, target: Host, options: MigrationOptions, facts: Facts, plan: Resolution
) -> tuple[Leg, ...]:
    """Return how each part of the VM would travel. Within one host: its disks only."""
    if source.name == target.name:
        return tuple(_within(vm, plan))
    tls = goes_encrypted(options, facts)
    direct = f"{source.name} → {target.name} directly, {'QEMU over TLS' if tls else 'QEMU over TCP, not encrypted'}"
    if options.is_cold(active=vm.state.active):
        return tuple(_cold(vm, source, target, options, plan, direct))
    return tuple(_live(vm, source, target, options, plan, direct))


def _within(vm: Vm, plan: Resolution) -> Iterator[Leg]:
    way = "mirrored by QEMU, which runs the VM" if vm.state.active else "mirrored by a QEMU of its own"
    sizes = {disk.target: disk.allocation for disk in vm.disks}
    for disk in plan.copies:
        yield Leg(disk.target, sizes.get(disk.target), f"{disk.pool}/{disk.volume}", way)


def _live(
    vm: Vm, source: Host, target: Host, options: MigrationOptions, plan: Resolution, direct: str
) -> Iterator[Leg]:
    yield Leg("memory", vm.memory, "", direct)
    yield from _shared(plan)
    sizes = {disk.target: disk.allocation for disk in vm.disks}
    for disk in plan.copies:
        yield Leg(disk.target, sizes.get(disk.target), f"{disk.pool}/{disk.volume}", direct)
    for file in cargo_of(vm, source, target, options, plan, live=True).files:
        yield Leg(file.label, None, _place(file), f"{_of_file(None, direct)}, ahead of the VM")
    if vm.tpm is not None and vm.tpm.backend == "emulator":
        yield Leg("TPM state", None, "", direct)
    yield from _history(vm)


def _cold(
    vm: Vm, source: Host, target: Host, options: MigrationOptions, plan: Resolution, direct: str
) -> Iterator[Leg]:
    yield from _shared(plan)
    sizes = {disk.source: disk.allocation for disk in vm.disks}
    files = cargo_of(vm, source, target, options, plan).files
    for file in files:
        size = sizes.get(file.source)
        yield Leg(file.label, size, _place(file), _of_file(_length(file, size), direct))
    if vm.tpm is not None and vm.tpm.backend == "emulator":
        yield Leg("TPM state", None, "", direct)
    yield Leg("definition", None, "", _BY_ORDERS)
    yield from _history(vm)
    if files and options.verify is not Verify.NONE:
        yield Leg("comparison", None, "", f"{options.verify}: {_read_by(source)}; {_read_by(target)}")


def _length(file: CargoFile, held: int | None) -> int | None:
    """Return how long a file is at the least, None where the host has not told."""
    if file.role is Role.NVRAM:
        return SMALL  # the variables of any OVMF build are smaller
    return max(file.size if file.format == "raw" else 0, held or 0) or None


def _of_file(length: int | None, direct: str) -> str:
    return _BY_ORDERS if length is not None and length <= SMALL else direct


def _place(file: CargoFile) -> str:
    return f"{file.pool}/{file.volume}" if file.pool else file.path


def _shared(plan: Resolution) -> Iterator[Leg]:
    for disk in plan.disks:
        if disk.action == "shared":
            yield Leg(disk.target, None, "", _NOT_AT_ALL)


def _history(vm: Vm) -> Iterator[Leg]:
    if vm.snapshots:
        yield Leg(f"records of {len(vm.snapshots)} snapshots", None, "", _BY_ORDERS)


def _read_by(host: Host) -> str:
    if uri_transport(host.entry.uri) in ("ssh", "libssh", "libssh2"):
        return f"read on {host.name}, by ssh if root may log in there"
    return f"every byte of {host.name} comes to the controller, by libvirt"
