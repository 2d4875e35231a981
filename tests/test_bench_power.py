"""The replay of a day counts what it says, and says what is wrong with a trace."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from bench.cloudsim import ThresholdMmt, best_fit, least_power
from bench.planetlab import PER_SECOND, READINGS, WHERE, Day, day_of, made_of, the_day
from bench.power import Saving
from bench.replay import replay
from mudanza.model.errors import UsageError
from mudanza.planning.saving.terms import Terms


def flat(use: float, vms: int = 8, hosts: int = 8, readings: int = 13) -> Day:
    """An hour in which every VM uses the same share of its CPU all the time."""
    return made_of("made up", np.full((vms, readings), use), hosts)


def test_energy_of_hosts_that_nobody_touches_is_what_their_models_say() -> None:
    day = flat(0.5, vms=4)
    place = np.array([1, 1, 3, 3])
    counted = replay(day, place, lambda _, where: where)
    first, second = (day.wants[:2, 0].sum(), day.wants[2:, 0].sum())
    watts = day.models[1].at(first / 5320) + day.models[3].at(second / 5320)
    assert counted.kwh == pytest.approx(watts / 1000)
    assert (counted.moves, counted.full, counted.degraded) == (0, 0, 0)
    assert counted.host_hours == pytest.approx(2.0)


def test_a_move_costs_a_tenth_of_its_vm_and_keeps_the_source_on_as_long() -> None:
    day = flat(0.5, vms=4)
    place = np.array([1, 1, 3, 3])
    counted = replay(day, place, lambda reading, where: np.array([1, 1, 1, 1]) if reading == 6 else where)
    assert counted.moves == 2
    seconds = day.vm_memory[2:] / PER_SECOND
    lost = 0.1 * (day.wants[2:, 0] * seconds).sum() / (day.wants[:, 0].sum() * 3600)
    assert counted.degraded == pytest.approx(lost)
    assert counted.host_hours == pytest.approx(1.5 + seconds.max() / 3600)


def test_a_host_that_is_asked_for_more_than_it_has_is_counted() -> None:
    day = flat(1.0, vms=4)
    assert replay(day, np.array([0, 0, 1, 1]), lambda _, where: where).full == pytest.approx(0.5)


def test_our_decisions_take_less_than_nobody_and_fewer_moves_than_the_threshold() -> None:
    dice = np.random.default_rng(5)
    use = np.clip(dice.normal(0.12, 0.08, (80, 36)), 0, 1)
    day = made_of("made up", use, 60)
    still = replay(day, best_fit(day), lambda _, where: where)
    theirs = replay(day, least_power(day), ThresholdMmt(day))
    ours = replay(day, least_power(day), Saving(day, Terms()))
    assert ours.kwh < theirs.kwh < still.kwh
    assert ours.moves < theirs.moves
    held = replay(day, least_power(day, memory=True), Saving(day, Terms(), memory=True))
    assert held.short_of_memory == 0 < ours.short_of_memory


def _trace(place: Path, text: str) -> Path:
    folder = place / "day"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / name).write_text(text if name == "a" else "7\n" * READINGS)
    return folder


def test_a_directory_and_an_archive_of_it_are_the_same_day(tmp_path: Path) -> None:
    folder = _trace(tmp_path, "3\n" * (READINGS + 2))
    with tarfile.open(tmp_path / "day.tar.gz", "w:gz") as archive:
        archive.add(folder, "day")
    one, other = day_of(folder, 4), day_of(tmp_path / "day.tar.gz", 4)
    assert (one.wants == other.wants).all()
    assert one.wants[:, 0].tolist() == pytest.approx([75.0, 140.0])  # a before b


@pytest.mark.parametrize(("text", "told"), [("3\n" * 5, "has 5 readings"), ("x\n" * READINGS, "no whole number")])
def test_what_is_wrong_with_a_trace_is_said(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        day_of(_trace(tmp_path, text))


def test_a_trace_that_is_missing_is_said_with_where_to_name_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WHERE, raising=False)
    with pytest.raises(UsageError, match=WHERE) as missing:
        the_day()
    assert "scripts/bench power" in missing.value.remedy
    monkeypatch.setenv(WHERE, str(tmp_path / "nothing.tar.gz"))
    with pytest.raises(UsageError, match="cannot be read"):
        the_day()
