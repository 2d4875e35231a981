"""``mudanza test-failover plan``: do all VMs of a plan come up? Tried with doubles that see each other only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import MigrationFailedError, MudanzaError
from mudanza.model.units import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudanza import clock
    from mudanza.protection.trial import Report


@audited
def try_plan(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plan's name.")],
    until_agent: Annotated[
        str, typer.Option("--until-agent", metavar="TIME", help="Wait for each guest agent, so long at the most.")
    ] = "5m",
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="Leave them up so long once all are.")] = "0s",
    output: Output = Format.TABLE,
) -> None:
    """Try whether all VMs of a plan come up: doubles of them start in its order, on the networks that it has for tests.

    They hang on isolated networks (test_networks of the plan), where they see each other and nobody else, or on
    nothing. Of each its guest agent is waited for (--until-agent 0s: of none). The plan's scripts, questions and other
    waits are left out, for they are about the real VMs. In the end all are taken away, and what there was before is
    compared with what there is then; Ctrl-C ends the waiting.
    """
    from mudanza.cli.trial import ended_by_hand, refuse_different
    from mudanza.operations.recovery_file import read_plan

    app, patience, rest = app_of(context), parse_duration(until_agent), parse_duration(lasting)
    kept = app.asked.recovery_plan(name)
    plan = read_plan(kept.name, kept.text)
    up: list[Report] = []
    with ended_by_hand() as over:
        try:
            for group in plan.groups:
                for vm in group.vms:
                    up.append(_begin(app, vm, plan.test_networks_of(vm, group)))
                    _await(app, up[-1], patience, over)
            over.wait(rest)
        finally:
            ended = [_end(app, each) for each in up[::-1]]
    reports = [each for each in ended[::-1] if each is not None]
    _print(name, reports, output)
    if len(reports) < len(up):
        raise MigrationFailedError("not all doubles were taken away", remedy="see which: mudanza protections")
    for each in reports:
        refuse_different(each)
    silent = [each.vm for each in reports if each.answered is None]
    if silent and patience:
        raise MigrationFailedError(
            f"the agents of these did not answer within {format_duration(patience)}: {', '.join(silent)}",
            vm_state="production and replicas are as before; everything of the test is removed",
            remedy="look at one while it runs: mudanza test-failover VM, then mudanza console",
        )


def _begin(app: App, vm: str, networks: Mapping[str, str]) -> Report:
    report = app.asked.begin_trial(vm, None, say, digests=False, networks=networks)
    say(f"{report.double} runs on {report.host} from restore point {report.point}; network: {report.network}")
    return report


def _await(app: App, report: Report, patience: float, over: clock.Event) -> None:
    if patience and not over.is_set() and not app.asked.await_agent(report.uuid, patience, over):
        say(f"! the agent of {report.double} did not answer")


def _end(app: App, report: Report) -> Report | None:
    try:
        return app.asked.end_trial(report.uuid, say)
    except MudanzaError as error:
        say(f"! {error}")
        return None


def _print(name: str, reports: list[Report], output: Format) -> None:
    rows = [
        {
            "name": each.vm,
            "host": each.host,
            "point": each.point,
            "started": None if each.started is None else format_duration(each.started),
            "agent": "" if each.answered is None else format_duration(each.answered),
            "as_before": not each.different,
            "network": each.network,
            "started_seconds": each.started,
            "answered_seconds": each.answered,
        }
        for each in reports
    ]
    columns = ("name", "host", "point", "started", "agent", "as_before")
    print_rows(rows, output, columns=columns, data={"plan": name, "vms": rows})
