"""``mudanza cluster cpu``: the CPU that all hosts can give, and giving it to VMs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.options import Output, Tag, VmNames
from mudanza.cli.output import Format, console, print_data, print_rows, say
from mudanza.model.errors import BlockedError, MudanzaError, UsageError
from mudanza.operations.choosing import choose_vms
from mudanza.preflight.wording import listed

if TYPE_CHECKING:
    from mudanza.migration.cpu_change import CpuChange
    from mudanza.model.cluster import Cluster
    from mudanza.model.cpu import Baseline, CpuSurvey
    from mudanza.model.vm import Vm

TIED = ("host-model", "host-passthrough", "maximum")
"""CPU modes of guests that get what their host has, and are kept from those that have less."""

cluster_app = typer.Typer(no_args_is_help=True, help="What the hosts have in common.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(cluster_app, name="cluster")


@cluster_app.command("cpu")
def cpu(
    context: typer.Context,
    vms: VmNames = None,
    tag: Tag = None,
    set_it: Annotated[
        bool, typer.Option("--set", help="Have these VMs start with the baseline from their next start on.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Have them start with the CPU they had before that.")] = False,
    everyone: Annotated[
        bool,
        typer.Option("--all", help="With --set: every VM whose CPU is tied to its host or keeps it from another one."),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show the best CPU that every host can give to its guests (the baseline), what each host would lose by it, and
    which VMs their CPUs keep from which hosts. --set gives it to VMs, in their definitions only: what runs is not
    touched, and --undo puts the old one back."""
    if set_it and undo:
        raise UsageError("--set and --undo are each other's opposite", remedy="do one after the other")
    if everyone and (not set_it or vms or tag):
        raise UsageError("--all goes with --set, and names the VMs by itself", remedy="see: mudanza cluster cpu --help")
    if set_it or undo:
        _change(context=context, names=vms, tags=tag, everyone=everyone, undo=undo)
    else:
        _show(app_of(context), vms, tag, output)


def _show(app: App, names: Sequence[str] | None, tags: Sequence[str] | None, output: Format) -> None:
    from mudanza.hypervisor.probing.baseline import survey

    with app.connections() as connections:
        cluster = app.read_cluster(connections)
        chosen = choose_vms(cluster, names, tags) if names or tags else cluster.vms
        found = survey(connections, cluster)
    rows = [row for vm in chosen if (row := _vm_row(vm, found, always=bool(names or tags)))]
    if output in (Format.JSON, Format.YAML):
        data = {"baselines": found.baselines, "kept": found.kept, "unknown": found.unknown}
        print_data(data | {"vms": [_vm_row(vm, found, always=True) for vm in chosen]}, output)
        return
    if output is Format.NAME:
        print_rows(rows, output, columns=("name",))
        return
    text = console()
    for each in found.baselines:
        text.print(_sentence(each), soft_wrap=True)
    hosts = [row for each in found.baselines for row in _host_rows(each)]
    print_rows(hosts, Format.TABLE, columns=("host", "guests", "baseline", "loses"), empty="no host told of its CPU")
    text.print()
    if rows:
        print_rows(rows, Format.TABLE, columns=("name", "host", "cpu", "next start", "kept from"))
    else:
        text.print("no VM's CPU keeps it from a host, or is tied to the host it is on")
    for line in found.unknown:
        text.print(f"! {line}", soft_wrap=True)


def _sentence(each: Baseline) -> str:
    made = f" by {each.vendor}" if each.vendor else ""
    return f"{each.model}{made} with {len(each.features)} features is the best that all can give to {each.kind} guests"


def _host_rows(each: Baseline) -> Iterator[dict[str, Any]]:
    for host, lost in each.lost.items():
        loses = f"{len(lost)}: {listed(lost)}" if lost else "nothing"
        yield {"host": host, "guests": each.kind, "baseline": each.model, "loses": loses}
    for host, why in each.refused.items():
        yield {"host": host, "guests": each.kind, "baseline": f"cannot give {each.model}", "loses": why}


def _vm_row(vm: Vm, found: CpuSurvey, *, always: bool) -> dict[str, Any] | None:
    kept = [each for each in found.kept if each.uuid == vm.uuid and each.on == vm.host]
    baseline = found.baseline_for(vm.arch, vm.domain_type, vm.host)
    following = _next_start(vm, baseline)
    if not (always or kept or vm.cpu_mode in TIED or following):
        return None
    return {
        "name": vm.name,
        "uuid": vm.uuid,
        "host": vm.host,
        "cpu": _words(vm),
        "next start": following or "as it is",
        "kept from": [f"{each.host}: {each.why}" for each in kept] or "nowhere",
    }


def _next_start(vm: Vm, baseline: Baseline | None) -> str:
    """Say what becomes of a VM's CPU; empty: nothing."""
    from mudanza.hypervisor.xml.cpus import keeps_former, same_cpu

    if vm.inactive_xml is None:
        return "transient: it has no next start"
    if baseline is not None and same_cpu(vm.inactive_xml, baseline.xml, vm.host):
        return f"{baseline.model}, the baseline"
    if keeps_former(vm.inactive_xml, vm.host):
        return "another one than the baseline is now; --set again"
    return ""


def _words(vm: Vm) -> str:
    return vm.cpu_mode or "the hypervisor's default"


@audited
def _change(
    context: typer.Context,
    names: Sequence[str] | None,
    tags: Sequence[str] | None,
    everyone: bool,
    undo: bool,
) -> None:
    from mudanza.hypervisor.probing.baseline import survey
    from mudanza.migration.cpu_change import CpuChange

    app = app_of(context)
    with app.connections() as connections:
        cluster = app.read_cluster(connections)
        changer = CpuChange(connections, app.jobs)
        if undo:
            chosen, act = choose_vms(cluster, names, tags), _undo(app, changer)
        else:
            found = survey(connections, cluster)
            for line in found.unknown:
                say(f"! {line}")
            chosen = _in_need(cluster, found) if everyone else choose_vms(cluster, names, tags)
            act = _set(app, changer, found)
        codes = [_one(vm, act) for vm in chosen]
    if not codes:
        say("no VM's CPU keeps it from a host, or is tied to the host it is on: nothing to do")
        return
    raise typer.Exit(of_several(codes))


def _in_need(cluster: Cluster, found: CpuSurvey) -> tuple[Vm, ...]:
    kept = {(each.uuid, each.on) for each in found.kept}
    return tuple(vm for vm in cluster.vms if vm.persistent and (vm.cpu_mode in TIED or (vm.uuid, vm.host) in kept))


def _set(app: App, changer: CpuChange, found: CpuSurvey) -> Callable[[Vm], str]:
    def act(vm: Vm) -> str:
        baseline = found.baseline_for(vm.arch, vm.domain_type, vm.host)
        if baseline is None:
            raise BlockedError(
                f"VM {vm.name!r} gets no other CPU: {vm.host} has none in common with others for guests like it",
                remedy="see why: mudanza cluster cpu",
            )
        return changer.set(vm, baseline.xml, baseline.model, app.asked_by())

    return act


def _undo(app: App, changer: CpuChange) -> Callable[[Vm], str]:
    return lambda vm: changer.undo(vm, app.asked_by())


def _one(vm: Vm, act: Callable[[Vm], str]) -> int:
    try:
        say(act(vm))
    except MudanzaError as error:
        show_error(error)
        return error.exit_code
    return 0
