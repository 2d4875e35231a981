"""The controller's settings: the first file found, and a clear word about what is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mudanza.cli.places import candidates, default_database
from mudanza.cli.settings import History, HookSettings, Limits, Settings, load_settings
from mudanza.model.errors import UsageError
from mudanza.model.units import parse_duration


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    if candidates(env)[1].exists():
        pytest.skip("this machine has an /etc/mudanza/mudanza.toml of its own")
    loaded = load_settings(env=env)
    assert loaded.path is None
    assert loaded.settings.database == str(tmp_path / "state/mudanza/mudanza.db")


def test_the_named_file_wins_over_the_environment_and_that_over_the_usual_place(tmp_path: Path) -> None:
    usual = write(tmp_path / "mudanza/mudanza.toml", 'database = "usual"')
    from_env = write(tmp_path / "env.toml", 'database = "env"')
    named = write(tmp_path / "named.toml", 'database = "named"')
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load_settings(env=env).path == usual
    env["MUDANZA_CONFIG"] = str(from_env)
    assert load_settings(env=env).settings.database == "env"
    assert load_settings(named, env=env).settings.database == "named"


def test_limits_are_durations(tmp_path: Path) -> None:
    path = write(tmp_path / "m.toml", '[limits]\nno_progress = "10m"\nconnect = 3')
    limits = load_settings(path).settings.limits
    assert (limits.no_progress, limits.connect) == (600, 3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("databse = 1", "databse"),
        ("[limits]\nread = 0", "limits.read"),
        ('[limits]\nread = "soon"', "not a duration"),
        ("= =", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        load_settings(write(tmp_path / "m.toml", text))


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(tmp_path / "no.toml")


def test_root_keeps_its_database_in_var() -> None:
    assert default_database({}, root=True) == "/var/lib/mudanza/mudanza.db"
    assert default_database({"HOME": "/home/ana"}, root=False) == "/home/ana/.local/state/mudanza/mudanza.db"


def test_the_page_names_every_setting_with_its_default() -> None:
    page = Path(__file__).parents[1].joinpath("docs/settings.md").read_text()
    for name, field in Limits.model_fields.items():
        assert f"\n{name} = {field.default:g} " in page, name
    assert History().keep == parse_duration("90d")
    for name in Settings.model_fields:
        assert f"\n{name} = " in page or f"\n[{name}]" in page or f"\n[{name}." in page, name
    for name in HookSettings.model_fields:
        assert f"\n{name} = " in page, name
