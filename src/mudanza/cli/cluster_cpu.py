"""``mudanza cluster cpu``: the CPU that all hosts can give, and giving it to VMs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.options import Output, Tag, VmNames
from mudanza.cli.output import Format, console, print_data, print_rows, say
from mudanza.model.errors import UsageError
from mudanza.model.telling import error_from_data
from mudanza.operations.cpus import CpuWish
from mudanza.preflight.wording import listed

if TYPE_CHECKING:
    from mudanza.model.cpu import Baseline
    from mudanza.operations.cpus import Changed, VmCpu

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
    wish = CpuWish(tuple(vms or ()), tuple(tag or ()), everyone, undo=not set_it)
    wish.refuse_contradictory()
    if set_it or undo:
        _change(context=context, wish=wish)
    else:
        _show(app_of(context), vms, tag, output)


def _show(app: App, names: Sequence[str] | None, tags: Sequence[str] | None, output: Format) -> None:
    found = app.asked.cpus(names, tags)
    rows = [_vm_row(vm) for vm in found.vms if names or tags or vm.is_of_note]
    if output in (Format.JSON, Format.YAML):
        data = {"baselines": found.baselines, "kept": found.kept, "unknown": found.unknown}
        print_data(data | {"vms": [_vm_row(vm) for vm in found.vms]}, output)
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


def _vm_row(vm: VmCpu) -> dict[str, Any]:
    return {
        "name": vm.name,
        "uuid": vm.uuid,
        "host": vm.host,
        "cpu": vm.mode or "the hypervisor's default",
        "next start": vm.following or "as it is",
        "kept from": [f"{host}: {why}" for host, why in vm.kept_from] or "nowhere",
    }


@audited
def _change(*, context: typer.Context, wish: CpuWish) -> None:
    done = app_of(context).asked.change_cpus(wish, say, _tell)
    if not done:
        say("no VM's CPU keeps it from a host, or is tied to the host it is on: nothing to do")
        return
    raise typer.Exit(of_several([int(each.error["exit_code"]) if each.error else 0 for each in done]))


def _tell(changed: Changed) -> None:
    if changed.error is None:
        say(changed.said)
    else:
        show_error(error_from_data(changed.error))
