"""What was asked for, as the journal stores it, and read back for whoever does it or goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mudanza.model.migration import Chain, Media, MigrationOptions, Mode, Tls, Verify


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
        "take_claim": options.take_claim,
    }


def put_down(options: MigrationOptions, to: str | None) -> dict[str, object]:
    """Return what whoever does it later has to know; ``to`` None: the best host there is then."""
    return {**stored(options), "to": to}


def destination_of(asked: Mapping[str, Any]) -> str | None:
    """Return the host that was asked for; None: the best one."""
    to = asked.get("to")
    return str(to) if to else None


def read_back(asked: Mapping[str, Any]) -> MigrationOptions:
    """Return what was asked; what an earlier version did not write is as usual."""
    usual = {**stored(MigrationOptions()), **asked}
    return MigrationOptions(
        max_downtime=float(usual["max_downtime"]),
        bandwidth=usual["bandwidth"],
        deadline=usual["deadline"],
        map_storage=usual["map_storage"],
        map_network=usual["map_network"],
        keep_source=usual["keep_source"],
        tls=Tls(usual["tls"]),
        mode=Mode(usual["mode"]),
        verify=Verify(usual["verify"]),
        chain=Chain(usual["chain"]) if usual["chain"] is not None else None,
        media=Media(usual["media"]),
        format=usual["format"],
        force_off=usual["force_off"],
        shutdown_limit=usual["shutdown_limit"],
    )


def still_to_decide(asked: Mapping[str, Any]) -> MigrationOptions:
    """Return what still matters once the move itself has been decided: the rest stands in the job's record."""
    options = read_back(asked)
    return MigrationOptions(
        bandwidth=options.bandwidth,
        deadline=options.deadline,
        force_off=options.force_off,
        shutdown_limit=options.shutdown_limit,
    )
