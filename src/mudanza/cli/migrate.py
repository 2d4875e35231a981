"""``mudanza check`` and ``mudanza migrate``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza.cli.context import App, app_of
from mudanza.cli.options import Output, Tag, VmName, VmNames, choose_vms, parse_map
from mudanza.cli.output import Format, plain, print_data, say
from mudanza.cli.watching import View, emit, report_text, view_for
from mudanza.model.errors import BlockedError, MigrationFailedError, MudanzaError, UsageError
from mudanza.model.finding import Level, blockers
from mudanza.model.migration import MigrationOptions, MigrationReport, Progress, Tls
from mudanza.model.units import parse_duration, parse_rate

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.migration.prepare import Candidate, Judge, Prepared
    from mudanza.model.vm import Vm

PARTLY = 7
"""Exit code when some of several VMs went and some did not."""
WAIT_STEP = 0.2
"""Seconds between two looks whether the migrations are over or somebody pressed Ctrl-C."""

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
    output: Output = Format.TABLE,
) -> None:
    """Say everything that stands against a move, and what to do about it. The VM is not touched."""
    app = app_of(context)
    options = MigrationOptions(
        map_storage=parse_map(map_storage, "--map-storage"),
        map_network=parse_map(map_network, "--map-network"),
        tls=tls,
    )
    with app.connections() as connections:
        judge, cluster = _judge(app, connections)
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


def _judge(app: App, connections: Connections) -> tuple[Judge, Any]:
    from mudanza.migration.prepare import Judge

    connections.open_all([entry.name for entry in app.inventory.hosts()])
    cluster = app.read_cluster(connections)
    return Judge(connections, app.inventory, app.jobs, cluster), cluster


@dataclass
class Outcome:
    """How one of the asked migrations ended."""

    vm: Vm
    report: MigrationReport | None = None
    error: MudanzaError | None = None


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
    parallel: Annotated[int, typer.Option(min=1, max=8, help="How many at once, of several.")] = 2,
    output: Output = Format.TABLE,
) -> None:
    """Move running VMs to another host without switching them off."""
    app = app_of(context)
    options = MigrationOptions(
        max_downtime=parse_duration(max_downtime),
        bandwidth=parse_rate(bandwidth) if bandwidth else None,
        deadline=parse_duration(deadline) if deadline else None,
        map_storage=parse_map(map_storage, "--map-storage"),
        map_network=parse_map(map_network, "--map-network"),
        keep_source=keep_source,
        tls=tls,
    )
    _refuse_nothing(options)
    with app.connections() as connections:
        judge, cluster = _judge(app, connections)
        chosen = choose_vms(cluster, vms, tag, bound_for=to)
        if to is not None:
            cluster.host(to)
        outcomes = Mover(app, connections, judge, options, output).move(chosen, to, parallel)
    _finish(outcomes, output)


def _refuse_nothing(options: MigrationOptions) -> None:
    """Raise UsageError for a limit that no migration could keep."""
    limits = {"--max-downtime": options.max_downtime, "--bandwidth": options.bandwidth, "--deadline": options.deadline}
    for option, limit in limits.items():
        if limit is not None and limit <= 0:
            raise UsageError(f"{option} must be more than nothing", remedy="leave it out for what is usual")


class Mover:
    """Moves several VMs, some at once, while one can watch and cancel."""

    def __init__(
        self, app: App, connections: Connections, judge: Judge, options: MigrationOptions, output: Format
    ) -> None:
        self._app = app
        self._connections = connections
        self._judge = judge
        self._options = options
        self._output = output
        self._stop = threading.Event()
        self._places = threading.Semaphore(1)

    def move(self, vms: Sequence[Vm], to: str | None, parallel: int) -> list[Outcome]:
        """Move them all; return how each one ended, in their order."""
        outcomes = [Outcome(vm) for vm in vms]
        self._places = threading.Semaphore(parallel)
        with view_for(self._output) as view, asking_at_ctrl_c(self._stop, view):
            threads = [
                threading.Thread(target=self._one, args=(outcome, to, view), name=outcome.vm.name, daemon=True)
                for outcome in outcomes
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(WAIT_STEP)
        return outcomes

    def _one(self, outcome: Outcome, to: str | None, view: View) -> None:
        at_once = self._places.acquire(blocking=False)
        if not at_once:
            self._places.acquire()
        try:
            if self._stop.is_set():
                outcome.error = _not_begun(outcome.vm)
            elif outcome.vm.host == to:
                self._nothing_to_do(outcome.vm)
            else:
                outcome.report = self._migrate(outcome.vm, to, view, fresh=at_once)
        except MudanzaError as error:
            outcome.error = error
        except Exception as error:  # a thread must end by saying what happened
            outcome.error = _unexpected(outcome.vm, error)
        finally:
            self._places.release()
            view.on_end(outcome.vm.name)

    def _migrate(self, vm: Vm, to: str | None, view: View, *, fresh: bool) -> MigrationReport:
        from mudanza.migration.live import Limits, LiveMigration

        view.on_progress(vm.name, f"{vm.host} → {to or '?'}", Progress("checking", 0.0))
        judge = self._judge
        if not fresh:  # the picture is from before others were moved
            judge, cluster = _judge(self._app, self._connections)
            vm = cluster.find(vm.uuid)
        prepared = judge.prepare(vm, to, self._options)
        way = f"{vm.host} → {prepared.chosen.target.name}"
        self._announce(prepared)
        limits = self._app.loaded.settings.limits
        mover = LiveMigration(
            self._connections,
            self._app.inventory,
            self._app.jobs,
            Limits(limits.no_progress, limits.settle),
            lambda progress: view.on_progress(vm.name, way, progress),
        )
        return mover.migrate(prepared, self._app.asked_by(), self._stop)

    def _nothing_to_do(self, vm: Vm) -> None:
        if self._output is Format.JSON:
            emit("unchanged", vm=vm.name, uuid=vm.uuid, host=vm.host)
        say(f"{vm.name} is on {vm.host} already: nothing to do")

    def _announce(self, prepared: Prepared) -> None:
        warnings = prepared.chosen.findings
        if self._output is Format.JSON:
            emit(
                "start",
                vm=prepared.vm.name,
                source=prepared.vm.host,
                target=prepared.chosen.target.name,
                why=prepared.why,
                findings=plain(warnings),
            )
            return
        if prepared.why:
            say(f"{prepared.vm.name}: {prepared.why}")
        for finding in warnings:
            say(f"! {finding.subject}: {finding.message} [{finding.code}]")


def _not_begun(vm: Vm) -> MudanzaError:
    return MigrationFailedError(
        f"VM {vm.name!r} was not moved: cancelled before its turn came",
        vm_state=f"it is on {vm.host} as before; nothing was touched",
    )


def _unexpected(vm: Vm, cause: Exception) -> MudanzaError:
    error = MudanzaError(
        f"VM {vm.name!r}: {type(cause).__name__}: {cause}",
        vm_state="nobody looked; a transfer that had begun goes on without us",
        remedy="see whether it has an unfinished job (mudanza jobs), and finish that: mudanza job resume ID",
    )
    error.__cause__ = cause
    return error


@contextmanager
def asking_at_ctrl_c(stop: threading.Event, view: View) -> Iterator[None]:
    """At Ctrl-C ask once whether to cancel; where nobody can answer, or at a second one, cancel."""

    def cancel() -> None:
        say("cancelling: the VM stays where it is …")
        stop.set()

    asking, over = threading.Event(), threading.Event()

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        if asking.is_set() or not (sys.stdin.isatty() and sys.stderr.isatty()):
            on_order(_signal, _frame)
            return
        if not stop.is_set():
            asking.set()
            threading.Thread(target=ask, daemon=True).start()

    def on_order(_signal: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            cancel()

    def ask() -> None:
        view.__exit__()
        say("\nThe migration goes on meanwhile. Cancel it? [y/N] (or Ctrl-C once more)")
        yes = sys.stdin.readline().strip().lower() in ("y", "yes")
        if over.is_set() or stop.is_set():
            return
        if yes:
            cancel()
            return
        say("it goes on")
        view.__enter__()
        asking.clear()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, on_interrupt)
    signal.signal(signal.SIGTERM, on_order)
    try:
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(outcomes: Sequence[Outcome], output: Format) -> None:
    """Print what became of each, and leave with the exit code that says it."""
    from mudanza.cli.main import show_error

    for outcome in outcomes:
        if outcome.report is not None:
            print_report(outcome.report, output)
        elif outcome.error is not None:
            if output is Format.JSON:
                emit("error", vm=outcome.vm.name, **error_fields(outcome.error))
            show_error(outcome.error)
    codes = [outcome.error.exit_code if outcome.error else 0 for outcome in outcomes]
    if any(codes) and not all(codes):
        raise typer.Exit(PARTLY)
    raise typer.Exit(max(codes))


def error_fields(error: MudanzaError) -> dict[str, Any]:
    """Return what a script may want to know of an error."""
    findings = error.findings if isinstance(error, BlockedError) else ()
    return {
        "message": str(error),
        "remedy": error.remedy,
        "vm_state": error.vm_state,
        "exit_code": error.exit_code,
        "findings": plain(findings),
    }


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
