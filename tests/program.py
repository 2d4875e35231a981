"""The command, run in this process as a script would run it, with a configuration and a database of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from mudanza.cli.main import main


@dataclass(frozen=True)
class Done:
    """How one command ended."""

    returncode: int | str | None
    stdout: str
    stderr: str


class Program:
    """The command, run in this process, with a configuration and a database of its own."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self.config = place / "mudanza.toml"
        self.config.write_text(f'database = "{place / "state" / "mudanza.db"}"\n')
        self._patch = patch
        self._captured = captured
        patch.setenv("MUDANZA_CONFIG", str(self.config))

    def __call__(self, *words: str, stdin: str = "") -> Done:
        self._patch.setattr(sys, "argv", ["mudanza", *words])
        self._patch.setattr(sys, "stdin", StringIO(stdin))
        with pytest.raises(SystemExit) as left:
            main()
        said = self._captured.readouterr()
        return Done(left.value.code, said.out, said.err)
