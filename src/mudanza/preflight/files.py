"""Files and devices the VM opens by a path of its host, which therefore have to be on the target as well."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Media
from mudanza.model.vm import Disk, Vm
from mudanza.preflight.cargo import arrives_on_chain
from mudanza.preflight.case import Case
from mudanza.preflight.mapping import DiskPlan, opened_read_only, shared_candidates
from mudanza.preflight.wording import because, blocker, listed, mudanza, virsh, vm_key, warning

OPENED_BY_PATH = frozenset({"char", "rng", "evdev", "nvdimm", "render", "ssh"})
"""Kinds of host devices that need nothing but their path."""
_ON_EVERY_HOST = frozenset({"/dev/null", "/dev/random", "/dev/urandom"})


@dataclass(frozen=True, slots=True)
class NeededFile:
    """A path, and what the VM opens it for."""

    path: str
    subject: str
    purpose: str
    drive: str | None = None
    """The removable drive it lies in."""
    is_firmware: bool = False
    is_medium: bool = False
    """An image the VM only reads, which can travel along."""


def files_needed(vm: Vm, target: Host) -> tuple[str, ...]:
    """Return the paths preflight wants looked up on the target (``Facts.files``), in order, each once."""
    paths = {needed.path for needed in _needed(vm, target)}
    paths |= {image.path for disk in shared_candidates(vm) for image in disk.backing}
    paths |= {path for path in (vm.emulator, vm.firmware.nvram if vm.firmware else None) if path is not None}
    return tuple(sorted(paths))


def _needed(vm: Vm, target: Host) -> Iterator[NeededFile]:
    for path in vm.boot_files:
        yield NeededFile(path, f"file {path}", "boots from it (kernel, initrd or device tree)")
    if vm.firmware is not None and vm.firmware.loader and vm.firmware.loader not in target.firmware_loaders:
        yield NeededFile(vm.firmware.loader, f"file {vm.firmware.loader}", "has it as its firmware", is_firmware=True)
    if vm.firmware is not None and vm.firmware.nvram_template:
        template = vm.firmware.nvram_template
        yield NeededFile(template, f"file {template}", "has its firmware variables from it", is_firmware=True)
    for disk in vm.disks:
        yield from _read_only(disk)
    for device in vm.host_devices:
        if device.kind in OPENED_BY_PATH and device.path is not None and device.path not in _ON_EVERY_HOST:
            yield NeededFile(device.path, f"device {device.description}", f"uses it ({device.kind})")


def _read_only(disk: Disk) -> Iterator[NeededFile]:
    if disk.is_local_image and disk.source is not None and opened_read_only(disk) and not _is_host_drive(disk):
        drive = disk.target if disk.device in ("cdrom", "floppy") else None
        yield NeededFile(disk.source, f"disk {disk.target}", "reads it", drive, is_medium=True)


def needed_files(case: Case) -> Iterator[Finding]:
    """Every path the VM opens is there. Not found out is a warning: QEMU fails to start and the guest runs on."""
    travelling = {file.source for file in case.cargo.files}
    for needed in _needed(case.vm, case.target):
        if needed.path in travelling or (needed.drive is not None and case.options.media is Media.EJECT):
            continue
        probe = case.file(needed.path)
        if probe.answer is Answer.NO:
            yield blocker(
                "file-missing",
                needed.subject,
                f"{case.target.name} has no {needed.path}, and the VM {needed.purpose}",
                _how_to_mend(case, needed),
            )
        elif probe.answer is Answer.UNKNOWN:
            yield warning(
                "file-unknown",
                needed.subject,
                f"whether {case.target.name} has {needed.path} was not found out, and the VM {needed.purpose}"
                + because(probe.detail),
                f"on {case.target.name}: ls -l {shlex.quote(needed.path)}; without it the move fails",
            )


def _how_to_mend(case: Case, needed: NeededFile) -> str:
    key, there = vm_key(case.vm), case.target.hostname or case.target.name
    is_device = needed.path.startswith("/dev/")
    copy = f"on {case.source.name}: " + shlex.join(("rsync", "-S", "--", needed.path, f"{there}:{needed.path}"))
    ways = [f"give {case.target.name} that device"] if is_device else [copy]
    if needed.is_firmware:
        ways.insert(0, "install the firmware there (Debian: ovmf)")
    if needed.is_medium and case.options.media is not Media.COPY:
        ways.insert(0, "let it travel along: --media copy")
    if needed.drive is not None:
        now = ("--live",) if case.vm.state.active else ()
        drive = ("--domain", key, "--path", needed.drive, "--eject", *now, "--config")
        ways.append(f"take it out: {virsh(case.source, 'change-media', *drive)}")
    elif is_device:
        ways.append(f"take it out of the VM: virsh edit {key}")
    return "; or ".join(ways)


def _is_host_drive(disk: Disk) -> bool:
    return disk.device == "cdrom" and disk.kind == "block" and disk.source is not None


def host_drives(case: Case) -> Iterator[Finding]:
    """A drive of the host itself holds another medium over there."""
    for disk in case.vm.disks:
        if _is_host_drive(disk):
            yield warning(
                "host-drive",
                f"disk {disk.target}",
                f"it is the host's own drive {disk.source}: at {case.target.name} it finds what lies in that one, "
                "and without one there the move fails",
                "take the drive out of the VM (virsh edit), or put an ISO on shared storage into it: "
                f"virsh change-media --update --domain {vm_key(case.vm)} --path {disk.target} --source FILE",
            )


def _chains(case: Case) -> tuple[list[tuple[Disk, DiskPlan]], list[tuple[Disk, DiskPlan]]]:
    """Return the copied disks that stay on what they are built upon, and those that become one image with it."""
    kept: list[tuple[Disk, DiskPlan]] = []
    flattened: list[tuple[Disk, DiskPlan]] = []
    for disk, plan in case.planned("copy"):
        if disk.backing:
            stays = arrives_on_chain(disk, plan, case.options, live=case.live)
            (kept if stays else flattened).append((disk, plan))
    return kept, flattened


def mixed_chains(case: Case) -> Iterator[Finding]:
    """libvirt copies all disks of a running VM in one way: with what they are built upon, or on top of it."""
    kept, flattened = _chains(case)
    if case.live and kept and flattened:
        yield blocker(
            "chain-mixed",
            f"disk {flattened[0][0].target}",
            "it would become one image with what it is built upon, other disks would stay on their chains, and a "
            "running VM's disks are copied all in one way",
            "--chain flatten, or leave out what makes it another format, or move the VM cold: "
            + mudanza("migrate", vm_key(case.vm), "--to", case.target.name, "--mode", "cold"),
        )


def backing_files(case: Case) -> Iterator[Finding]:
    """A shared image needs its whole chain; a copied one arrives as one image."""
    for disk, _ in case.planned("shared"):
        for image in disk.backing:
            if not case.has_file(image.path):
                probe = case.file(image.path)
                is_missing = probe.answer is Answer.NO
                state, why = ("has no", "") if is_missing else ("was not proven to have", because(probe.detail))
                yield blocker(
                    "backing-missing",
                    f"disk {disk.target}",
                    f"{case.target.name} {state} {image.path}, on which {disk.source} builds{why}",
                    "put the base on the shared storage too, or make the disk independent of it: virsh blockpull "
                    f"--domain {vm_key(case.vm)} --path {disk.target} --wait",
                )
    kept, flattened = _chains(case)
    for disk, plan in () if case.live and kept else flattened:
        chain = listed(image.path for image in disk.backing)
        yield warning(
            "disk-flattened",
            f"disk {disk.target}",
            f"{disk.source} and what it builds on ({chain}) arrive as one image, {plan.path}",
            "nothing to do, if it may take the space of the whole chain",
        )


def firmware_variables(case: Case) -> Iterator[Finding]:
    """QEMU writes the guest's UEFI variables over a file of that name."""
    nvram = case.vm.firmware.nvram if case.vm.firmware is not None else None
    if nvram is not None and case.has_file(nvram):
        yield warning(
            "nvram-overwritten",
            f"file {nvram}",
            f"{case.target.name} has UEFI variables of that name already; they will be overwritten by this VM's",
            f"if another VM may need them, on {case.target.name}: mv {shlex.quote(nvram)} ELSEWHERE",
        )
