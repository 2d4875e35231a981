"""``mudanza notify …``: what others are told of by webhooks, and whether it arrives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.notice import Delivery, DeliveryState, Kind, Webhook
from mudanza.model.units import format_duration

MOST_SHOWN = 100

notify_app = typer.Typer(no_args_is_help=True, help="Tell others of what happens, by webhooks of the settings.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(notify_app, name="notify")


@notify_app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[
        DeliveryState | None, typer.Option("--state", help="Only these; dead: those that were given up.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="How many at the most.")] = MOST_SHOWN,
    output: Output = Format.TABLE,
) -> None:
    """List what webhooks were told of in the last week, or are still to be; the newest first."""
    from mudanza.journal.outbox import Outbox

    found = Outbox(app_of(context).database).latest(limit, state)
    columns = ("id", "at", "webhook", "event", "subject", "state", "tries", "next", "answer")
    print_rows(list(map(_row, found)), output, columns=columns, data=found, empty="nobody was to be told of anything")


def _row(each: Delivery) -> dict[str, Any]:
    waits = each.state is DeliveryState.WAITING
    return {
        "id": each.id,
        "at": datetime.fromtimestamp(each.happening.at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "webhook": each.webhook,
        "event": each.happening.kind,
        "subject": each.happening.subject,
        "state": each.state.value,
        "tries": each.tries,
        "next": ("now" if each.due_in <= 0 else f"in {format_duration(each.due_in)}") if waits else "",
        "answer": each.answer,
    }


@notify_app.command("test")
@audited
def try_(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[WEBHOOK]", help="Which one; else all there are.")] = None,
) -> None:
    """Send webhooks a message now, signed as any other, and say what they answer; exit code 3 if one takes it not."""
    from mudanza.journal.outbox import Outbox
    from mudanza.service.notifying import send

    app = app_of(context)
    outbox, failed = Outbox(app.database), []
    for webhook in _chosen(app, name):
        number = outbox.write_down(Kind.TEST, webhook.name, "this is a test", {"asked_by": app.asked_by()})
        delivery = outbox.give(number, webhook.name)
        found = next(each for each in outbox.latest(MOST_SHOWN) if each.id == delivery)
        taken, answer = send(webhook, found)
        outbox.ended(delivery, DeliveryState.DELIVERED if taken else DeliveryState.DEAD, answer)
        say(f"{webhook.name}: {'taken' if taken else 'NOT taken'} ({answer})")
        failed += [] if taken else [webhook.name]
    if failed:
        raise BlockedError(
            f"not taken by {', '.join(failed)}", remedy="look at notify.webhooks of the settings, and at the receiver"
        )


def _chosen(app: App, name: str | None) -> tuple[Webhook, ...]:
    known = app.loaded.settings.notify.known()
    if name is None and known:
        return known
    found = tuple(webhook for webhook in known if webhook.name == name)
    if not found:
        what = f"no webhook {name!r}" if name else "no webhook"
        raise UsageError(f"there is {what} in the settings", remedy="see [notify] in docs/settings.md")
    return found


@notify_app.command("retry")
@audited
def retry(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Its number: mudanza notify list --state dead.")],
) -> None:
    """Have the daemon tell a webhook once more what was given up."""
    from mudanza.journal.outbox import Outbox

    found = Outbox(app_of(context).database).again(number)
    say(f"the webhook {found.webhook} will be told of it again: {found.happening.said}")
