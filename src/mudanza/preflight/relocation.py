"""May the disks of a VM move to another pool of the host it is on? The VM itself goes nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mudanza.model.finding import Finding, Level, blockers
from mudanza.model.host import Host
from mudanza.model.migration import Chain, Facts, Media, MigrationOptions
from mudanza.model.vm import Disk, Vm
from mudanza.preflight import history, identity, state, storage
from mudanza.preflight.case import Case
from mudanza.preflight.mapping import DiskPlan, mapped_pool, resolve
from mudanza.preflight.wording import blocker, listed, mudanza, virsh, vm_key, warning


def moves_disks(vm: Vm, host: Host, options: MigrationOptions) -> bool:
    """Whether what is asked moves disks within the VM's own host, or is meant to and cannot."""
    if not options.map_storage:
        return False
    plan = resolve(vm, host, host, options, Facts())
    return bool(plan.copies) or bool(blockers(plan.findings))


def as_carried(options: MigrationOptions) -> MigrationOptions:
    """Return the options as they count here: disk and chain become one image, and nothing else travels."""
    return replace(options, chain=Chain.FLATTEN, media=Media.THERE)


def check_in_place(case: Case) -> tuple[Finding, ...]:
    """Return everything that speaks against moving the disks, blockers and warnings at once."""
    judged = replace(case, options=as_carried(case.options))
    checks = (
        identity.on_third_host,
        state.readable,
        state.activity,
        _unsettled_pause,
        state.jobs,
        state.wishes,
        storage.places,
        storage.free_space,
        storage.occupied,
        storage.root_squashed,
        storage.transient_disks,
        _staying,
        _snapshots,
        history.checkpoints,
        _saved_memory,
    )
    return (*(finding for ask in checks for finding in ask(judged)), *_chains(case))


def _unsettled_pause(case: Case) -> Iterator[Finding]:
    """A wanted pause makes no difference here."""
    yield from (finding for finding in state.pause(case) if finding.level is Level.BLOCKER)


def _staying(case: Case) -> Iterator[Finding]:
    """A map that covers more than can be moved is no mistake."""
    for action in ("shared", "none"):
        for disk, _ in case.planned(action):
            if disk.source is not None and mapped_pool(disk, case.options) is not None:
                yield warning(
                    "disk-stays",
                    f"disk {disk.target}",
                    f"{disk.source} stays where it is: {_why_it_stays(disk)}",
                    "nothing to do, unless its place is to be emptied: move it by hand then, with all its users off",
                )


def _why_it_stays(disk: Disk) -> str:
    if disk.device != "disk":
        return f"it lies in a {disk.device} drive"
    if disk.readonly:
        return "the VM only reads it, and others may do so too"
    return "other VMs may write to it" if disk.shareable else "no pool holds it"


def _snapshots(case: Case) -> Iterator[Finding]:
    """Snapshots are part of an image as it is: only carried byte for byte does it keep them."""
    inside = [snapshot.name for snapshot in case.vm.snapshots if not snapshot.external]
    beside = [snapshot.name for snapshot in case.vm.snapshots if snapshot.external]
    for disk, plan in case.planned("copy"):
        rewriting = _rewriting(case, disk, plan)
        if rewriting and inside:
            yield blocker(
                "snapshots",
                f"disk {disk.target}",
                f"the VM has snapshots in its images ({listed(inside)}), and {rewriting} of {disk.source} loses them",
                _keep_snapshots(case, disk, plan),
            )
        if rewriting and beside:
            yield blocker(
                "snapshots-external",
                f"disk {disk.target}",
                f"the VM has external snapshots ({listed(beside)}), made of a chain of files, and {rewriting} of "
                f"{disk.source} makes one image of it",
                f"merge the chain first: {virsh(case.source, 'blockcommit', vm_key(case.vm), disk.target)}; or move "
                "the VM cold to another host, which keeps it",
            )


def _rewriting(case: Case, disk: Disk, plan: DiskPlan) -> str:
    if plan.format != disk.format:
        return f"the change to {plan.format}"
    if disk.backing:
        return "making one image of disk and chain"
    return "a copy while it runs" if case.live else ""


def _keep_snapshots(case: Case, disk: Disk, plan: DiskPlan) -> str:
    if plan.format != disk.format or disk.backing:
        return f"delete them first ({virsh(case.source, 'snapshot-list', vm_key(case.vm))})"
    maps = [f"--map-storage={key}={to}" for key, to in case.options.map_storage.items()]
    words = ("migrate", vm_key(case.vm), "--mode", "cold", "--to", case.target.name, *maps)
    return f"switched off it keeps them (it is shut down, and started again afterwards): {mudanza(*words)}"


def _chains(case: Case) -> Iterator[Finding]:
    for disk, plan in case.planned("copy"):
        if disk.backing and case.options.chain in (Chain.KEEP, Chain.REUSE):
            yield blocker(
                "chain-in-place",
                f"disk {disk.target}",
                f"{disk.source} builds on other images, and within one host disk and chain become one",
                "leave --chain out",
            )
        elif disk.backing:
            yield warning(
                "disk-flattened",
                f"disk {disk.target}",
                f"{disk.source} and what it builds on ({listed(image.path for image in disk.backing)}) become one "
                f"image, {plan.path}",
                "nothing to do, if it may take the space of the whole chain",
            )


def _saved_memory(case: Case) -> Iterator[Finding]:
    """Saved memory comes with a definition of its own, which names the old places."""
    vm = case.vm
    if vm.has_managed_save and not vm.state.active:
        yield blocker(
            "managed-save",
            f"VM {vm.name}",
            f"its memory is saved on {case.source.name} (managed save), and would be restored onto the old places",
            f"start it, and move its disks while it runs: {mudanza('start', vm_key(vm))}; or give the memory up: "
            + virsh(case.source, "managedsave-remove", "--domain", vm_key(vm)),
        )
