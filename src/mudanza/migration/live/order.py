"""The one call that moves a VM, made from what was judged and decided: pure."""

from __future__ import annotations

from collections.abc import Sequence

from mudanza.hypervisor.uris import migration_uri, peer_uri
from mudanza.migration.destination import destination_xml, disk_sources
from mudanza.migration.history import moved
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import MoveRecord
from mudanza.migration.transfer import Order
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.migration import Side, Sighting
from mudanza.model.units import MIB
from mudanza.model.vm import Vm
from mudanza.preflight.mapping import DiskPlan


def assert_unchanged(vm: Vm, seen: Sighting, xml: str) -> None:
    """Refuse to go on with a VM that is not any more what preflight has judged. Raises BlockedError."""
    remedy = "nothing was touched; try again, and it will be judged as it is now"
    if seen.side is not Side.PRESENT or seen.state is not vm.state:
        now = f"{seen.state} ({seen.reason})" if seen.side is Side.PRESENT else "gone, or its host does not answer"
        raise BlockedError(f"VM {vm.name!r} was {vm.state} when it was checked, and is {now}", remedy=remedy)
    if disk_sources(xml) != disk_sources(vm.xml):
        raise BlockedError(f"the disks of VM {vm.name!r} have changed since they were checked", remedy=remedy)


def order_of(prepared: Prepared, record: MoveRecord) -> Order:
    """Return the call to make. Raises UsageError where the target has no address for the source."""
    chosen, options = prepared.chosen, prepared.options
    entry = chosen.target.entry
    peer = peer_uri(entry)
    if peer is None:
        raise UsageError(
            f"{record.source} cannot reach {record.target}: no address other hosts could use is known",
            remedy=f"tell it: mudanza host edit {record.target} --peer-uri qemu+tls://NAME/system",
        )
    plans, nics = chosen.resolution.disks, chosen.resolution.nic_names
    ahead = {file.source: file.path for file in record.ahead}

    def as_there(xml: str) -> str:
        return destination_xml(moved(xml, ahead, {}), plans, nics)

    parameters: dict[str, int | str | list[str]] = {"destination_xml": as_there(record.xml)}
    if record.inactive_xml is not None:
        parameters["persistent_xml"] = as_there(record.inactive_xml)
    if uri := migration_uri(entry):
        parameters["migrate_uri"] = uri
    if options.bandwidth:
        parameters["bandwidth"] = max(1, options.bandwidth // MIB)
    if record.disks:
        parameters["migrate_disks"] = [disk.target for disk in record.disks]
    if record.tls and entry.tls_name:
        parameters["tls.destination"] = entry.tls_name
    return Order(peer, parameters, _flags(record, plans))


def _flags(record: MoveRecord, plans: Sequence[DiskPlan]) -> tuple[str, ...]:
    flags = ["LIVE", "PEER2PEER", "ABORT_ON_ERROR"]
    if record.persistent:
        flags.append("PERSIST_DEST")
        if not record.keep_source:
            flags.append("UNDEFINE_SOURCE")
    if record.was_paused:
        flags.append("PAUSED")
    if record.disks:
        flags.append("NON_SHARED_INC" if record.keeps_chains else "NON_SHARED_DISK")
        if record.synchronous:
            flags.append("NON_SHARED_SYNCHRONOUS_WRITES")
    if record.tls:
        flags.append("TLS")
    if any(plan.action == "shared" for plan in plans):
        # Preflight let it pass only because a probe has shown both hosts the same file, with a safe cache mode.
        flags.append("UNSAFE")
    return tuple(flags)
