"""What is decided before disks move within a host, and reading from definitions how far that has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mudanza.hypervisor.block_jobs import Mirror, mirrors
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.claims import without_claim
from mudanza.migration.destination import destination_xml, disk_sources
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import ColdRecord, CopiedDisk, MoveRecord
from mudanza.migration.relocation.settle import At, Copying, DiskStanding, Standing
from mudanza.migration.unchanged import assert_unchanged
from mudanza.model.errors import BlockedError
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Vm
from mudanza.preflight.cargo import cargo_of
from mudanza.preflight.mapping import DiskPlan
from mudanza.preflight.relocation import as_carried


@dataclass(frozen=True, slots=True)
class RelocationRecord:
    """One move of disks within a host as it was decided."""

    move: MoveRecord
    formats: Mapping[str, str]
    """Disk target → what its image becomes."""
    formats_before: Mapping[str, str]
    cold: ColdRecord | None
    """Set where the disks move while the VM is off."""

    def to_json(self) -> dict[str, Any]:
        """Return it as what the journal stores."""
        # The VM itself arrives nowhere, so it takes no more memory than it has.
        return {
            **self.move.to_json(),
            "formats": dict(self.formats),
            "formats_before": dict(self.formats_before),
            "cold": asdict(self.cold) if self.cold else None,
            "was_running": False,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RelocationRecord:
        """Read it back from the journal."""
        fields = dict(stored)
        formats, before, cold = (fields.pop(name) for name in ("formats", "formats_before", "cold"))
        del fields["was_running"]
        return cls(MoveRecord.from_json(fields), formats, before, ColdRecord.from_json(cold) if cold else None)

    def plan(self, disk: CopiedDisk, *, back: bool = False) -> DiskPlan:
        """Return what was planned for a disk; ``back``: what would bring its definition back to the old place."""
        path = disk.source_path if back else disk.path
        image_format = (self.formats_before if back else self.formats)[disk.target]
        return DiskPlan(
            disk.target,
            "copy",
            "",
            pool=disk.pool,
            volume=disk.volume,
            path=path,
            format=image_format,
            size=disk.size,
            pool_is_block=path.startswith("/dev/"),
        )

    def definition(self, xml: str, at_new: Iterable[str]) -> str:
        """Return a definition in which these disks are at their new places, and the others where they were."""
        new = frozenset(at_new)
        return destination_xml(xml, [self.plan(disk, back=disk.target not in new) for disk in self.move.disks], {})


def running_record(prepared: Prepared, connections: Connections) -> RelocationRecord:
    """Decide about the disks of a VM that runs. Raises BlockedError when it is no longer what preflight has judged, or
    its next start would use other disks than it does now."""
    vm, options = prepared.vm, prepared.options
    domains = connections.domains(vm.host)
    xml = without_claim(domains.describe(vm.uuid))
    assert_unchanged(vm, domains.sighting(vm.uuid), xml)
    inactive = without_claim(domains.describe(vm.uuid, inactive=True)) if vm.persistent else None
    disks = tuple(_copied(vm, plan, prepared) for plan in prepared.chosen.resolution.copies)
    if inactive is not None:
        _refuse_other_disks(vm, xml, inactive, disks)
    move = MoveRecord(
        uuid=vm.uuid,
        name=vm.name,
        source=vm.host,
        target=vm.host,
        was_paused=False,
        persistent=vm.persistent,
        autostart=vm.autostart,
        keep_source=options.keep_source,
        tls=False,
        xml=xml,
        inactive_xml=inactive,
        disks=disks,
        warnings=tuple(finding.message for finding in prepared.chosen.findings),
        checking_time=prepared.checking_time,
    )
    return RelocationRecord(move, _formats(prepared), _formats_before(vm), None)


def off_record(prepared: Prepared, connections: Connections) -> RelocationRecord:
    """Decide about the disks of a VM that is off, or is to be switched off. Raises what ``running_record`` raises."""
    vm, plan, options = prepared.vm, prepared.chosen.resolution, as_carried(prepared.options)
    domains = connections.domains(vm.host)
    xml = without_claim(domains.describe(vm.uuid, inactive=True))
    live = domains.describe(vm.uuid)
    assert_unchanged(vm, domains.sighting(vm.uuid), live)
    disks = tuple(_copied(vm, each, prepared) for each in plan.copies)
    _refuse_other_disks(vm, live, xml, disks)
    moving = frozenset(disk.target for disk in disks)
    files = cargo_of(vm, prepared.source, prepared.source, options, plan).files
    cold = ColdRecord(
        uuid=vm.uuid,
        name=vm.name,
        source=vm.host,
        target=vm.host,
        was_running=vm.state.active,
        autostart=vm.autostart,
        keep_source=options.keep_source,
        tls=False,
        verify=options.verify,
        arch=vm.arch,
        machine=vm.machine,
        domain_type=vm.domain_type,
        xml=xml,
        target_xml=destination_xml(xml, plan.copies, {}),
        files=tuple(file for file in files if file.label in moving),
        warnings=tuple(finding.message for finding in prepared.chosen.findings),
        checking_time=prepared.checking_time,
    )
    move = replace(cold.as_move(()), disks=disks)
    return RelocationRecord(move, _formats(prepared), _formats_before(vm), cold)


def standing_of(record: RelocationRecord, live: str | None, kept: str | None) -> Standing:
    """Return how each disk stands by the definitions: as the VM runs, and as it would start next."""
    jobs = mirrors(live) if live is not None else {}
    return {
        disk.target: DiskStanding(
            live=_at(record, disk, live), kept=_at(record, disk, kept), copying=_copying(jobs.get(disk.target), disk)
        )
        for disk in record.move.disks
    }


def _at(record: RelocationRecord, disk: CopiedDisk, xml: str | None) -> At | None:
    if xml is None:
        return None
    named = disk_sources(xml).get(disk.target)
    before = disk_sources(record.move.xml)[disk.target]
    after = disk_sources(record.definition(record.move.xml, [disk.target]))[disk.target]
    again = disk_sources(record.definition(record.move.xml, []))[disk.target]
    if named == after:
        return At.NEW
    return At.OLD if named in (before, again) else At.ELSEWHERE


def _copying(mirror: Mirror | None, disk: CopiedDisk) -> Copying:
    if mirror is None:
        return Copying.NOT
    if mirror.path != disk.path:
        return Copying.FOREIGN
    return Copying.READY if mirror.ready else Copying.UNDER_WAY


def _refuse_other_disks(vm: Vm, live: str, kept: str, disks: Iterable[CopiedDisk]) -> None:
    now, then = disk_sources(live), disk_sources(kept)
    for disk in disks:
        if now.get(disk.target) != then.get(disk.target):
            raise BlockedError(
                f"VM {vm.name!r} uses another image as its disk {disk.target} than its definition names",
                remedy=f"nothing was touched; have them agree first: virsh edit {vm.uuid}, or a restart of the VM",
            )


def _formats(prepared: Prepared) -> dict[str, str]:
    return {plan.target: plan.format for plan in prepared.chosen.resolution.copies}


def _formats_before(vm: Vm) -> dict[str, str]:
    return {disk.target: disk.format for disk in vm.disks}


def _copied(vm: Vm, plan: DiskPlan, prepared: Prepared) -> CopiedDisk:
    disk = next(disk for disk in vm.disks if disk.target == plan.target)
    elsewhere = prepared.chosen.facts.shared.get(plan.target, Probe())
    return CopiedDisk(
        target=plan.target,
        source_path=disk.source or "",
        source_pool=disk.pool,
        source_volume=disk.volume,
        pool=plan.pool,
        volume=plan.volume,
        path=plan.path,
        size=plan.size,
        removable=bool(disk.pool and disk.volume) and not disk.readonly and not disk.shareable,
        seen_by_both=elsewhere.answer is not Answer.NO,
    )
