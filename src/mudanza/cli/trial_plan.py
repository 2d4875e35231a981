"""``mudanza test-failover plan``: do all VMs of a plan come up? Tried with doubles that see each other only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import MigrationFailedError, MudanzaError
from mudanza.model.units import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudanza import clock
    from mudanza.model.recovery import Group, RecoveryPlan, Turn
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

    As many start side by side as in a failover (recovery.at_once of the settings, at_once of the plan); groups that
    come after one that did not come up are not tried. They hang on isolated networks (test_networks of the plan), where
    they see each other and nobody else, or on nothing. Of each its guest agent is waited for (--until-agent 0s: of
    none). The plan's scripts, questions and other waits are left out, for they are about the real VMs. In the end all
    are taken away, and what there was before is compared with what there is then; Ctrl-C ends the waiting.
    """
    from mudanza.cli.trial import ended_by_hand, refuse_different
    from mudanza.operations.recovery_file import read_plan

    app, patience, rest = app_of(context), parse_duration(until_agent), parse_duration(lasting)
    kept = app.asked.recovery_plan(name)
    plan = read_plan(kept.name, kept.text)
    with ended_by_hand() as over:
        trying = _Trying(app, plan, patience, over)
        try:
            trying.all_groups()
            over.wait(rest)
        finally:
            ended = [_end(app, each) for each in trying.in_order()[::-1]]
    reports = [each for each in ended[::-1] if each is not None]
    trying.refuse_none()
    _print(name, reports, output)
    if len(reports) < len(trying.up):
        raise MigrationFailedError("not all doubles were taken away", remedy="see which: mudanza protections")
    for each in reports:
        refuse_different(each)
    trying.refuse_failed()
    silent = [each.vm for each in reports if each.answered is None]
    if silent and patience:
        raise MigrationFailedError(
            f"the agents of these did not answer within {format_duration(patience)}: {', '.join(silent)}",
            vm_state="production and replicas are as before; everything of the test is removed",
            remedy="look at one while it runs: mudanza test-failover VM, then mudanza console",
        )


@dataclass
class _Trying:
    """Has the doubles of a plan's VMs start, group by group."""

    app: App
    plan: RecoveryPlan
    patience: float
    over: clock.Event
    up: dict[str, Report] = field(default_factory=dict)
    """By VM, as the plan names it."""
    failed: dict[str, MudanzaError] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """Groups that were not tried, for they come after one in which a double failed."""

    def all_groups(self) -> None:
        hosts = {
            name: each.protection.target
            for each in self.app.asked.protections()
            for name in (each.protection.vm_uuid, each.protection.vm_name)
        }
        not_through: set[str] = set()
        for group in self.plan.groups:
            if not_through.intersection(group.after):
                self.left.append(group.name)
                not_through.add(group.name)
            elif failed := self._group(group, hosts):
                self.failed |= failed
                not_through.add(group.name)

    def _group(self, group: Group, hosts: dict[str, str]) -> dict[str, MudanzaError]:
        from mudanza.model.recovery import Room, Turn
        from mudanza.protection.side_by_side import take_turns

        settings = self.app.loaded.settings.recovery
        room = self.plan.room_of(group, Room(settings.at_once, settings.at_once_per_host))
        turns = [Turn(vm, self.plan.host_of(vm) or hosts.get(vm, "")) for vm in group.vms]
        outcomes = take_turns(turns, room, lambda turn: self._one(group, turn))
        return {turn.vm: each for turn, each in zip(turns, outcomes, strict=True) if isinstance(each, MudanzaError)}

    def _one(self, group: Group, turn: Turn) -> None:
        networks = self.plan.test_networks_of(turn.vm, group)
        report = self.up[turn.vm] = self.app.asked.begin_trial(
            turn.vm, None, say, digests=False, networks=networks, on=self.plan.host_of(turn.vm) or None
        )
        say(f"{report.double} runs on {report.host} from restore point {report.point}; network: {report.network}")
        waiting = self.patience and not self.over.is_set()
        if waiting and not self.app.asked.await_agent(report.uuid, self.patience, self.over, report.host):
            say(f"! the agent of {report.double} did not answer")

    def in_order(self) -> Sequence[Report]:
        """Return what is up, in the plan's order."""
        return [self.up[vm] for vm in self.plan.vms if vm in self.up]

    def refuse_none(self) -> None:
        """Raise what the first one raised, where none came up: nothing was tried."""
        if self.failed and not self.up:
            raise next(iter(self.failed.values()))

    def refuse_failed(self) -> None:
        """Raise MigrationFailedError where some came up, and others did not."""
        if not self.failed:
            return
        told = "; ".join(f"{vm}: {error}" for vm, error in self.failed.items())
        told += f"; not tried, for they come after that: {', '.join(self.left)}" if self.left else ""
        remedies = dict.fromkeys(error.remedy for error in self.failed.values() if error.remedy)
        raise MigrationFailedError(
            f"not all doubles came up: {told}",
            vm_state="production and replicas are as before; everything of the test is removed",
            remedy="; ".join(remedies),
        )


def _end(app: App, report: Report) -> Report | None:
    try:
        return app.asked.end_trial(report.uuid, say, report.host)
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
