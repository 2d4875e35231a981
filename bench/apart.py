"""Peers that are Python programs: each in a Python of its own, for they are no part of mudanza; gone once measured."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 900.0
"""Seconds that fetching a peer and what it needs may take."""


class NotInstalledError(Exception):
    """A peer could not be had: its text says which, and pip's last word."""


@contextmanager
def python_with(*packages: str) -> Iterator[Path]:
    """Have a Python with these packages. Raises NotInstalledError."""
    with tempfile.TemporaryDirectory() as place:
        python = Path(place, "venv/bin/python")
        subprocess.run((sys.executable, "-m", "venv", python.parents[1]), check=True)
        _install(python, packages)
        yield python


def _install(python: Path, packages: tuple[str, ...]) -> None:
    names = ", ".join(packages)
    argv = (str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages)
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"{names}: pip had not ended after {PATIENCE:g} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or ["pip said nothing"]
        raise NotInstalledError(f"{names}: {last[0]}") from None
