"""What the VM is doing right now, and what hangs on its definition."""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.vm import Vm, VmState
from mudanza.model.wishes import OF_BALANCE, OPTIONS
from mudanza.preflight.case import Case
from mudanza.preflight.wording import blocker, mudanza, virsh, vm_key, warning

# Reasons of "paused" that are not an operator's wish, in virsh's words.
_UNSETTLED = frozenset(
    {
        "migrating",
        "post-copy",
        "post-copy failed",
        "api error",
        "starting up",
        "shutting down",
        "saving",
        "dumping",
        "creating snapshot",
        "crashed",
    }
)
_IO_ERROR = "I/O error"


def _subject(vm: Vm) -> str:
    return f"VM {vm.name}"


def readable(case: Case) -> Iterator[Finding]:
    """What the source could not tell of the VM must not be guessed."""
    if case.vm.error is not None:
        yield blocker(
            "vm-unreadable",
            _subject(case.vm),
            f"{case.source.name} could not describe it fully: {case.vm.error}",
            f"see what libvirt says: {virsh(case.source, 'dumpxml', '--domain', vm_key(case.vm))}",
        )


def activity(case: Case) -> Iterator[Finding]:
    """A live move needs a running guest, a cold one a VM that is shut off."""
    vm, key = case.vm, vm_key(case.vm)
    if vm.state is VmState.CRASHED:
        yield blocker(
            "vm-crashed",
            _subject(vm),
            f"it has crashed ({vm.reason})",
            f"look at its log on {case.source.name}, then {virsh(case.source, 'destroy', '--domain', key)}",
        )
    elif vm.state in (VmState.SHUTDOWN, VmState.NOSTATE):
        yield blocker(
            "vm-in-between",
            _subject(vm),
            f"its state is {vm.state!s}: neither running nor shut off",
            f"wait until it has settled: {mudanza('show', key)}",
        )
    elif case.live and not vm.state.active and not vm.has_managed_save:
        yield blocker(
            "vm-not-running",
            _subject(vm),
            "it is shut off, and only a running VM can be moved live",
            f"start it: {mudanza('start', key)}",
        )
    elif not case.live and vm.state.active and not vm.persistent:
        yield blocker(
            "vm-transient-cold",
            _subject(vm),
            "it is transient: shut down for a cold move, it would be gone",
            f"move it live, or keep its definition first: {virsh(case.source, 'dumpxml', '--domain', key)} > FILE, "
            "then virsh define FILE",
        )


def pause(case: Case) -> Iterator[Finding]:
    """A pause may be a wish, an accident, or half a migration; a guest may even run with half its memory here."""
    vm, key = case.vm, vm_key(case.vm)
    if vm.state is VmState.PMSUSPENDED:
        yield blocker(
            "vm-suspended",
            _subject(vm),
            "the guest has suspended itself, a state that not every QEMU carries over",
            f"wake it: {virsh(case.source, 'dompmwakeup', '--domain', key)}",
        )
    elif vm.reason == "post-copy failed" or (vm.state is VmState.PAUSED and vm.reason in _UNSETTLED):
        yield blocker(
            "vm-unsettled",
            _subject(vm),
            f"it is {vm.state!s} ({vm.reason}): something else has hold of it, maybe half a migration",
            f"do not resume it before you know that it runs nowhere else: {mudanza('show', key)}",
        )
    elif vm.state is VmState.PAUSED and vm.reason == _IO_ERROR:
        yield blocker(
            "vm-io-error",
            _subject(vm),
            "it is paused by an I/O error on a disk, and libvirt refuses to move it so",
            f"mend the disk ({virsh(case.source, 'domblkerror', '--domain', key)}), then "
            + virsh(case.source, "resume", "--domain", key),
        )
    elif vm.state is VmState.PAUSED:
        yield warning(
            "vm-paused",
            _subject(vm),
            f"it is paused ({vm.reason}) and "
            + ("will be paused at the target" if case.live else "does not hear that it is to shut down"),
            f"resume it before or after: {virsh(case.source, 'resume', '--domain', key)}",
        )


def jobs(case: Case) -> Iterator[Finding]:
    """A VM has one job at a time, of ours, of another controller's, as of libvirt's."""
    vm, key = case.vm, vm_key(case.vm)
    yield from _claim(case)
    if (ours := case.facts.unfinished_job) is not None:
        yield blocker(
            "job-unfinished",
            _subject(vm),
            f"job {ours} of mudanza has not ended",
            f"see how it goes: {mudanza('job', 'show', str(ours))}; if its controller is gone, finish it: "
            f"{mudanza('job', 'resume', str(ours))}",
        )
    if vm.job is not None:
        yield blocker(
            "job-running",
            _subject(vm),
            f"another job is running on it: {vm.job}",
            f"wait for its end, or see what it is: {virsh(case.source, 'domjobinfo', '--domain', key)}",
        )
    for disk in vm.disks:
        if disk.mirror:
            yield blocker(
                "block-job",
                f"disk {disk.target}",
                f"a block job copies or commits disk {disk.target}",
                f"wait for it, or end it: {virsh(case.source, 'blockjob', '--domain', key, '--path', disk.target)}",
            )


def _claim(case: Case) -> Iterator[Finding]:
    claim = case.facts.claim
    if claim is None:
        return
    if case.options.take_claim:
        yield warning(
            "claim-taken-over",
            _subject(case.vm),
            f"{claim.in_words}; it is taken over, if nothing happens to it for half a minute",
            f"see first what that job may have left: {mudanza('rebuild')}",
        )
    else:
        yield blocker(
            "vm-claimed",
            _subject(case.vm),
            claim.in_words,
            f"wait until that job has ended ({mudanza('show', vm_key(case.vm))}); if its controller and its journal "
            f"are gone for good, finish it here: {mudanza('rebuild')}; or take the VM over as it is: --take-claim",
        )


def wishes(case: Case) -> Iterator[Finding]:
    """A wish that nobody understands is not passed over: it may have been for the guest's sake."""
    vm = case.vm
    if vm.wishes is None:
        return
    for name, fault in vm.wishes.faults.items():
        if name in OF_BALANCE:
            continue  # not about how it moves: balance itself heeds them, and leaves alone whom it does not understand
        if name.replace("-", "_") in case.options.named or (name == "hooks" and case.options.no_hooks):
            continue
        instead = "run none for this move: --no-hooks" if name == "hooks" else f"name it for this move: --{name}"
        yield blocker(
            "wish-unreadable",
            _subject(vm),
            f"its metadata wishes {name} {vm.wishes.said[name]!r} of its moves: {fault}",
            f"{_mend(vm, name)}{f'; or {instead}' if name in OPTIONS else ''}",
        )


def _mend(vm: Vm, name: str) -> str:
    if name in OPTIONS:
        return f"say it anew, or take it back: {mudanza('wish', vm_key(vm), OPTIONS[name], '')}"
    return f"take all of its wishes back, and say them anew: {mudanza('wish', vm_key(vm), '--clear')}"


def definition(case: Case) -> Iterator[Finding]:
    """Whether the VM outlives a power-off, and whether its memory lies in a file."""
    vm, key = case.vm, vm_key(case.vm)
    if not vm.persistent and case.live:
        yield warning(
            "vm-transient",
            _subject(vm),
            "it is transient: when it stops, no host knows it any more",
            f"keep its definition: {virsh(case.source, 'dumpxml', '--domain', key)} > FILE, then virsh define FILE",
        )
    if vm.has_managed_save and case.live:
        yield blocker(
            "managed-save",
            _subject(vm),
            f"its memory is saved on {case.source.name} (managed save), and that file does not move",
            f"start it and move it live: {mudanza('start', key)}; or give the memory up: "
            + virsh(case.source, "managedsave-remove", "--domain", key),
        )
    if vm.qemu_arguments:
        yield warning(
            "qemu-arguments",
            _subject(vm),
            "it has QEMU arguments of its own (<qemu:commandline>), which libvirt passes on unchecked",
            f"make sure that the files and devices they name are on {case.target.name} too",
        )
