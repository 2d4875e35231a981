"""``mudanza check`` and ``mudanza migrate``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import error_fields, errors_as_events, show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.moving import Mover, Outcome, arrivals_of, judge_of
from mudanza.cli.options import Output, Tag, VmName, VmNames, choose_vms, parse_map
from mudanza.cli.output import Format, print_data, say
from mudanza.cli.watching import emit, report_text
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.finding import Level, blockers
from mudanza.model.migration import Chain, Media, MigrationOptions, MigrationReport, Mode, Tls, Verify
from mudanza.model.units import MIB, format_size, parse_duration, parse_rate

if TYPE_CHECKING:
    from mudanza.migration.prepare import Candidate
    from mudanza.model.vm import Vm

LEAST_DOWNTIME, MOST_DOWNTIME = 0.001, 2000.0
"""Seconds: libvirt counts in whole milliseconds, QEMU goes no further."""
MOST_BANDWIDTH = 2**63 - MIB
"""Bytes per second that libvirt no longer takes."""

To = Annotated[str | None, typer.Option("--to", metavar="HOST", help="Where to; else the best host that fits.")]
MaxDowntime = Annotated[str, typer.Option(metavar="TIME", help="The most the switchover may take.")]
Bandwidth = Annotated[str | None, typer.Option(metavar="RATE", help="The most it may send, such as 100MiB/s.")]
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
TlsOption = Annotated[Tls, typer.Option("--tls", help="Encrypt memory and disks on their way.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("check")(check)
    app.command("migrate")(migrate)


def check(
    context: typer.Context,
    vm: VmName,
    to: Annotated[str | None, typer.Option("--to", metavar="HOST", help="Where to; else to every other host.")] = None,
    map_storage: MapStorage = None,
    map_network: MapNetwork = None,
    tls: TlsOption = Tls.AUTO,
    mode: ModeOption = Mode.AUTO,
    chain: ChainOption = None,
    media: MediaOption = Media.THERE,
    image_format: ImageFormat = None,
    output: Output = Format.TABLE,
) -> None:
    """Say everything that stands against a move, and what to do about it. The VM is not touched."""
    app = app_of(context)
    options = MigrationOptions(
        map_storage=parse_map(map_storage, "--map-storage"),
        map_network=parse_map(map_network, "--map-network"),
        tls=tls,
        mode=mode,
        chain=chain,
        media=media,
        format=_format(image_format),
    )
    with app.connections() as connections:
        judge, cluster = judge_of(app, connections, arrivals_of(app))
        found = cluster.find(vm, bound_for=to)
        if to is None:
            candidates: Sequence[Candidate] = judge.judge_all(found, options, rehearse=True)
        else:
            candidates = [judge.judge(found, cluster.host(to), options, rehearse=True)]
    _print_candidates(found, candidates, output)
    if not any(_fits(candidate) for candidate in candidates):
        raise typer.Exit(BlockedError.exit_code)


def _fits(candidate: Candidate) -> bool:
    return not blockers(candidate.findings)


def _print_candidates(vm: Vm, candidates: Sequence[Candidate], output: Format) -> None:
    if output is Format.NAME:
        for candidate in candidates:
            if _fits(candidate):
                sys.stdout.write(candidate.target.name + "\n")
        return
    if output is not Format.TABLE:
        rows = [
            {
                "target": each.target.name,
                "possible": _fits(each),
                "findings": each.findings,
                "travels": each.travels,
                "facts": each.facts,
            }
            for each in candidates
        ]
        print_data({"vm": vm.name, "uuid": vm.uuid, "source": vm.host, "targets": rows}, output)
        return
    for candidate in candidates:
        verdict = "can go" if _fits(candidate) else "can NOT go"
        sys.stdout.write(f"{vm.name} {verdict} from {vm.host} to {candidate.target.name}\n")
        for finding in candidate.findings:
            mark = "✗" if finding.level is Level.BLOCKER else "!"
            sys.stdout.write(f"  {mark} {finding.subject}: {finding.message} [{finding.code}]\n")
            sys.stdout.write(f"      → {finding.remedy}\n")
        if _fits(candidate):
            sys.stdout.write(_how_it_travels(candidate))


def _how_it_travels(candidate: Candidate) -> str:
    wide = max((len(leg.what) for leg in candidate.travels), default=0)
    lines = []
    for leg in candidate.travels:
        size = format_size(leg.size) if leg.size is not None else ""
        place = f"to {leg.place}, " if leg.place else ""
        lines.append(f"    {leg.what:<{wide}}  {size:>8}  {place}{leg.way}\n")
    return "".join(lines)


@audited
def migrate(
    context: typer.Context,
    vms: VmNames = None,
    to: To = None,
    tag: Tag = None,
    max_downtime: MaxDowntime = "300ms",
    bandwidth: Bandwidth = None,
    deadline: Deadline = None,
    map_storage: MapStorage = None,
    map_network: MapNetwork = None,
    keep_source: KeepSource = False,
    tls: TlsOption = Tls.AUTO,
    mode: ModeOption = Mode.AUTO,
    verify: VerifyOption = Verify.FULL,
    chain: ChainOption = None,
    media: MediaOption = Media.THERE,
    image_format: ImageFormat = None,
    force_off: ForceOff = False,
    shutdown_limit: ShutdownLimit = None,
    take_claim: TakeClaim = False,
    parallel: Annotated[int, typer.Option(min=1, max=8, help="How many at once, of several.")] = 2,
    detach: Annotated[
        bool, typer.Option("--detach", help="Put it into the queue, and return; `mudanza work` does it.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Move VMs to another host: running ones without switching them off, others with everything they are.

    With --to their own host and --map-storage, only their disks move, to other pools there.
    """
    app = app_of(context)
    with errors_as_events(output):
        options = MigrationOptions(
            max_downtime=_downtime(max_downtime),
            bandwidth=parse_rate(bandwidth) if bandwidth else None,
            deadline=parse_duration(deadline) if deadline else None,
            map_storage=parse_map(map_storage, "--map-storage"),
            map_network=parse_map(map_network, "--map-network"),
            keep_source=keep_source,
            tls=tls,
            mode=mode,
            verify=verify,
            chain=chain,
            media=media,
            format=_format(image_format),
            force_off=force_off,
            shutdown_limit=parse_duration(shutdown_limit) if shutdown_limit else app.loaded.settings.limits.shutdown,
            take_claim=take_claim,
        )
        _refuse_impossible(options)
        if detach:
            _put_down(app, vms, tag, to, options, output)
        outcomes = _move(app, vms, tag, to, options, parallel, output)
    _finish(outcomes, output)


def _move(
    app: App,
    vms: Sequence[str] | None,
    tags: Sequence[str] | None,
    to: str | None,
    options: MigrationOptions,
    parallel: int,
    output: Format,
) -> list[Outcome]:
    begun = clock.monotonic()
    with app.connections() as connections:
        arrivals = arrivals_of(app)
        judge, cluster = judge_of(app, connections, arrivals)
        chosen = choose_vms(cluster, vms, tags, bound_for=to)
        if to is not None:
            cluster.host(to)
        return Mover(app, connections, arrivals, judge, options, output, begun).move(chosen, to, parallel)


def _put_down(
    app: App,
    names: Sequence[str] | None,
    tags: Sequence[str] | None,
    to: str | None,
    options: MigrationOptions,
    output: Format,
) -> NoReturn:
    with app.connections() as connections:
        cluster = app.read_cluster(connections)
    if to is not None:
        cluster.host(to)
    put_down(app, choose_vms(cluster, names, tags, bound_for=to), to, options, output)


def put_down(app: App, vms: Sequence[Vm], to: str | None, options: MigrationOptions, output: Format) -> NoReturn:
    """Put moves into the queue and tell their jobs' numbers; leave with the exit code for all of them."""
    from mudanza.journal.jobs import NewJob
    from mudanza.journal.protocol import QUEUED_MOVE
    from mudanza.migration.asked import put_down as asked

    codes = []
    for vm in vms:
        try:
            new = NewJob(QUEUED_MOVE, vm.uuid, vm.name, vm.host, to or "", asked(options, to), app.asked_by())
            job = app.jobs.put_down(new)
        except BlockedError as error:
            codes.append(error.exit_code)
            if output is Format.JSON:
                emit("error", vm=vm.name, **error_fields(error))
            show_error(error)
            continue
        codes.append(0)
        if output is Format.JSON:
            emit("queued", vm=vm.name, uuid=vm.uuid, job=job, source=vm.host, target=to)
        elif output is Format.NAME:
            sys.stdout.write(f"{job}\n")
        say(f"job {job} is queued: {vm.name}, {vm.host} → {to or 'the best host'}; have it done: mudanza work")
    raise typer.Exit(of_several(codes))


def _format(name: str | None) -> str | None:
    if name not in (None, "qcow2", "raw"):
        raise UsageError(f"--format {name!r} is none that images can have here", remedy="write: qcow2 or raw")
    return name


def _downtime(text: str) -> float:
    """Return seconds. Raises UsageError for a bare number: people used to virsh mean milliseconds by it."""
    if text.strip().replace(".", "", 1).isdigit() and float(text) > 0:
        raise UsageError(
            f"--max-downtime {text!r} names no unit: milliseconds, as for virsh, or seconds?",
            remedy=f"write {text.strip()}ms, or {text.strip()}s",
        )
    return parse_duration(text)


def _refuse_impossible(options: MigrationOptions) -> None:
    """Raise UsageError for a limit that no migration could keep, or that libvirt and QEMU do not take."""
    limits = {"--max-downtime": options.max_downtime, "--bandwidth": options.bandwidth, "--deadline": options.deadline}
    for option, limit in limits.items():
        if limit is not None and limit <= 0:
            raise UsageError(f"{option} must be more than nothing", remedy="leave it out for what is usual")
    if not LEAST_DOWNTIME <= options.max_downtime <= MOST_DOWNTIME:
        raise UsageError("--max-downtime must lie between 1ms and 2000s, as QEMU has it", remedy="300ms is usual")
    if options.bandwidth is not None and not MIB <= options.bandwidth < MOST_BANDWIDTH:
        raise UsageError(
            "--bandwidth must be at least 1MiB/s, for libvirt counts in whole ones, and less than 8 EiB/s",
            remedy="leave it out for no limit",
        )


def _finish(outcomes: Sequence[Outcome], output: Format) -> None:
    """Print what became of each, and leave with the exit code that says it."""
    for outcome in outcomes:
        if outcome.report is not None:
            print_report(outcome.report, output)
        elif outcome.error is not None:
            if output is Format.JSON:
                emit("error", vm=outcome.vm.name, **error_fields(outcome.error))
            show_error(outcome.error)
    raise typer.Exit(of_several([outcome.error.exit_code if outcome.error else 0 for outcome in outcomes]))


def print_report(report: MigrationReport, output: Format) -> None:
    """Print how a migration went; with JSON as the last one of its events."""
    match output:
        case Format.JSON:
            emit("report", **asdict(report))
        case Format.YAML:
            sys.stdout.write("---\n")  # one document for each VM
            print_data(report, output)
        case Format.NAME:
            sys.stdout.write(report.vm + "\n")
        case Format.TABLE:
            sys.stdout.write(report_text(report) + "\n")
