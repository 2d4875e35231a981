"""The tutorial, typed as it is written, in a lab of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.lab.construction import take_down
from mudanza.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
NAME = f"tut{os.getpid()}"


@pytest.fixture
def no_lab_left(needs_lab: None) -> Iterator[None]:
    yield
    take_down(NAME)


def test_what_the_tutorial_says_can_be_done(no_lab_left: None, tmp_path: Path) -> None:
    script = "".join(re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-x", "-o", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=280, cwd=tmp_path,
        env={**os.environ, "PATH": path, "MUDANZA_LAB": NAME},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("+ mudanza ") == script.count("\nmudanza ") + 1 + 1, (
        "each line of it, and the one for eval"
    )
    assert "web moved from h1 to h2" in done.stdout + done.stderr
    assert NAME not in {lab.name for lab in Lab.list()}
