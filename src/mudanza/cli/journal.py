"""``mudanza journal …``: keeping the journal itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.output import say
from mudanza.model.errors import UsageError
from mudanza.model.units import format_duration, parse_duration

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="A journal in one file.")]

journal_app = typer.Typer(no_args_is_help=True, help="Back the journal up, bring it back, and forget what is old.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(journal_app, name="journal")


@journal_app.command("backup")
def backup(context: typer.Context, file: BackupFile) -> None:
    """Write all of the journal into a new file, while others may go on working.

    The same kind of file whatever the database is; it holds no passwords, and can be restored into either kind.
    """
    from mudanza.journal.backup import back_up

    found = back_up(app_of(context).database, file)
    say(f"{file}: {found.hosts} hosts and {found.jobs} jobs, {len(found.unfinished)} of them unfinished")


@journal_app.command("restore")
@audited
def restore(
    context: typer.Context,
    file: BackupFile,
    force: Annotated[bool, typer.Option("--force", help="Replace the hosts and jobs that are there.")] = False,
) -> None:
    """Fill the journal from a backup. One that is not empty is left alone unless told otherwise."""
    from mudanza.journal.backup import restore as restore_from

    found = restore_from(app_of(context).database, file, force=force)
    say(f"restored {found.hosts} hosts and {found.jobs} jobs from {file}")
    for number in found.unfinished:
        say(
            f"! job {number} was unfinished then and may have gone on since: mudanza job resume {number} "
            "asks both hosts before it does anything"
        )
    say("what was begun after the backup is not in it; see where the VMs are: mudanza vms")


@journal_app.command("forget")
@audited
def forget(
    context: typer.Context,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Else history.keep of the settings.")
    ] = None,
) -> None:
    """Remove jobs that ended long ago. Unfinished ones stay, those that left something, and the audit."""
    from mudanza.journal.plans import Plans

    app = app_of(context)
    keep = parse_duration(older_than) if older_than else app.loaded.settings.history.keep
    if not keep:
        raise UsageError("history.keep is 0: everything is kept", remedy="say how much: --older-than 90d")
    Plans(app.database).forget(keep)
    gone = app.jobs.forget(keep)
    say(f"{gone} jobs that ended more than {format_duration(keep)} ago were removed")
