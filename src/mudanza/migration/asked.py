"""What was asked for, as the journal stores it, and read back for whoever does it or goes on with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from mudanza.model.migration import Chain, GuestClock, Media, MigrationOptions, Mode, Tls, Verify, own_in_words
from mudanza.model.policy import Compression, Policy, PostCopy
from mudanza.model.wishes import FIELDS


def stored(options: MigrationOptions) -> dict[str, object]:
    """Return everything a job's owner may want to see of what was asked."""
    return {
        "mode": options.mode.value,
        "max_downtime": options.max_downtime,
        "bandwidth": options.bandwidth,
        "streams": options.streams,
        "compression": options.compression.value,
        "deadline": options.deadline,
        "policy": options.policy.value,
        "post_copy": options.post_copy.value if options.post_copy is not None else None,
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
        "probe": options.probe,
        "guest_clock": options.guest_clock.value,
        "no_hooks": options.no_hooks,
        "upon": dict(options.upon),
        "epoch": options.epoch,
        "named": sorted(options.named),
        "own": list(options.own),
    }


def put_down(options: MigrationOptions, to: str | None, source: str | None = None) -> dict[str, object]:
    """Return what whoever does it later has to know; ``to`` None: the best host there is then; ``source``: the host
    that it has to be on still, None: wherever it is."""
    return {**stored(options), "to": to, **({"from": source} if source else {})}


def source_of(asked: Mapping[str, Any]) -> str | None:
    """Return the host that the VM has to be on; None: any."""
    source = asked.get("from")
    return str(source) if source else None


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
        streams=usual["streams"],
        compression=Compression(usual["compression"]),
        deadline=usual["deadline"],
        policy=Policy(usual["policy"]),
        post_copy=PostCopy(usual["post_copy"]) if usual["post_copy"] is not None else None,
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
        probe=usual["probe"],
        guest_clock=GuestClock(usual["guest_clock"]),
        no_hooks=usual["no_hooks"],
        upon=usual["upon"],
        epoch=usual["epoch"],
        named=_named(asked),
        own=tuple(usual["own"]),
    )


def to_begin(asked: Mapping[str, Any]) -> MigrationOptions:
    """Return what was asked, for whoever begins it: once it has begun, no claim is taken over any more."""
    return replace(read_back(asked), take_claim=bool(asked.get("take_claim")))


def _named(asked: Mapping[str, Any]) -> frozenset[str]:
    """Return what was named; an earlier version did not say: what is not as usual, then."""
    if "named" in asked:
        return frozenset(asked["named"])
    usual = stored(MigrationOptions())
    return frozenset(name for name in FIELDS if asked.get(name, usual[name]) != usual[name])


def own_wishes(asked: Mapping[str, Any], heeded: Collection[str] = FIELDS) -> tuple[str, ...]:
    """Return in words what of a job was asked for by its VM's own metadata, is ``heeded``, and not changed since."""
    options = read_back(asked)
    own = tuple(name for name in options.own if name in heeded and name not in options.named)
    return own_in_words(replace(options, own=own))


def still_to_decide(asked: Mapping[str, Any]) -> MigrationOptions:
    """Return what still matters once the move itself has been decided: the rest stands in the job's record."""
    options = read_back(asked)
    return MigrationOptions(
        bandwidth=options.bandwidth,
        deadline=options.deadline,
        force_off=options.force_off,
        shutdown_limit=options.shutdown_limit,
    )
