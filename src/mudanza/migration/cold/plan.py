"""What is decided before a switched-off VM moves."""

from __future__ import annotations

from collections.abc import Sequence

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.claims import without_claim
from mudanza.migration.destination import destination_xml, disk_sources, with_places_of
from mudanza.migration.freight.travelling import travelling
from mudanza.migration.history import moved
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import ColdRecord
from mudanza.model.errors import BlockedError
from mudanza.model.migration import Side
from mudanza.model.vm import Vm
from mudanza.preflight.cargo import CargoFile, Role


def cold_record(prepared: Prepared, connections: Connections) -> ColdRecord:
    """Decide one move. Raises BlockedError when the VM is no longer what preflight has judged."""
    vm, chosen, options = prepared.vm, prepared.chosen, prepared.options
    domains = connections.domains(vm.host)
    xml = without_claim(domains.describe(vm.uuid, inactive=True))
    seen = domains.sighting(vm.uuid)
    if seen.side is not Side.PRESENT or seen.state is not vm.state or not _same_disks(xml, vm.inactive_xml):
        raise BlockedError(
            f"VM {vm.name!r} has changed since it was checked",
            remedy="nothing was touched; try again, and it will be judged as it is now",
        )
    if vm.state.active and (pending := _pending_disks(vm, xml)):
        raise BlockedError(
            f"VM {vm.name!r} has other disks now than it will have once it is shut down: {', '.join(pending)}",
            remedy="let both be the same (virsh attach-disk or detach-disk, --live or --config), or shut it down; "
            "nothing was touched",
        )
    plan = chosen.resolution
    saved = domains.saved_definition(vm.uuid) if vm.has_managed_save else None
    files = travelling(prepared)
    target_xml = destination_xml(_with_others_moved(xml, files), plan.disks, plan.nic_names)
    return ColdRecord(
        uuid=vm.uuid,
        name=vm.name,
        source=vm.host,
        target=chosen.target.name,
        was_running=vm.state.active,
        autostart=vm.autostart,
        keep_source=options.keep_source,
        tls=prepared.tls,
        verify=options.verify,
        arch=vm.arch,
        machine=vm.machine,
        domain_type=vm.domain_type,
        xml=xml,
        target_xml=target_xml,
        files=files,
        warnings=tuple(finding.message for finding in chosen.findings),
        nics=dict(plan.nic_names),
        has_tpm=vm.tpm is not None and vm.tpm.backend == "emulator",
        saved_xml=with_places_of(target_xml, saved) if saved is not None else None,
        checking_time=prepared.checking_time,
        hooks=prepared.hooks,
    )


def _with_others_moved(xml: str, files: Sequence[CargoFile]) -> str:
    """Return the definition with everything but its disks where it lies at the target."""
    return moved(xml, {file.source: file.path for file in files if file.role is not Role.DISK}, {})


def _same_disks(xml: str, judged: str | None) -> bool:
    return judged is not None and disk_sources(xml) == disk_sources(judged)


def _pending_disks(vm: Vm, inactive_xml: str) -> list[str]:
    """Return the disks that a running VM has and its definition has not, or the other way round; no removable ones."""
    now, then = disk_sources(vm.xml), disk_sources(inactive_xml)
    removable = {disk.target for disk in vm.disks if disk.device in ("cdrom", "floppy")}
    return sorted(disk for disk in (now.keys() | then.keys()) - removable if now.get(disk) != then.get(disk))
