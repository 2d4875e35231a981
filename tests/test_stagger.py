"""Moves from one host begin one after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mudanza import clock
from mudanza.migration.stagger import APART, LONGEST, Stagger, Turn
from mudanza.model.migration import Progress

SENDING = Progress("copying memory", 1.0, memory_total=100, memory_sent=1)
SETTING_UP = Progress("setting up", 1.0)


@given(st.none() | st.floats(0, 20), st.floats(0, 100), st.booleans())
def test_the_next_one_begins_once_the_last_one_has_been_sending_for_a_while(
    sends_since: float | None, now: float, over: bool
) -> None:
    lets = Turn(0.0, sends_since, over).lets_begin(now)
    assert lets == (over or now >= LONGEST or (sends_since is not None and now >= sends_since + APART))


def test_it_is_told_by_the_first_byte_and_not_by_setting_up() -> None:
    turn = Turn(clock.monotonic())
    turn.heard(SETTING_UP)
    assert turn.sends_since is None
    turn.heard(SENDING)
    first = turn.sends_since
    assert first is not None
    turn.heard(SENDING)
    assert turn.sends_since == first


def test_who_is_second_waits_and_begins_when_the_first_one_is_over() -> None:
    stagger, stop, waited = Stagger(), clock.new_event(), list[str]()
    first = stagger.turn("h1", stop, lambda: waited.append("first"))
    first.__enter__()

    def on_waiting() -> None:
        waited.append("second")
        first.__exit__(None, None, None)

    with stagger.turn("h1", stop, on_waiting):
        assert waited == ["second"]


def test_other_hosts_and_a_stop_wait_for_nobody() -> None:
    stagger, stop, waited = Stagger(), clock.new_event(), list[str]()
    with stagger.turn("h1", stop, lambda: None):
        with stagger.turn("h2", stop, lambda: waited.append("h2")):
            pass
        assert not waited
        with stagger.turn("h1", stop, stop.set):
            assert stop.is_set()


def test_one_that_fails_lets_the_next_one_begin() -> None:
    stagger, stop, waited = Stagger(), clock.new_event(), list[str]()
    try:
        with stagger.turn("h1", stop, lambda: None):
            raise ValueError("it cannot be moved")
    except ValueError:
        pass
    with stagger.turn("h1", stop, lambda: waited.append("next")):
        assert not waited
