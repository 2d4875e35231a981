"""Times at which something may begin, by local time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from mudanza.model.errors import UsageError
from mudanza.model.times import is_within, parse_instant, parse_window


@pytest.fixture(autouse=True)
def in_madrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Madrid")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    """Return an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-06:00", ["2026-11-26T21:00", "2026-11-27T04:59"], ["2026-11-26T20:59", "2026-11-27T05:00"]),
        ("9:00-17:30", ["2026-11-26T08:00", "2026-11-26T16:29"], ["2026-11-26T07:59", "2026-11-26T16:30"]),
        ("00:00-24:00", ["2026-11-26T23:00", "2026-11-26T22:59"], []),
    ],
)
def test_windows_are_by_local_time_and_may_go_over_midnight(window: str, inside: list[str], outside: list[str]) -> None:
    assert [is_within(window, at(each)) for each in inside] == [True] * len(inside)
    assert [is_within(window, at(each)) for each in outside] == [False] * len(outside)


@pytest.mark.parametrize("text", ["22-6", "25:00-06:00", "22:00-22:00", "22:60-23:00", "", "22:00"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a window"):
        parse_window(text)


def test_a_time_of_the_day_is_the_next_one() -> None:
    now = at("2026-11-26T20:30")  # 21:30 in Madrid
    assert parse_instant("22:00", now) == at("2026-11-26T21:00")
    assert parse_instant("21:00", now) == at("2026-11-27T20:00")
    assert parse_instant("2026-11-27T01:00", now) == at("2026-11-27T00:00")
    assert parse_instant("2026-11-27T01:00+00:00", now) == at("2026-11-27T01:00")


def test_tomorrow_at_that_time_is_tomorrow_also_where_the_clocks_change() -> None:
    assert parse_instant("01:30", at("2026-10-24T12:00")) == at("2026-10-24T23:30")
    assert parse_instant("12:00", at("2026-10-24T12:00")) == at("2026-10-25T11:00")


@pytest.mark.parametrize("text", ["soon", "25:00", "2026-13-01T00:00", "2020-01-01T00:00"])
def test_what_is_no_time_to_come_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a time|has passed"):
        parse_instant(text, at("2026-11-26T20:30"))
