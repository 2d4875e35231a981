"""``mudanza rule …``: the rules of places, one by one."""

from __future__ import annotations

from typing import Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.rules import Rule, RuleKind, rules_as_data

Name = Annotated[str, typer.Argument(metavar="NAME", help="The rule's name.")]

rule_app = typer.Typer(no_args_is_help=True, help="See, add and remove rules of which VM may be where.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(rule_app, name="rule")


@rule_app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List the rules that plans go by; all settings of planning: `mudanza export`."""
    rules = app_of(context).asked.rules()
    rows = [
        {
            "name": each.name,
            "kind": each.kind.value,
            "vms": each.vms,
            "others": each.others,
            "hosts": each.hosts,
            "across": each.across if each.across != "host" else "",
        }
        for each in rules.rules
    ]
    data = rules_as_data(rules).get("rules", [])
    columns = ("name", "kind", "vms", "others", "hosts", "across")
    print_rows(rows, output, columns=columns, data=data, empty="there is no rule; add one: mudanza rule add --help")


@rule_app.command("add")
@audited
def add(
    context: typer.Context,
    name: Name,
    kind: Annotated[RuleKind, typer.Argument(metavar="KIND", help="What it asks for, see the planning guide.")],
    vm: Annotated[
        list[str] | None, typer.Option("--vm", metavar="VM", help="A name, a UUID or tag:TAG; may be repeated.")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--other", metavar="VM", help="The other group, for groups-apart; repeatable."),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="A name, tag:TAG or zone:ZONE, for rules about hosts; repeatable."),
    ] = None,
    across: Annotated[str, typer.Option(metavar="host|zone", help="zone: apart means in different zones.")] = "host",
) -> None:
    """Add a rule. Nothing is moved by it: `mudanza plan repair` says what would mend what it finds broken."""
    rule = Rule(name, kind, tuple(vm or ()), tuple(other or ()), tuple(host or ()), across)
    say(app_of(context).asked.add_rule(rule))


@rule_app.command("remove")
@audited
def remove(context: typer.Context, name: Name) -> None:
    """Take a rule away. Nothing is moved."""
    say(app_of(context).asked.remove_rule(name))
