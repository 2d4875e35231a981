"""Is a VM still what was judged? Pure, but for the question."""

from __future__ import annotations

from mudanza.hypervisor.domains import Domains
from mudanza.migration.destination import disk_sources
from mudanza.model.errors import BlockedError
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import Vm

_REMEDY = "nothing was touched; try again, and it will be judged as it is now"


def assert_unchanged(vm: Vm, seen: Sighting, xml: str) -> None:
    """Refuse to go on with a VM that is not any more what preflight has judged. Raises BlockedError."""
    if seen.side is not Side.PRESENT or seen.state is not vm.state:
        now = f"{seen.state} ({seen.reason})" if seen.side is Side.PRESENT else "gone, or its host does not answer"
        raise BlockedError(f"VM {vm.name!r} was {vm.state} when it was checked, and is {now}", remedy=_REMEDY)
    if disk_sources(xml) != disk_sources(vm.xml):
        raise BlockedError(f"the disks of VM {vm.name!r} have changed since they were checked", remedy=_REMEDY)


def look_again(vm: Vm, domains: Domains) -> None:
    """Ask the VM's host whether it is still what preflight has judged, and nobody else works on it.

    Raises BlockedError, HypervisorError, HostUnreachableError.
    """
    seen = domains.sighting(vm.uuid)
    assert_unchanged(vm, seen, domains.describe(vm.uuid))
    if domains.autostart(vm.uuid) is not vm.autostart:
        # It was off while an earlier job was at work, perhaps, which has ended meanwhile.
        raise BlockedError(
            f"autostart of VM {vm.name!r} was {_in_words(vm.autostart)} when it was checked, and is not so any more",
            remedy=_REMEDY,
        )
    if seen.job not in (None, "unknown"):  # one that QEMU does not tell in time may be none
        raise BlockedError(
            f"another job has begun on VM {vm.name!r} since it was checked: {seen.job}",
            remedy="nothing was touched; try again when it has ended",
        )


def _in_words(on: bool) -> str:
    return "on" if on else "off"
