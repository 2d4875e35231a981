"""Does the VM fit into the target's memory?"""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.units import GIB, MIB, format_size
from mudanza.model.vm import Vm
from mudanza.preflight.case import Case, blocks_live
from mudanza.preflight.wording import listed, mudanza, warning

QEMU_BASE = 100 * MIB
"""QEMU's own memory, device models and buffers included. An empty q35 machine of QEMU 7.2 took 48 MiB here."""
PER_VCPU = 8 * MIB
"""Stack, TLB and buffers of one vCPU thread: generous, so that the last VM on a host does not meet the OOM killer."""
PAGE_TABLE_SHARE = 512
"""Page tables: 8 bytes for every page of 4 KiB."""
RESERVE_SHARE = 20
"""One part in so many of a host's memory stays with the host itself…"""
RESERVE_LEAST = 256 * MIB
RESERVE_MOST = 4 * GIB
"""…but neither less nor more than this."""


def overhead(vm: Vm) -> int:
    """Return the bytes a VM takes on its host besides its own memory: an estimate, see the constants."""
    return QEMU_BASE + PER_VCPU * vm.vcpus + vm.memory // PAGE_TABLE_SHARE


def reserve(host: Host) -> int:
    """Return the bytes of memory that stay with the host itself."""
    return min(max(host.memory_total // RESERVE_SHARE, RESERVE_LEAST), RESERVE_MOST)


def free_memory(case: Case) -> Iterator[Finding]:
    """Memory and overhead fit into what is free, less the reserve; guest memory in huge pages counts there."""
    vm, target = case.vm, case.target
    own = 0 if vm.hugepages else vm.memory
    needed, kept = own + overhead(vm), reserve(target)
    reserved = case.facts.reserved_memory
    if needed <= target.memory_free - kept - reserved:
        return
    kept_back = f"{format_size(kept)} of it kept for the host"
    if reserved:
        kept_back += f" and {format_size(reserved)} for VMs on their way there ({listed(case.facts.arriving)})"
    yield blocks_live(
        case,
        "memory",
        f"host {target.name}",
        f"the VM needs {format_size(needed)} ({format_size(own)} and {format_size(overhead(vm))} for QEMU), "
        f"and {target.name} has {format_size(target.memory_free)} free, {kept_back}",
        f"move another VM off {target.name}, choose another host ({mudanza('hosts')}), "
        "or give this VM less memory: virsh setmem",
    )


def promised_memory(case: Case) -> Iterator[Finding]:
    """All guests there may at some time use all they were promised."""
    target = case.target
    active = [vm for vm in case.neighbours if vm.state.active and not vm.hugepages]
    promised = sum(vm.memory + overhead(vm) for vm in active)
    own = 0 if case.vm.hugepages else case.vm.memory
    total = promised + own + overhead(case.vm)
    usable = target.memory_total - reserve(target)
    if total > usable:
        yield warning(
            "memory-overcommitted",
            f"host {target.name}",
            f"with this VM, guests may use {format_size(total)} on {target.name}, which has {format_size(usable)} "
            "for them: should they all do so, it swaps or kills",
            f"choose another host ({mudanza('hosts')}), or give the guests less memory: virsh setmem",
        )


def memory_growth(case: Case) -> Iterator[Finding]:
    """Memory that may be plugged in later has to fit in later."""
    vm, target = case.vm, case.target
    if vm.memory_limit is not None and vm.memory_limit > target.memory_total - reserve(target):
        yield warning(
            "memory-hotplug",
            f"host {target.name}",
            f"its memory may grow to {format_size(vm.memory_limit)} by hotplug, and {target.name} has "
            f"{format_size(target.memory_total)} in all",
            "plug in no more than fits, or choose a larger host",
        )
    if vm.memory_source == "file":
        yield warning(
            "memory-file",
            f"host {target.name}",
            f"its memory lies in a file: the directory memory_backing_dir of {target.name} has to have "
            f"{format_size(vm.memory)} free",
            "see memory_backing_dir in /etc/libvirt/qemu.conf there, and df of that directory",
        )


def huge_pages(case: Case) -> Iterator[Finding]:
    """Enough free huge pages, all sizes the VM may use taken together."""
    vm, target = case.vm, case.target
    if not vm.hugepages:
        return
    usable = [pages for pages in target.hugepages if pages.size in vm.hugepages or 0 in vm.hugepages]
    free = sum(pages.size * pages.free for pages in usable)
    if free < vm.memory:
        sizes = " or ".join(format_size(size) if size else "the default size" for size in sorted(set(vm.hugepages)))
        yield blocks_live(
            case,
            "huge-pages",
            f"host {target.name}",
            f"the VM needs {format_size(vm.memory)} in huge pages of {sizes}, and {target.name} has "
            f"{format_size(free)} of them free",
            f"on {target.name}: virsh allocpages PAGESIZE COUNT, or vm.nr_hugepages with sysctl",
        )
