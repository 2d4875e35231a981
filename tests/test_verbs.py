"""The verbs of the program are found by their names, and loaded only when they are wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mudanza import cli
from mudanza.cli.verbs import ROOMS, verbs_of
from tests.program import Program


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_the_verbs_that_are_looked_for_in_it(room: str) -> None:
    assert set(verbs_of(room)) == set(ROOMS[room])


def test_no_room_is_forgotten() -> None:
    sources = Path(cli.__file__).parent.glob("*.py")
    assert {source.stem for source in sources if "\ndef register(" in source.read_text()} == set(ROOMS)


def test_help_lists_every_verb(program: Program) -> None:
    done = program("--help")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert listed[: sum(map(len, ROOMS.values()))] == [verb for verbs in ROOMS.values() for verb in verbs]


def test_a_mistyped_verb_is_answered_with_the_one_that_was_meant(program: Program) -> None:
    done = program("migrat")
    assert done.returncode == 2
    assert "'migrate'" in done.stderr


def test_a_verb_does_not_load_the_others() -> None:
    told = "import sys; from mudanza.cli.verbs import verbs_of; verbs_of('audit'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout.split()
    assert "mudanza.cli.audit" in loaded
    assert not {"mudanza.cli.migrate", "mudanza.cli.lab", "sqlalchemy", "pydantic", "libvirt", "rich"} & set(loaded)
