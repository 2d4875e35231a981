"""Where settings, the database and the daemon are when nothing says so."""

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


def default_database(env: Mapping[str, str], *, root: bool) -> str:
    """Return where the database lies when no setting names it."""
    if root and not env.get("XDG_STATE_HOME"):
        return f"/var/lib/{APPLICATION}/{APPLICATION}.db"
    state = env.get("XDG_STATE_HOME") or Path(env.get("HOME", "~"), ".local/state").expanduser()
    return str(Path(state, APPLICATION, f"{APPLICATION}.db"))


def candidates(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the configuration files that are looked for, in order, when none is named."""
    home = env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~"), ".config").expanduser()
    name = f"{APPLICATION}.toml"
    return (Path(home, APPLICATION, name), Path("/etc", APPLICATION, name))
