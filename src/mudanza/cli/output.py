"""Rendering: the same rows as a table for people, or as JSON, YAML or bare names for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from mudanza.model.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]


class Format(StrEnum):
    """The value of ``-o``."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def print_data(value: Any, output: Format) -> None:
    """Print one value as JSON or YAML."""
    if output is Format.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True))
    else:
        sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def print_rows(
    rows: Sequence[Row], output: Format, *, columns: Sequence[str], data: Any = None, empty: str = ""
) -> None:
    """Print rows in the wanted form.

    ``columns`` are the keys shown in the table, the first one being the name; ``data`` is what JSON and YAML show
    where that is more than the rows; ``empty`` is what a person reads when there is nothing.
    """
    if output in (Format.JSON, Format.YAML):
        print_data(rows if data is None else data, output)
    elif output is Format.NAME:
        for row in rows:
            sys.stdout.write(f"{row[columns[0]]}\n")
    elif not rows:
        sys.stderr.write(f"{empty}\n" if empty else "")
    else:
        _print_table(rows, columns)


def _print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        right = all(str(row.get(column, ""))[:1].isdigit() for row in rows)
        table.add_column(column.upper(), justify="right" if right else "left", overflow="fold")
    for row in rows:
        # Text, never markup: a VM may be called "[bold]".
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    console().print(table)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(entry) for entry in value) or "-"
    return str(value)


def console(*, stderr: bool = False) -> Console:
    """Return a console for people; wide enough when it is a file or a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 200
    return Console(stderr=stderr, highlight=False, width=width, emoji=False, markup=False)


def say(message: str) -> None:
    """Tell the person something on stderr, where it never mixes with data."""
    write_line(sys.stderr, message)


def write_line(stream: TextIO, text: str) -> None:
    """Write a line at once; where nobody reads any more, be silent from then on: a migration goes on all the same."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
