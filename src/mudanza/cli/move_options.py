"""Options of commands that are about a move: having it, and asking what it would be like."""

from __future__ import annotations

from typing import Annotated

import typer

from mudanza.cli.limits import limits_asked, parse_streams
from mudanza.cli.options import parse_map
from mudanza.model.errors import UsageError
from mudanza.model.migration import Chain, GuestClock, Media, MigrationOptions, Mode, Tls, Verify
from mudanza.model.policy import Compression, Policy, PostCopy
from mudanza.model.units import parse_rate
from mudanza.operations.limits import refuse_impossible

MaxDowntime = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The most the switchover may take; else what the VM wishes, or 300ms."),
]
Bandwidth = Annotated[str | None, typer.Option(metavar="RATE", help="The most it may send, such as 100MiB/s.")]
StreamsOption = Annotated[
    str,
    typer.Option(
        "--streams",
        metavar="N|auto",
        help="By how many connections memory goes (as virsh --parallel); auto: by several where they carry more than "
        "one, as measured by forecast --probe-link.",
    ),
]
CompressionOption = Annotated[
    Compression,
    typer.Option(
        "--compression",
        help="Of pages that the guest has changed again send only what differs (QEMU's xbzrle); auto: where pre-copy "
        "would not end without, unless it has not paid off for this VM.",
    ),
]
Deadline = Annotated[str | None, typer.Option(metavar="TIME", help="Cancel it if it is not done by then.")]
MapStorage = Annotated[
    list[str] | None,
    typer.Option(metavar="A=B", help="Disks of source pool A go to pool B there; may be repeated."),
]
MapNetwork = Annotated[
    list[str] | None,
    typer.Option(metavar="A=B", help="NICs on network A are put on B there; may be repeated."),
]
KeepSource = Annotated[bool, typer.Option("--keep-source", help="Delete nothing at the source.")]
ModeOption = Annotated[
    Mode,
    typer.Option("--mode", help="While it runs, or switched off; auto: as it is. A running VM is shut down for cold."),
]
VerifyOption = Annotated[
    Verify, typer.Option("--verify", help="How much of a cold move's content is compared before the source is let go.")
]
ChainOption = Annotated[
    Chain | None,
    typer.Option("--chain", help="Images that disks build on: they travel, lie there already, or become one with it."),
]
MediaOption = Annotated[
    Media, typer.Option("--media", help="Images in CD-ROM and floppy drives: they lie there, travel, or are taken out.")
]
ImageFormat = Annotated[
    str | None, typer.Option("--format", metavar="qcow2|raw", help="What images become there; else what they are.")
]
ForceOff = Annotated[
    bool, typer.Option("--force-off", help="Switch a guest off hard that does not shut down for a cold move.")
]
ShutdownLimit = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long a guest may take to shut down for a cold move.")
]
TakeClaim = Annotated[
    bool,
    typer.Option("--take-claim", help="Take over a VM that another controller has claimed and is gone, as it is now."),
]
PolicyOption = Annotated[
    Policy | None,
    typer.Option(
        "--policy",
        help="How a busy guest gets across: auto, by post-copy where pre-copy does not end in time; gentle, neither by "
        "that nor by slowing it down; deadline, by either; now, by post-copy at once. Else as the VM wishes, or auto.",
    ),
]
PostCopyOption = Annotated[
    PostCopy | None,
    typer.Option(
        "--post-copy",
        help="Let the guest run at the target before all of its memory is there; else as the policy has it.",
    ),
]
ProbeOption = Annotated[
    str | None,
    typer.Option(
        "--probe",
        metavar="ping:HOST|tcp:HOST:PORT",
        help="Ask the guest from here while it moves live, and report for how long nobody answered.",
    ),
]
NoHooks = Annotated[bool, typer.Option("--no-hooks", help="Run none of this controller's hooks around it.")]
GuestClockOption = Annotated[
    GuestClock | None,
    typer.Option(
        "--guest-clock", help="Whether the guest's agent sets its clock after a live move; else the settings."
    ),
]
TlsOption = Annotated[Tls, typer.Option("--tls", help="Encrypt memory and disks on their way.")]


def format_asked(name: str | None) -> str | None:
    """Return what images are to become. Raises UsageError."""
    if name not in (None, "qcow2", "raw"):
        raise UsageError(f"--format {name!r} is none that images can have here", remedy="write: qcow2 or raw")
    return name


def options_of(
    *,
    max_downtime: str | None,
    bandwidth: str | None,
    streams: str,
    compression: Compression,
    deadline: str | None,
    policy: Policy | None,
    post_copy: PostCopy | None,
    mode: Mode,
    map_storage: list[str] | None,
    map_network: list[str] | None,
) -> MigrationOptions:
    """Return what was asked, of all that a forecast depends on. Raises UsageError."""
    options = MigrationOptions(
        **limits_asked(max_downtime=max_downtime, deadline=deadline, policy=policy, post_copy=post_copy),
        bandwidth=parse_rate(bandwidth) if bandwidth else None,
        streams=parse_streams(streams),
        compression=compression,
        mode=mode,
        map_storage=parse_map(map_storage, "--map-storage"),
        map_network=parse_map(map_network, "--map-network"),
    )
    refuse_impossible(options)
    return options
