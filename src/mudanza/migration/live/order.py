"""The one call that moves a VM, made from what was judged and decided: pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mudanza.hypervisor.uris import migration_uri, peer_uri
from mudanza.hypervisor.xml.activation import wishes_autostart, with_epoch
from mudanza.migration.convergence import first_limit
from mudanza.migration.destination import destination_xml
from mudanza.migration.history import moved
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import MoveRecord
from mudanza.migration.transfer import Order
from mudanza.model.errors import UsageError
from mudanza.model.policy import PostCopy
from mudanza.model.units import MIB
from mudanza.preflight.mapping import DiskPlan


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
        there = destination_xml(moved(xml, ahead, {}), plans, nics)
        return there if options.epoch is None else with_epoch(there, options.epoch, autostart=wishes_autostart(xml))

    parameters: dict[str, int | str | list[str]] = {"destination_xml": as_there(record.xml)}
    if record.inactive_xml is not None:
        parameters["persistent_xml"] = as_there(record.inactive_xml)
    if uri := migration_uri(entry):
        parameters["migrate_uri"] = uri
    if options.bandwidth:
        parameters["bandwidth"] = first_limit(options.bandwidth, len(record.disks)) // MIB
        if record.postcopy is not PostCopy.NEVER:
            parameters["bandwidth.postcopy"] = max(1, options.bandwidth // MIB)
    if record.streams > 1:
        parameters["parallel.connections"] = record.streams
    if record.compression_cache:
        parameters["compression"] = "xbzrle"
        parameters["compression.xbzrle.cache"] = record.compression_cache
    if record.disks:
        parameters["migrate_disks"] = [disk.target for disk in record.disks]
    if record.tls and entry.tls_name:
        parameters["tls.destination"] = entry.tls_name
    return Order(peer, parameters, _flags(record, plans, throttle=options.may_throttle))


def marked(order: Order, mark: Callable[[str], str]) -> Order:
    """Return the order with a mark in both definitions that the target gets."""
    given = order.parameters
    both = {name: mark(str(given[name])) for name in ("destination_xml", "persistent_xml") if name in given}
    return replace(order, parameters={**given, **both})


def _flags(record: MoveRecord, plans: Sequence[DiskPlan], *, throttle: bool) -> tuple[str, ...]:
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
    if record.postcopy is not PostCopy.NEVER:
        flags.append("POSTCOPY")
    if record.streams > 1:
        flags.append("PARALLEL")
    if record.compression_cache:
        flags.append("COMPRESSED")
    if throttle:
        flags.append("AUTO_CONVERGE")
    if any(plan.action == "shared" for plan in plans):
        # Preflight let it pass only because a probe has shown both hosts the same file, with a safe cache mode.
        flags.append("UNSAFE")
    return tuple(flags)
