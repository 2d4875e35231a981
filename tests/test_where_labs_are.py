"""``scripts/check`` and ``scripts/test`` name the directories they look into: what lies elsewhere would never run."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
WITH_LABS = {TESTS / "lab", TESTS / "contract"}


def test_every_test_of_the_lab_is_where_the_lab_is_looked_for() -> None:
    marked = {path for path in TESTS.rglob("test_*.py") if re.search(r"pytest\.mark\.lab\b", path.read_text())}
    assert {path.parent for path in marked - {Path(__file__)}} == WITH_LABS


def test_every_test_there_needs_the_lab() -> None:
    files = sorted((TESTS / "lab").rglob("test_*.py"))
    assert files
    assert [
        path for path in files if not re.search(r"^pytestmark = \[?pytest\.mark\.lab\b", path.read_text(), re.M)
    ] == []


def test_the_scripts_look_there() -> None:
    scripts = TESTS.parent / "scripts"
    assert 'pytest tests/lab tests/contract -m "lab and not soak"' in (scripts / "test").read_text()
    assert 'pytest -q -m "not lab" --ignore=tests/lab' in (scripts / "check").read_text()
