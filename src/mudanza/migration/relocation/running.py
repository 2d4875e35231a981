"""Disks of a VM that runs: QEMU mirrors them to the new place, then changes over, and the guest notices nothing.

All are mirrored before the first one changes over. Should a later one then fail to, the VM is whole all the same,
with its disks in two places, and that is said.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from mudanza import clock
from mudanza.hypervisor.block_jobs import BlockJobs, place_xml
from mudanza.migration.claim import renewing
from mudanza.migration.destination import volume_xml
from mudanza.migration.freight.room import make_volume, places_made
from mudanza.migration.record import CopiedDisk
from mudanza.migration.relocation.mirroring import Mirroring
from mudanza.migration.relocation.settle import At, Copying, Next, Standing, Verdict, settle_running
from mudanza.migration.relocation.work import RelocationWork
from mudanza.migration.residue import Residue
from mudanza.migration.steering import Steering
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.migration import MigrationReport


class RunningWork(RelocationWork):
    """One job whose VM runs."""

    _copying_time = 0.0

    def settle(self, standing: Standing) -> Verdict:
        """Decide what is to be done next."""
        return settle_running(standing, wanted=not self.why)

    def take(self, step: Next, standing: Standing) -> None:
        """Take one step."""
        match step:
            case Next.COPY:
                self._make_volumes()
                self.handle.enter("copying")
                self._begin(standing)
            case Next.WAIT:
                self._wait(standing)
            case Next.PIVOT:
                self.handle.enter("changing over")
                self._change_over(standing)
            case Next.ABORT:
                self._abort(standing)

    @property
    def _jobs(self) -> BlockJobs:
        return BlockJobs(self.connections.get(self.host))

    def _make_volumes(self) -> None:
        made = places_made(self.jobs.get(self.handle.id))
        for disk in self.record.move.disks:
            if disk.path not in made and not self.stop.is_set():
                self._make_volume(disk)

    def _make_volume(self, disk: CopiedDisk) -> None:
        volumes = self.connections.volumes(self.host)
        origin = None
        if disk.source_pool and disk.source_volume:
            origin = volumes.describe(disk.source_pool, disk.source_volume)
        plan = self.record.plan(disk)
        make_volume(
            self.handle,
            {
                "pool": disk.pool,
                "volume": disk.volume,
                "path": disk.path,
                "size": disk.size,
                "device": plan.pool_is_block,
            },
            lambda: volumes.create(disk.pool, volume_xml(plan, origin)),
        )

    def _begin(self, standing: Standing) -> None:
        disks = self.record.move.disks
        limit = self.options.bandwidth // len(disks) if self.options.bandwidth else None
        for disk in disks:
            stands = standing[disk.target]
            if stands.live is At.OLD and stands.copying is Copying.NOT and not self.stop.is_set():
                copy = partial(
                    self._jobs.copy,
                    self.uuid,
                    disk.target,
                    place_xml(disk.path, self.record.formats[disk.target]),
                    bandwidth=limit,
                )
                self.step("copy", {"disk": disk.target, "path": disk.path}, copy)

    def _wait(self, standing: Standing) -> None:
        names = [name for name, disk in standing.items() if disk.copying is not Copying.NOT]
        steering = Steering(self.host, self.host, 0.0, self.options.deadline, self.no_progress, self.spent)
        domains = self.connections.domains(self.host)
        mirroring = Mirroring(domains, self.uuid, names, steering, self.stop, self.on_progress)
        begun = clock.monotonic()
        if why := mirroring.wait(renewing(self.handle, self._cancel)):
            self.give_up(why)
        self._copying_time += clock.monotonic() - begun

    def _cancel(self, why: str) -> None:
        self.give_up(why)
        self.stop.set()

    def _change_over(self, standing: Standing) -> None:
        """From the first one on there is no way back, and nobody is asked any more."""
        for name, disk in standing.items():
            if disk.copying is Copying.READY:
                self.step("pivot", {"disk": name}, partial(self._jobs.pivot, self.uuid, name))

    def _abort(self, standing: Standing) -> None:
        for name, disk in standing.items():
            if disk.copying is not Copying.NOT:
                with suppress(HypervisorError):  # it may have ended by itself: the next look tells
                    self.step("abort", {"disk": name}, partial(self._jobs.abort, self.uuid, name))

    def before_clean_up(self) -> tuple[str, ...]:
        """Nothing: the guest uses the new places, and its definition names them."""
        return ()

    def report(self, residue: Residue) -> MigrationReport:
        """Say how it went."""
        move, taken = self.record.move, self.spent + clock.monotonic() - self.begun
        held = self._held()
        return MigrationReport(
            vm=move.name,
            uuid=move.uuid,
            source=self.host,
            target=self.host,
            mode="in place",
            moving_time=taken,
            total_time=taken + move.checking_time,
            downtime=0.0,
            memory_bytes=0,
            disk_bytes=held,
            rate=held / self._copying_time if self._copying_time else 0.0,
            iterations=0,
            tls=False,
            transport=f"QEMU on {self.host}, from pool to pool; nothing left the host",
            removed=residue.removed,
            kept=residue.kept,
            warnings=move.warnings + residue.warnings,
            own_wishes=self.own_wishes(),
        )

    def _held(self) -> int:
        """Return what the new images take up, holes left out."""
        volumes = self.connections.volumes(self.host)
        try:
            for pool in {disk.pool for disk in self.record.move.disks}:
                volumes.refresh(pool)
            return sum(volumes.read(disk.pool, disk.volume).allocation or 0 for disk in self.record.move.disks)
        except (HypervisorError, HostUnreachableError):
            return 0
