"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from mudanza.cli.output import Format
from mudanza.model.errors import UsageError

Output = Annotated[Format, typer.Option("-o", "--output", metavar="table|json|yaml|name", help="How to print.")]
VmName = Annotated[str, typer.Argument(metavar="VM", help="Its name or UUID (after `--` if it begins with a dash).")]
VmNames = Annotated[
    list[str] | None, typer.Argument(metavar="VM", help="Names or UUIDs (after `--` if one begins with a dash).")
]
Tag = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Every VM with this tag; may be repeated.")]


def parse_map(pairs: Iterable[str] | None, option: str) -> dict[str, str]:
    """Read ``A=B`` options. Raises UsageError for what is not of that form, or names A twice."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        before, equals, after = pair.partition("=")
        if not (before and equals and after):
            raise UsageError(f"{option} {pair!r} is not of the form A=B", remedy=f"write: {option} default=fast")
        if before in found:
            raise UsageError(f"{option} names {before!r} twice")
        found[before] = after
    return found
