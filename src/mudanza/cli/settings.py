"""The controller's own settings: one TOML file, the first one found."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mudanza.model.errors import UsageError
from mudanza.model.units import parse_duration

APPLICATION = "mudanza"


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


class Limits(BaseModel):
    """How long we wait for what. Written as seconds, or as text such as "90s" and "10m"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect: Seconds = 10.0
    """A host to accept our connection."""
    read: Seconds = 20.0
    """A host to tell everything about itself."""
    no_progress: Seconds = 300.0
    """A transfer that comes no nearer to its end, before it is cancelled."""
    settle: Seconds = 90.0
    """Both hosts to agree about where the VM is, after the transfer."""
    shutdown: Seconds = 180.0
    """A guest to shut down when asked to."""


class History(BaseModel):
    """How long the journal remembers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep: Annotated[float, BeforeValidator(_seconds), Field(ge=0)] = 90 * 86400.0
    """Jobs that have ended and left nothing; 0: for ever."""


class Settings(BaseModel):
    """Everything the TOML file may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: str = ""
    """Path of an SQLite file, or postgresql://…; empty: see `default_database`."""
    limits: Limits = Limits()
    history: History = History()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings and where they come from; ``path`` None: nothing but defaults."""

    settings: Settings
    path: Path | None


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


def load_settings(named: Path | None = None, env: Mapping[str, str] = os.environ) -> Loaded:
    """Read the settings from ``named``, $MUDANZA_CONFIG or the usual places.

    Raises UsageError, naming file and setting, when the file cannot be read or says something unknown.
    """
    chosen = named or (Path(env["MUDANZA_CONFIG"]) if env.get("MUDANZA_CONFIG") else None)
    if chosen is None:
        chosen = next((path for path in candidates(env) if path.is_file()), None)
    settings = _read(chosen) if chosen else Settings()
    if not settings.database:
        database = default_database(env, root=os.geteuid() == 0)
        settings = settings.model_copy(update={"database": database})
    return Loaded(settings, chosen)


def _read(path: Path) -> Settings:
    try:
        return Settings.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UsageError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration {path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the configuration {path} is wrong at {where}: {first['msg']}") from error
