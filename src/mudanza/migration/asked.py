"""What was asked for, as the journal stores it, and read back for whoever goes on with the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mudanza.model.migration import MigrationOptions


def stored(options: MigrationOptions) -> dict[str, object]:
    """Return everything a job's owner may want to see of what was asked."""
    return {
        "mode": options.mode.value,
        "max_downtime": options.max_downtime,
        "bandwidth": options.bandwidth,
        "deadline": options.deadline,
        "map_storage": dict(options.map_storage),
        "map_network": dict(options.map_network),
        "keep_source": options.keep_source,
        "tls": options.tls.value,
        "verify": options.verify.value,
        "chain": options.chain.value if options.chain is not None else None,
        "media": options.media.value,
        "format": options.format,
        "force_off": options.force_off,
        "shutdown_limit": options.shutdown_limit,
    }


def still_to_decide(asked: Mapping[str, Any]) -> MigrationOptions:
    """Return what still matters once the move itself has been decided: the rest stands in the job's record."""
    return MigrationOptions(
        bandwidth=asked["bandwidth"],
        deadline=asked["deadline"],
        force_off=asked["force_off"],
        shutdown_limit=asked["shutdown_limit"],
    )
