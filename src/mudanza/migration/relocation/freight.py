"""The files of a switched-off VM on their way to another pool of their own host."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from mudanza import clock
from mudanza.hypervisor.block_jobs import BlockJobs
from mudanza.hypervisor.own.carrier import Carrier, Kind, Load, carrier_xml
from mudanza.hypervisor.own.ghost import disk_name
from mudanza.hypervisor.own.throwaway import throwaway_name
from mudanza.hypervisor.xml.parsing import outer, parse
from mudanza.migration.freight.carriage import Carriage
from mudanza.migration.freight.freight import Freight
from mudanza.migration.relocation.mirroring import Mirroring
from mudanza.migration.steering import Steering, is_wish
from mudanza.migration.wanted import CancelledError
from mudanza.model.errors import MigrationFailedError


class CarriageInPlace(Carriage):
    """Carries within one host: a carrier's disks are copied there instead of migrated."""

    @property
    def transport(self) -> str:
        """Return in words what carried the data."""
        return f"QEMU on {self._source.name}, from pool to pool; nothing left the host"

    def _send(self, loads: Sequence[Load]) -> None:
        record, host = self._record, self._source.name
        name, key = throwaway_name("carrier"), str(uuid.uuid4())
        step = self._handle.intend("carry", {"carrier": name, "uuid": key, "loads": len(loads)})
        self._handle.enter("carrying")
        seat = self._connections.get(host)
        kind = Kind(record.domain_type, record.arch, record.machine)
        carrier = Carrier(seat, seat, self._source, self._source, name, key, kind)
        begun = clock.monotonic()
        self._handle.assert_held()
        try:
            # Read through overlays, for then QEMU writes nothing to the source, and one disk takes all its ranges.
            carrier.start([replace(load, read_only=True) for load in loads])
            why = self._copy(carrier, kind)
        finally:
            self.carrying_time += clock.monotonic() - begun
            if left := carrier.end():
                self._handle.done(step, {"error": "; ".join(left)})
        if why:
            self._handle.done(step, {"stopped": why})
            raise (CancelledError if is_wish(why) else MigrationFailedError)(self._wanted.cancelled or why)
        self._handle.done(step, {"carried": sum(load.length for load in carrier.loads)})

    def _copy(self, carrier: Carrier, kind: Kind) -> str:
        """Copy all of a carrier's disks; return why that was given up, empty when they are whole."""
        host, limits = self._source.name, self._limits
        jobs = BlockJobs(self._connections.get(host))
        places = places_of(carrier, kind)
        limit = limits.bandwidth // len(places) if limits.bandwidth else None
        for disk, place in places.items():
            jobs.copy(carrier.uuid, disk, place, bandwidth=limit)
        steering = Steering(host, host, 0.0, limits.deadline, limits.no_progress)
        domains = self._connections.domains(host)
        mirroring = Mirroring(domains, carrier.uuid, tuple(places), steering, self._wanted.stop, self._on_progress)
        if why := mirroring.wait(self._wanted.keep_claim):
            return why
        for disk in places:
            jobs.pivot(carrier.uuid, disk)  # which writes out all that is still on its way
        return ""


class FreightInPlace(Freight):
    """Carries the files of one job within one host.

    Everything else is the same: places are made beforehand, bytes arrive as they are, and both places are compared.
    """

    by = CarriageInPlace


def places_of(carrier: Carrier, kind: Kind) -> dict[str, str]:
    """Return the carrier's disks, each with the XML of the place it is copied to."""
    arrived = parse(carrier_xml(carrier.name, carrier.uuid, kind, carrier.loads), carrier.name)
    disks = arrived.findall("devices/disk")
    return {disk_name(number): outer(disk) for number, disk in enumerate(disks)}
