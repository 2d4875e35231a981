"""Options that several commands share: Typer sees each one, the command gets them whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mudanza.cli.bundles import with_bundles


@dataclass(frozen=True)
class Pace:
    """As a command's options are."""

    out: Annotated[int, typer.Option("--out", min=1)] = 2
    detach: Annotated[bool, typer.Option("--detach")] = False


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["h1"], "h1 Pace(out=2, detach=False) quick=False"),
        (["--out", "3", "h1", "--quick", "--detach"], "h1 Pace(out=3, detach=True) quick=True"),
    ],
)
def test_a_bundle_is_made_of_its_options(words: list[str], told: str) -> None:
    app = typer.Typer()

    @app.command()
    @with_bundles
    def go(host: Annotated[str, typer.Argument()], pace: Pace, quick: bool = False) -> None:
        typer.echo(f"{host} {pace} quick={quick}")

    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout.strip().rpartition(">.")[2]) == (0, told), done.output
    refused = CliRunner().invoke(app, ["h1", "--out", "0"])
    assert refused.exit_code == 2
