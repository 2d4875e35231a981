"""``mudanza wish``: what a VM wishes of its own moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import leave_of_each
from mudanza.cli.options import Output, Tag, VmNames
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import UsageError
from mudanza.model.wishes import NAMES
from mudanza.operations.choosing import choose_vms
from mudanza.operations.wishing import Changes, refuse_impossible


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("wish")(wish)


def wish(
    context: typer.Context,
    vms: VmNames = None,
    tag: Tag = None,
    policy: Annotated[
        str | None, typer.Option(metavar="auto|gentle|deadline|now", help="How it gets across while it is busy.")
    ] = None,
    max_downtime: Annotated[
        str | None, typer.Option(metavar="TIME", help="The most its switchover may take, such as 500ms.")
    ] = None,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="How long a move of it may take.")] = None,
    post_copy: Annotated[
        str | None, typer.Option(metavar="allow|never|now", help="Whether it may run without all of its memory.")
    ] = None,
    hook: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A hook of the controller's settings, run around its moves; may be repeated."
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(metavar="auto|manual|advise|never", help="How far `mudanza balance` goes with it by itself."),
    ] = None,
    balance_window: Annotated[
        list[str] | None,
        typer.Option(metavar="FROM-TO", help="It is moved for balance only then, each day; may be repeated."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all wishes back.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show or set what VMs wish of their own moves: it is kept in their metadata, and travels with them.

    What is named on the command line of a move counts for more. An empty value ("") takes a wish back.
    """
    given = {"policy": policy, "max-downtime": max_downtime, "deadline": deadline, "post-copy": post_copy}
    given["balance"] = balance
    given["hooks"] = " ".join(hook).strip() if hook is not None else None
    given["balance-window"] = " ".join(balance_window).strip() if balance_window is not None else None
    changes = {name: text for name, text in given.items() if text is not None}
    if clear and any(changes.values()):
        raise UsageError("--clear takes all wishes back, and others are given", remedy="do one after the other")
    refuse_impossible(changes)
    if clear or changes:
        _set(context=context, vms=vms, tag=tag, changes=changes, clear=clear)
    else:
        _show(app_of(context), vms, tag, output)


def _show(app: App, names: Sequence[str] | None, tags: Sequence[str] | None, output: Format) -> None:
    cluster = app.picture()
    everyone = sorted(cluster.vms, key=lambda vm: (vm.name, vm.uuid, vm.host))
    chosen = choose_vms(cluster, names, tags) if names or tags else everyone
    rows = [{"name": vm.name, **dict(vm.wishes.said if vm.wishes else {})} for vm in chosen]
    data = [{"name": vm.name, "uuid": vm.uuid, "host": vm.host, "wishes": vm.wishes} for vm in chosen]
    print_rows(rows, output, columns=("name", *NAMES), data=data)
    for vm in chosen:
        for name, fault in (vm.wishes.faults if vm.wishes else {}).items():
            say(f"! {vm.name}: its wish {name!r} cannot be heeded: {fault}")


@audited
def _set(
    context: typer.Context,
    vms: Sequence[str] | None,
    tag: Sequence[str] | None,
    changes: Changes,
    clear: bool,
) -> None:
    asked = app_of(context).asked
    chosen, errors = asked.wish(
        lambda cluster: choose_vms(cluster, vms, tag), {} if clear else changes, say, keep=not clear
    )
    leave_of_each(chosen, errors)
