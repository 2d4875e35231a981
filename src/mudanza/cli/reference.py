"""The reference, made from the commands themselves: man pages, shell completions, and a page of the documentation.

``python -m mudanza.cli.reference man DIRECTORY | completions DIRECTORY | page``
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from mudanza import __version__
from mudanza.cli.exit_codes import MEANINGS

PROGRAM = "mudanza"
_WIDE = 1000
"""Letters in a line: nothing is broken."""
ENVIRONMENT: Mapping[str, str] = {
    "MUDANZA_CONFIG": "the settings file, where --config names none",
    "XDG_CONFIG_HOME": "where mudanza/mudanza.toml is looked for; else ~/.config",
    "XDG_STATE_HOME": "where mudanza/mudanza.db is, for users other than root; else ~/.local/state",
    "XDG_RUNTIME_DIR": "where the daemon answers, for users other than root",
}
FILES: Mapping[str, str] = {
    "/etc/mudanza/mudanza.toml": "the controller's settings",
    "/var/lib/mudanza/mudanza.db": "the cluster and the journal, of root",
    "/run/mudanza/mudanza.sock": "where the daemon answers, of root",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One command. Options and arguments: how it is written, and what it does."""

    name: str
    """All of its words: ``mudanza job show``."""
    usage: str
    summary: str
    """The first sentence of what it does."""
    text: tuple[str, ...]
    """What it does, in paragraphs."""
    arguments: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]
    parts: tuple[str, ...]
    """The names of the commands in it, where it is a group of some."""


def pages() -> Iterator[Page]:
    """Yield the program, and each of its commands after the group that it is in."""
    from mudanza.cli.main import app

    yield from _pages(typer.main.get_command(app), PROGRAM, None)


def _pages(command: Any, name: str, parent: typer.Context | None) -> Iterator[Page]:
    # ``Any``: some versions of Typer bring a Click of their own.
    context = typer.Context(command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=_WIDE)
    names = command.list_commands(context) if hasattr(command, "list_commands") else ()
    parts = {each: part for each in names if not (part := command.get_command(context, each)).hidden}
    yield _page(command, name, context, tuple(parts))
    for each, part in parts.items():
        yield from _pages(part, f"{name} {each}", context)


def _page(command: Any, name: str, context: typer.Context, parts: tuple[str, ...]) -> Page:
    paragraphs = tuple(" ".join(each.split()) for each in (command.help or "").split("\n\n") if each.strip())
    summary = re.split(r"(?<=[.:])\s", paragraphs[0])[0].rstrip(".:") if paragraphs else ""
    records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for each in command.get_params(context):
        record = each.get_help_record(context)
        if record is not None:
            records[each.param_type_name].append((record[0].replace(" / ", ", "), " ".join(record[1].split())))
    usage = " ".join(command.get_usage(context).removeprefix("Usage:").split())
    options = tuple(record for record in records["option"] if record[0] != "--help")
    return Page(name, usage, summary, paragraphs, tuple(records["argument"]), options, parts)


# Man pages.


def man_of(page: Page) -> str:
    """Return a page in roff's macros for manuals."""
    title = page.name.replace(" ", "-")
    body = [
        f'.TH "{_roff(title.upper())}" "1" "" "mudanza {__version__}" "User commands"',
        *_section("NAME", f"{_roff(title)} \\- {_roff(page.summary)}"),
        *_section("SYNOPSIS", f".B {_roff(page.usage)}"),
        *_section("DESCRIPTION", *_paragraphs(page.text)),
    ]
    for heading, records in (("ARGUMENTS", page.arguments), ("OPTIONS", page.options)):
        if records:
            body += _section(heading, *_list(dict(records)))
    if page.parts:
        parts = (f"{title}-{each}" for each in page.parts)
        body += _section("COMMANDS", *(f".TP\n.BR {_roff(each)} (1)" for each in parts))
    if page.name == PROGRAM:
        body += _section("EXIT STATUS", *_list({str(code): words for code, words in MEANINGS.items()}))
        body += _section("ENVIRONMENT", *_list(ENVIRONMENT))
        body += _section("FILES", *_list(FILES))
    else:
        body += _section("EXIT STATUS", f"See \\fB{PROGRAM}\\fR(1).")
    return "\n".join(body) + "\n"


def _section(heading: str, *lines: str) -> list[str]:
    return [f".SH {heading}", *lines]


def _paragraphs(text: tuple[str, ...]) -> Iterator[str]:
    for paragraph in text:
        yield ".PP"
        yield _roff(paragraph)


def _list(records: Mapping[str, str]) -> Iterator[str]:
    for term, words in records.items():
        yield f".TP\n.B {_roff(term)}\n{_roff(words) or '.'}"


def _roff(text: str) -> str:
    """Return text that roff takes as it is."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("`", "\\(ga")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


def write_man(directory: Path) -> None:
    """Write a man page for the program and for each command into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for page in pages():
        Path(directory, f"{page.name.replace(' ', '-')}.1").write_text(man_of(page))


# Completions.


def write_completions(directory: Path) -> None:
    """Write what lets shells complete the program's words: they ask the program itself."""
    from typer._completion_shared import get_completion_script

    directory.mkdir(parents=True, exist_ok=True)
    for shell, name in (("bash", PROGRAM), ("zsh", f"_{PROGRAM}"), ("fish", f"{PROGRAM}.fish")):
        variable = f"_{PROGRAM.upper()}_COMPLETE"
        script = get_completion_script(prog_name=PROGRAM, complete_var=variable, shell=shell)
        Path(directory, name).write_text(f"{script}\n")


# A page of the documentation.


def document() -> str:
    """Return the reference of all commands, in Markdown."""
    lines = [
        "# Commands",
        "",
        "Made from the program by `scripts/reference`; `tests/test_reference.py` checks that it is up to date.",
        "",
        "## Exit codes",
        "",
        "| code | what |",
        "| --- | --- |",
        *(f"| {code} | {words} |" for code, words in MEANINGS.items()),
        "",
        "## Environment",
        "",
        *_table("variable", ENVIRONMENT),
    ]
    for page in pages():
        lines += ["", f"## {page.name}", "", f"`{page.usage}`", ""]
        lines += [line for paragraph in page.text for line in (_markdown(paragraph), "")]
        if page.parts:
            parts = (f"[{each}](#{_anchor(f'{page.name} {each}')})" for each in page.parts)
            lines += [f"Commands: {', '.join(parts)}", ""]
        for heading, records in (("argument", page.arguments), ("option", page.options)):
            if records:
                lines += [*_table(heading, dict(records)), ""]
        lines.pop()
    return "\n".join(lines) + "\n"


def _table(heading: str, records: Mapping[str, str]) -> Iterator[str]:
    yield f"| {heading} | what |"
    yield "| --- | --- |"
    for term, words in records.items():
        yield f"| `{_cell(term)}` | {_cell(_markdown(words))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown(text: str) -> str:
    return text.replace("<", "&lt;")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def main(words: list[str]) -> None:
    """Write what is asked for."""
    match words:
        case ["man", directory]:
            write_man(Path(directory))
        case ["completions", directory]:
            write_completions(Path(directory))
        case ["page"]:
            sys.stdout.write(document())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
