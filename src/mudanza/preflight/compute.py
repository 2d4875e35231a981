"""Can the target run this kind of machine: architecture, QEMU, CPU?"""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.migration import Answer
from mudanza.model.units import format_version
from mudanza.preflight.case import Case, blocks_live
from mudanza.preflight.wording import because, blocker, listed, mudanza, virsh, vm_key, warning


def versions(case: Case) -> Iterator[Finding]:
    """QEMU and libvirt promise migration towards newer versions only."""
    source, target = case.source, case.target
    if target.libvirt_version < source.libvirt_version:
        there, here = format_version(target.libvirt_version), format_version(source.libvirt_version)
        yield warning(
            "libvirt-older",
            f"host {target.name}",
            f"{target.name} has libvirt {there}, older than the {here} of {source.name}: it may not know "
            "everything in this VM's definition",
            f"upgrade libvirt on {target.name} first",
        )
    if target.qemu_version < source.qemu_version:
        there, here = format_version(target.qemu_version), format_version(source.qemu_version)
        yield warning(
            "qemu-older",
            f"host {target.name}",
            f"{target.name} has QEMU {there}, older than the {here} of {source.name}: going back works only "
            "as far as the machine type and devices allow",
            f"upgrade QEMU on {target.name} first",
        )


def architecture(case: Case) -> Iterator[Finding]:
    """A guest that runs on the source runs on every host of the same architecture, 32-bit guests included."""
    vm, target = case.vm, case.target
    if vm.arch != target.arch != case.source.arch:
        yield blocker(
            "architecture",
            f"host {target.name}",
            f"the VM is {vm.arch}, and {target.name} is {target.arch}",
            f"choose a host of architecture {case.source.arch}: {mudanza('hosts')}",
        )


def domain_type(case: Case) -> Iterator[Finding]:
    """A guest under KVM cannot go on under emulation, nor the other way round."""
    vm, target = case.vm, case.target
    if vm.domain_type not in target.domain_types:
        yield blocker(
            "domain-type",
            f"host {target.name}",
            f"the VM is of type {vm.domain_type}, and {target.name} offers {listed(target.domain_types)} only",
            f"on {target.name}: virt-host-validate qemu (for kvm: virtualization enabled in the firmware, "
            "module kvm_intel or kvm_amd loaded, /dev/kvm there)",
        )


def machine_type(case: Case) -> Iterator[Finding]:
    """The machine type fixes the virtual hardware: the target's QEMU has to know the very same."""
    vm, target = case.vm, case.target
    if vm.arch == target.arch and vm.machine not in target.machines:
        yield blocker(
            "machine-type",
            f"host {target.name}",
            f"QEMU on {target.name} does not know the machine type {vm.machine}",
            f"upgrade QEMU on {target.name}, or choose an older machine type (virsh edit) while the VM is shut off; "
            f"what it knows: {virsh(target, 'capabilities')}",
        )


def emulator(case: Case) -> Iterator[Finding]:
    """libvirt starts the QEMU binary the definition names; distributions call it differently."""
    path = case.vm.emulator
    if path is not None and case.file(path).answer is Answer.NO:
        yield blocker(
            "emulator-missing",
            f"host {case.target.name}",
            f"{case.target.name} has no QEMU at {path}",
            f"install QEMU there, or link its binary to {path}",
        )


def cpu(case: Case) -> Iterator[Finding]:
    """libvirt's own comparison, and what it does not compare: a CPU handed through as it is."""
    target, probe = case.target, case.facts.cpu
    if probe.answer is Answer.NO:
        yield blocker(
            "cpu-incompatible",
            f"host {target.name}",
            f"{target.name} cannot provide the VM's CPU{because(probe.detail)}",
            _another_cpu(case),
        )
    elif probe.answer is Answer.UNKNOWN and case.vm.domain_type in target.domain_types:
        yield warning(
            "cpu-unknown",
            f"host {target.name}",
            f"whether {target.name} can provide the VM's CPU was not found out{because(probe.detail)}",
            f"compare it yourself: {virsh(target, 'hypervisor-cpu-compare', '--file', 'CPU.xml')}",
        )
    if case.vm.cpu_mode == "host-passthrough":
        yield from _passthrough(case)


def _another_cpu(case: Case) -> str:
    """What all hosts have in common, and how a VM gets it."""
    return (
        f"give it the CPU that all hosts have in common ({mudanza('cluster', 'cpu')} shows it), and restart it: "
        f"{mudanza('cluster', 'cpu', '--set', vm_key(case.vm))}"
    )


def _passthrough(case: Case) -> Iterator[Finding]:
    source, target = case.source, case.target
    remedy = _another_cpu(case)
    lost = source.cpu_features - target.cpu_features
    if source.cpu_vendor and target.cpu_vendor and source.cpu_vendor != target.cpu_vendor:
        yield blocks_live(
            case,
            "cpu-vendor",
            f"host {target.name}",
            f"the VM sees its host's own CPU (host-passthrough), which is by {source.cpu_vendor} on {source.name} "
            f"and by {target.cpu_vendor} on {target.name}",
            remedy,
        )
    elif source.cpu_model != target.cpu_model or lost:
        missing = f", which lacks {listed(lost)}" if lost else ""
        yield warning(
            "cpu-passthrough",
            f"host {target.name}",
            "the VM sees its host's own CPU (host-passthrough): "
            f"{source.cpu_model or 'unknown'} on {source.name}, {target.cpu_model or 'unknown'} on {target.name}"
            f"{missing}; the guest may crash after the move",
            remedy,
        )


def unmovable_memory_or_clock(case: Case) -> Iterator[Finding]:
    """What QEMU refuses to migrate: encrypted memory, and a clock nobody can reproduce."""
    vm = case.vm
    if vm.launch_security is not None:
        yield blocks_live(
            case,
            "launch-security",
            f"VM {vm.name}",
            f"its memory is protected from the host ({vm.launch_security}) and cannot be sent",
            "shut it off and move it cold; the target needs the same feature",
        )
    if vm.tsc_unfixed:
        yield blocks_live(
            case,
            "tsc-unfixed",
            f"VM {vm.name}",
            "its CPU has invtsc, and no TSC frequency is given, so libvirt refuses to move it",
            "add <timer name='tsc' frequency='HERTZ'/> to its <clock>, or take invtsc away, and restart it",
        )


def cpu_count(case: Case) -> Iterator[Finding]:
    """More vCPUs than CPUs work, slowly; pins to CPUs that are not there do not."""
    vm, target = case.vm, case.target
    if vm.vcpus > target.cpus:
        yield warning(
            "vcpus-over",
            f"host {target.name}",
            f"the VM has {vm.vcpus} vCPUs, and {target.name} has {target.cpus} CPUs: they will wait for each other",
            f"choose a host with {vm.vcpus} CPUs or more: {mudanza('hosts')}",
        )
    missing = [number for number in sorted(vm.pinned_cpus) if number >= target.cpus]
    if missing:
        yield blocker(
            "cpu-pin-missing",
            f"host {target.name}",
            f"the VM is pinned to CPUs {_numbers(missing)}, and {target.name} has CPUs 0 to {target.cpus - 1}",
            f"pin it anew: virsh vcpupin, emulatorpin and iothreadpin on {vm_key(vm)}, with --live --config",
        )
    yield from _taken_pins(case)


def _taken_pins(case: Case) -> Iterator[Finding]:
    for other in case.neighbours:
        both = sorted(case.vm.pinned_cpus & other.pinned_cpus)
        if both and other.state.active:
            yield warning(
                "cpu-pin-taken",
                f"host {case.target.name}",
                f"{other.name} is pinned to CPUs {_numbers(both)} there, and so is this VM",
                f"pin one of the two elsewhere: virsh vcpupin --live --config {vm_key(case.vm)}",
            )


def _numbers(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
