"""Where the daemon answers when no setting says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

APPLICATION = "mudanza"
"""What the program's own directories and files are called."""


def default_socket(env: Mapping[str, str], *, root: bool) -> str:
    """Return where the daemon answers when no setting says so."""
    if root and not env.get("XDG_RUNTIME_DIR"):
        return f"/run/{APPLICATION}/{APPLICATION}.sock"
    state = env.get("XDG_RUNTIME_DIR") or env.get("XDG_STATE_HOME") or Path(env.get("HOME", "~"), ".local/state")
    return str(Path(state).expanduser() / APPLICATION / f"{APPLICATION}.sock")
