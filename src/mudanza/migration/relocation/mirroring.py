"""Watching block copies of one domain until both places of its disks hold the same."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from mudanza import clock
from mudanza.hypervisor.block_jobs import mirrors
from mudanza.hypervisor.domains import Domains
from mudanza.migration.progress import COPYING_DISKS, Trend, told
from mudanza.migration.steering import Situation, Steering, reason_to_stop
from mudanza.model.errors import HostUnreachableError, MigrationFailedError
from mudanza.model.migration import Progress
from mudanza.model.units import format_duration

POLL = 0.25
"""Seconds between two looks."""
UNSEEN_PATIENCE = 15.0
"""Seconds a host that does not answer is asked again: its copies go on without its libvirt."""

OnProgress = Callable[[Progress], None]


class Mirroring:
    """The copies of one domain's disks on their way. Nothing is begun or ended here."""

    def __init__(
        self,
        domains: Domains,
        uuid: str,
        disks: Collection[str],
        steering: Steering,
        stop: clock.Event,
        on_progress: OnProgress,
    ) -> None:
        self._domains = domains
        self._uuid = uuid
        self._disks = disks
        self._steering = steering
        self._stop = stop
        self._on_progress = on_progress
        self._begun = clock.monotonic()
        self._answered = self._begun
        self._trend = Trend()

    def wait(self, keep_claim: Callable[[], None]) -> str:
        """Return once all copies are ready, or why they are to be given up; empty when they are ready.

        Raises MigrationFailedError when one has ended by itself, HypervisorError when the domain is gone,
        HostUnreachableError when the host does not answer for UNSEEN_PATIENCE seconds.
        """
        while True:
            keep_claim()
            if self._all_ready():
                return ""
            if why := self._reason_to_stop():
                return why
            self._stop.wait(POLL)

    def _all_ready(self) -> bool:
        try:
            jobs = mirrors(self._domains.describe(self._uuid))
            figures = self._domains.disk_jobs(self._uuid, self._disks)
        except HostUnreachableError:
            if clock.monotonic() - self._answered > UNSEEN_PATIENCE:
                raise
            return False
        self._answered = clock.monotonic()
        if ended := [disk for disk in self._disks if disk not in jobs]:
            raise MigrationFailedError(
                f"QEMU gave up copying {', '.join(ended)}",
                remedy="see whether the new pool has room, and what the VM's log says: "
                f"/var/log/libvirt/qemu on {self._domains.host}",
            )
        self._tell(sum(done for done, _ in figures.values()), sum(end for _, end in figures.values()))
        return all(jobs[disk].ready for disk in self._disks)

    def _tell(self, done: int, end: int) -> None:
        elapsed = clock.monotonic() - self._begun
        sample = Progress(COPYING_DISKS, elapsed, disk_total=end, disk_sent=done, disk_remaining=max(0, end - done))
        self._trend = self._trend.after(sample)
        shown = told(sample, self._trend)
        words = f"copied in about {format_duration(shown.eta)}" if shown.eta is not None else ""
        self._on_progress(replace(shown, outlook=words))

    def _reason_to_stop(self) -> str:
        elapsed = clock.monotonic() - self._begun
        now = Situation(
            elapsed=elapsed,
            still_for=elapsed - self._trend.moved_at,
            no_nearer_for=elapsed - self._trend.nearer_at,
            asked_to_stop=self._stop.is_set(),
        )
        return reason_to_stop(now, self._steering)
