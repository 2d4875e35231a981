"""Limits that no move could keep, or that libvirt and QEMU do not take."""

from __future__ import annotations

from mudanza.migration.outside import parse_probe
from mudanza.model.errors import UsageError
from mudanza.model.migration import MigrationOptions, Mode
from mudanza.model.units import MIB
from mudanza.model.wishes import LEAST_DOWNTIME, MOST_DOWNTIME

MOST_BANDWIDTH = 2**63 - MIB
"""Bytes per second that libvirt no longer takes."""


def refuse_impossible(options: MigrationOptions) -> None:
    """Raise UsageError for a limit that no migration could keep, or that libvirt and QEMU do not take."""
    limits = {"--max-downtime": options.max_downtime, "--bandwidth": options.bandwidth, "--deadline": options.deadline}
    for option, limit in limits.items():
        if limit is not None and limit <= 0:
            raise UsageError(f"{option} must be more than nothing", remedy="leave it out for what is usual")
    if not LEAST_DOWNTIME <= options.max_downtime <= MOST_DOWNTIME:
        raise UsageError("--max-downtime must lie between 1ms and 2000s, as QEMU has it", remedy="300ms is usual")
    if options.probe is not None:
        parse_probe(options.probe)
        if options.mode is Mode.COLD:
            raise UsageError("--probe asks a guest that runs, and a cold move switches it off", remedy="leave it out")
    if options.bandwidth is not None and not MIB <= options.bandwidth < MOST_BANDWIDTH:
        raise UsageError(
            "--bandwidth must be at least 1MiB/s, for libvirt counts in whole ones, and less than 8 EiB/s",
            remedy="leave it out for no limit",
        )
