"""UEFI variables that a live move has left at the source: QEMU carries them along, and their file stays."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.files import same_directory
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import JobHandle
from mudanza.migration.freight.room import Place, Room
from mudanza.migration.record import MoveRecord
from mudanza.migration.residue import Residue
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import Host
from mudanza.model.migration import Answer
from mudanza.model.vm import Vm
from mudanza.preflight.cargo import NVRAM_DIRECTORY


def remove_variables(connections: Connections, inventory: Inventory, handle: JobHandle, record: MoveRecord) -> Residue:
    """Delete them, unless they are to be kept, or may be what the VM uses at the target or another one here."""
    if not record.nvram:
        return Residue()
    where = f"{record.source}:{record.nvram}"
    if record.keep_source:
        return Residue(kept=(where,))
    here, vms = read_host(inventory.host(record.source), connections=connections)
    there, _ = read_host(inventory.host(record.target), connections=connections)
    try:
        reason = why_needed(record.nvram, here, vms) or _why_shared(connections, record.nvram, here, there)
        if not reason:
            name = posixpath.basename(record.nvram)
            Room(connections, handle, here).remove(Place("", name, record.nvram))
    except (HypervisorError, HostUnreachableError) as error:
        reason = str(error)
    if reason:
        return Residue(kept=(where,), warnings=(f"{where} was kept: {reason}",))
    return Residue(removed=(where,))


def why_needed(path: str, here: Host, vms: Sequence[Vm]) -> str:
    """Return why a file of UEFI variables must stay for the sake of the host it lies on; empty when it need not. Pure.

    ``vms``: all that the host has now.
    """
    if not here.seen:
        return f"{here.name} could not be asked whether it uses it"
    for vm in vms:
        if vm.error:
            return f"whether domain {vm.name!r} refers to it could not be found out"
        # libvirt names them by a rule where the definition does not.
        named = {vm.firmware.nvram if vm.firmware else None, f"{NVRAM_DIRECTORY}/{vm.name}_VARS.fd"}
        if path in named or path in (vm.inactive_xml or "") or any(path == disk.source for disk in vm.disks):
            return f"domain {vm.name!r} refers to it"
    return ""


def _why_shared(connections: Connections, path: str, here: Host, there: Host) -> str:
    seats = (connections.get(here.name), here), (connections.get(there.name), there)
    shared = same_directory(seats, posixpath.dirname(path))
    return "" if shared.answer is Answer.NO else f"it may be the one that {there.name} uses: {shared.detail}"
