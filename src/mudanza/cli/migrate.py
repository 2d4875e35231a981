"""``mudanza migrate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of, connecting
from mudanza.cli.errors import error_fields, errors_as_events, show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.limits import limits_asked, parse_streams
from mudanza.cli.move_options import (
    Bandwidth,
    ChainOption,
    CompressionOption,
    Deadline,
    ForceOff,
    GuestClockOption,
    ImageFormat,
    KeepSource,
    MapNetwork,
    MapStorage,
    MaxDowntime,
    MediaOption,
    ModeOption,
    NoHooks,
    PolicyOption,
    PostCopyOption,
    ProbeOption,
    ShutdownLimit,
    StreamsOption,
    TakeClaim,
    TlsOption,
    VerifyOption,
    format_asked,
)
from mudanza.cli.moving import Mover, Outcome
from mudanza.cli.options import Output, Tag, VmNames, parse_map
from mudanza.cli.output import Format, print_data, say
from mudanza.cli.watching import emit, report_text
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.migration import (
    Media,
    MigrationOptions,
    MigrationReport,
    Mode,
    Tls,
    Verify,
)
from mudanza.model.policy import Compression
from mudanza.model.units import parse_duration, parse_rate
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.choosing import choose_vms
from mudanza.operations.limits import refuse_impossible

if TYPE_CHECKING:
    from mudanza.model.cluster import Cluster
    from mudanza.model.vm import Vm
    from mudanza.remote.there import There

To = Annotated[str | None, typer.Option("--to", metavar="HOST", help="Where to; else the best host that fits.")]


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("migrate")(migrate)


@connecting
@audited
def migrate(
    context: typer.Context,
    vms: VmNames = None,
    to: To = None,
    tag: Tag = None,
    max_downtime: MaxDowntime = None,
    bandwidth: Bandwidth = None,
    streams: StreamsOption = "auto",
    compression: CompressionOption = Compression.AUTO,
    deadline: Deadline = None,
    policy: PolicyOption = None,
    post_copy: PostCopyOption = None,
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
    probe: ProbeOption = None,
    guest_clock: GuestClockOption = None,
    no_hooks: NoHooks = False,
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
            **limits_asked(max_downtime=max_downtime, deadline=deadline, policy=policy, post_copy=post_copy),
            bandwidth=parse_rate(bandwidth) if bandwidth else None,
            streams=parse_streams(streams),
            compression=compression,
            map_storage=parse_map(map_storage, "--map-storage"),
            map_network=parse_map(map_network, "--map-network"),
            keep_source=keep_source,
            tls=tls,
            mode=mode,
            verify=verify,
            chain=chain,
            media=media,
            format=format_asked(image_format),
            force_off=force_off,
            shutdown_limit=parse_duration(shutdown_limit) if shutdown_limit else app.loaded.settings.limits.shutdown,
            take_claim=take_claim,
            probe=probe,
            guest_clock=guest_clock or app.loaded.settings.guest.clock,
            no_hooks=no_hooks,
        )
        refuse_impossible(options)
        if probe is not None and (tag or len(vms or ()) != 1):
            raise UsageError("--probe asks one guest, so it takes one VM", remedy="move them one by one")
        if app.there is not None:
            from mudanza.cli.following import MovesThere

            given = {"shutdown_limit": shutdown_limit, "guest_clock": guest_clock}
            usual = [name for name, value in given.items() if value is None]
            chosen = _chosen(app.picture(), vms, tag, to)
            if detach:
                _queue_there(app.there, chosen, to, options, usual, output)
            outcomes = MovesThere(app.there, output).move(chosen, to, options, usual, parallel)
        elif detach:
            with app.connections() as connections:
                chosen = _chosen(app.read_cluster(connections), vms, tag, to)
            _queue(app, chosen, to, options, output)
        else:
            outcomes = _move(app, vms, tag, to, options, parallel, output)
    _finish(outcomes, output)


def _chosen(cluster: Cluster, names: Sequence[str] | None, tags: Sequence[str] | None, to: str | None) -> Sequence[Vm]:
    """Return the VMs meant, once it is sure that there is such a host, too. Raises UsageError."""
    chosen = choose_vms(cluster, names, tags, bound_for=to)
    if to is not None:
        cluster.host(to)
    return chosen


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
        chosen = _chosen(cluster, vms, tags, to)
        return Mover(app, connections, arrivals, judge, options, output, begun).move(chosen, to, parallel)


def _queue(app: App, vms: Sequence[Vm], to: str | None, options: MigrationOptions, output: Format) -> NoReturn:
    from mudanza.journal.jobs import NewJob
    from mudanza.journal.protocol import QUEUED_MOVE
    from mudanza.migration.asked import put_down

    def queue(vm: Vm) -> int:
        asked = put_down(options, to)
        return app.jobs.put_down(NewJob(QUEUED_MOVE, vm.uuid, vm.name, vm.host, to or "", asked, app.asked_by()))

    _tell_queued(vms, to, queue, lambda _: "have it done: mudanza work", output)


def _queue_there(
    there: There, vms: Sequence[Vm], to: str | None, options: MigrationOptions, usual: Sequence[str], output: Format
) -> NoReturn:
    from mudanza.remote.asking import new_key

    def queue(vm: Vm) -> int:
        return there.move(vm, to, options, usual, new_key())

    _tell_queued(vms, to, queue, lambda job: f"see how it goes: mudanza job watch {job}", output)


def _tell_queued(
    vms: Sequence[Vm], to: str | None, queue: Callable[[Vm], int], then: Callable[[int], str], output: Format
) -> NoReturn:
    """Put moves into the queue and tell their jobs' numbers, and what to do ``then``; leave with the exit code for all
    of them."""
    codes = []
    for vm in vms:
        try:
            job = queue(vm)
        except MudanzaError as error:
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
        say(f"job {job} is queued: {vm.name}, {vm.host} → {to or 'the best host'}; {then(job)}")
    raise typer.Exit(of_several(codes))


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
