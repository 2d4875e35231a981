"""``mudanza fence …``: what switches hosts' power, and the proof that a host is off."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.options import Output, parse_map
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.fencing import Device, DeviceTest, Fencing, Match, Power
from mudanza.model.machine import Verdict
from mudanza.model.units import format_duration

fence_app = typer.Typer(no_args_is_help=True, help="Have hosts switched off, and prove it.")

Host = Annotated[str, typer.Argument(metavar="HOST", help="Its name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DeviceName = Annotated[str, typer.Argument(metavar="DEVICE", help="The name you give it: bmc, psu-1 …")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(fence_app, name="fence")


@fence_app.command("set")
@audited
def set_(
    context: typer.Context,
    host: Host,
    device: DeviceName,
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="The fence agent: fence_ipmilan …")],
    level: Annotated[int, typer.Option(min=1, help="Lower levels first; in one, every device must prove off.")] = 1,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="A=B", help="What the agent is told; may be repeated.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="A=FILE", help="What it is told out of a file of fencing.secrets."),
    ] = None,
    unmatched: Annotated[
        bool, typer.Option("--unmatched", help="You have seen that it switches this host, where nothing can tell that.")
    ] = False,
) -> None:
    """Name something that switches a host's power. Nothing is switched.

    The machine behind it is compared with the host, by UUID or serial number: what switches another one is not taken,
    and what cannot tell (a power strip) only with --unmatched, which is written down. `--agent redfish` speaks to a BMC
    by Redfish itself.
    """
    told = Device(device, agent, level, parse_map(option, "--option"), parse_map(secret, "--secret"))
    say(app_of(context).asked.put_fence(host, told, unmatched=unmatched))


@fence_app.command("unset")
@audited
def unset(context: typer.Context, host: Host, device: DeviceName) -> None:
    """Forget something that switches a host's power."""
    say(app_of(context).asked.drop_fence(host, device))


@fence_app.command("show")
def show(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List what switches which host's power, and which hosts are proven off."""
    rows = [
        _row(each.host, device, each.last, each.test_of(device), each.match_of(device))
        for each in app_of(context).asked.fences()
        for device in each.devices or (None,)
    ]
    columns = ("host", "device", "level", "agent", "options", "machine", "tested", "proven off", "last")
    print_rows(rows, output, columns=columns, empty="no host is known")


def _row(
    host: str, device: Device | None, last: Fencing | None, test: DeviceTest | None, match: Match | None
) -> dict[str, Any]:
    options = [f"{key}={value}" for key, value in device.options.items()] if device else []
    secrets = [f"{key} from {name}" for key, name in device.secrets.items()] if device else []
    return {
        "host": host,
        "device": device.name if device else "",
        "level": device.level if device else "",
        "agent": device.agent if device else "",
        "options": [*options, *secrets],
        "machine": match.in_words if match is not None else "never compared" if device else "",
        "tested": f"{test.fault or 'answers'}, {format_duration(test.ago)} ago" if test is not None else "",
        "proven off": last is not None and last.holds,
        "last": _in_words(last) if last is not None else "",
    }


def _in_words(last: Fencing) -> str:
    """Return in words how the last time went that a host was to be proven off."""
    when = datetime.fromtimestamp(last.at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if last.ended_at is None:
        return f"{when}: under way, or its controller died over it: {last.said}"
    void = f"; proves nothing any more: {last.void_because}" if last.void_at is not None else ""
    return f"{when}: {'off' if last.proven else 'not proven'}: {last.said}{void}"


@fence_app.command("test")
@audited
def ask(context: typer.Context, host: Host, output: Output = Format.TABLE) -> None:
    """Ask everything that switches a host's power whether it is on, and compare the machine behind it with the host.
    Nothing is switched.

    Exit code 3 where one of them does not say whether it is on, or switches another machine.
    """
    found = app_of(context).asked.ask_fences(host, say)
    rows = [
        {
            "device": each.device.name,
            "agent": each.device.agent,
            "power": str(each.power),
            "machine": each.match.in_words if each.match is not None else "never compared",
            "said": each.said,
        }
        for each in found
    ]
    print_rows(rows, output, columns=("device", "agent", "power", "machine", "said"))
    others = [each for each in found if each.match is not None and each.match.verdict is Verdict.OTHER]
    if others:
        named = "; ".join(f"{each.device.shown}: {each.match.said}" for each in others if each.match is not None)
        raise BlockedError(
            f"another machine than {host} is switched by {named}",
            remedy=f"look which one it is, and name the right one: mudanza fence set {host} …",
        )
    silent = [each.device.shown for each in found if each.power is Power.UNKNOWN]
    if silent:
        raise BlockedError(
            f"{', '.join(silent)} of {host} did not say whether the power is on: by that nothing can be proven",
            remedy=f"see what was said, and mend its options: mudanza fence set {host} …",
        )


@fence_app.command("off")
@audited
def off(
    context: typer.Context,
    host: Host,
    force: Annotated[bool, typer.Option("--force", help="Even if it answers: its VMs are cut off.")] = False,
    yes: Yes = False,
) -> None:
    """Switch a host off by its fence devices, and prove it. Its VMs die with it; nothing is started elsewhere.

    Levels are tried in their order; within one, every device must have switched it off and then say that it is off.
    Exit codes: 0 it is proven off, 3 it answers, 5 it is not proven: a person must look.
    """
    from mudanza.operations.fencing import refuse_answering

    asked = app_of(context).asked
    if not force:
        refuse_answering(host, answers=asked.answers(host))
    confirmed(f"{host} is switched off, and whatever runs on it with it. Do that?", yes=yes)
    _tell_proven(asked.fence_off(host, say, force=force))


@fence_app.command("confirm")
@audited
def confirm(context: typer.Context, host: Host, yes: Yes = False) -> None:
    """Give your word that a host is off, where no device can prove it. It is written down who said so.

    Its VMs may be started elsewhere then: if it runs after all, two copies of them write into one disk.
    """
    confirmed(f"Have you seen yourself that {host} is off, and will it stay off?", yes=yes)
    _tell_proven(app_of(context).asked.confirm_off(host, say))


def _tell_proven(proof: Fencing) -> None:
    say(f"{proof.host} is proven off: {proof.said}")
    say(f"  where its VMs may run now: mudanza plan evacuate {proof.host} --save FILE; then: mudanza apply FILE")


def confirmed(question: str, *, yes: bool) -> None:
    """Have a person say yes. Raises UsageError where there is none to be asked, BlockedError for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked whether to do that", remedy="say so beforehand: --yes")
    if not typer.confirm(question, err=True):
        raise BlockedError("nothing was done")
