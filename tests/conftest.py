"""What tests without a lab share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import Program


@pytest.fixture
def mudanza(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, monkeypatch, capsys)
