"""Whether a host's hypervisor can give a VM the CPU it has: libvirt's own comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.xml.capabilities import parse_cpu_models
from mudanza.hypervisor.xml.parsing import parse, text
from mudanza.model.errors import HypervisorError, MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Vm

# With this flag libvirt names what is missing instead of only saying that something is.
_SAY_WHY = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
_NOT_COMPARABLE = (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_NO_SUPPORT)


def probe_cpu(target: HostConnection, vm: Vm, source: Host) -> Probe:
    """Return whether the target can provide the VM's CPU. NO names the missing features, or the unknown model.

    A VM that has the CPU of the host it is on is compared by that host's CPU (``source``).
    """
    try:
        if vm.cpu_xml is None or vm.cpu_mode is None:
            return Probe(Answer.YES, "it has the hypervisor's default CPU")
        if vm.cpu_mode == "host-model":
            return Probe(Answer.YES, "its CPU is put together anew when it starts")
        if vm.cpu_mode == "maximum" and vm.domain_type != "kvm":
            return _same_qemu(target, source)
        if vm.cpu_mode in ("host-passthrough", "maximum"):
            return _verdict(target, lambda raw: int(raw.compareCPU(source.cpu_xml, _SAY_WHY)))
        return _custom(target, vm, vm.cpu_xml)
    except MudanzaError as error:
        return Probe(Answer.UNKNOWN, str(error))


def _custom(target: HostConnection, vm: Vm, cpu_xml: str) -> Probe:
    try:
        return _verdict(
            target,
            lambda raw: int(raw.compareHypervisorCPU(None, vm.arch, None, vm.domain_type, cpu_xml, _SAY_WHY)),
        )
    except HypervisorError as error:
        return _by_model(target, vm, cpu_xml, error)


def _verdict(target: HostConnection, compare: Callable[[Any], int]) -> Probe:
    try:
        outcome = target.ask(compare)
    except HypervisorError as error:
        if error.code == libvirt.VIR_ERR_CPU_INCOMPATIBLE:
            return Probe(Answer.NO, error.reason)
        raise
    if outcome == libvirt.VIR_CPU_COMPARE_INCOMPATIBLE:
        return Probe(Answer.NO, f"{target.name} says that its CPU is incompatible")
    return Probe(Answer.YES, "the same CPU" if outcome == libvirt.VIR_CPU_COMPARE_IDENTICAL else "it can do all of it")


def _by_model(target: HostConnection, vm: Vm, cpu_xml: str, why: HypervisorError) -> Probe:
    """Fall back to the models the hypervisor lists, where libvirt compares no CPUs or does not know this one."""
    model = text(parse(cpu_xml, target.name), "model") or ""
    offer = target.ask(lambda raw: str(raw.getDomainCapabilities(None, vm.arch, None, vm.domain_type, 0)))
    models = parse_cpu_models(offer, target.name)
    if model in models.unusable:
        return Probe(Answer.NO, f"{target.name} knows the CPU model {model} but cannot provide it")
    if model not in models.usable:
        return Probe(Answer.NO, f"{target.name} does not know the CPU model {model}")
    if why.code in _NOT_COMPARABLE:
        return Probe(Answer.YES, f"{target.name} offers the CPU model {model}; features cannot be compared there")
    raise why


def _same_qemu(target: HostConnection, source: Host) -> Probe:
    """The most that software emulation can do depends on QEMU alone."""
    version = target.ask(lambda raw: int(raw.getVersion()))
    if version == source.qemu_version:
        return Probe(Answer.YES, "the same QEMU emulates the same CPU")
    return Probe(Answer.UNKNOWN, "what the emulated CPU 'maximum' can do differs between versions of QEMU")
