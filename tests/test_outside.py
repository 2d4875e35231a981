"""What a client outside hears of a guest: silences worked out purely, and somebody who really asks."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza import clock
from mudanza.migration import outside
from mudanza.migration.outside import Outside, Silences, parse_probe, silences, watching
from mudanza.model.errors import BlockedError, UsageError
from tests.program import Program


def every(step: float, count: int, since: float = 0.0) -> list[float]:
    return [since + step * number for number in range(count)]


def test_regular_answers_are_no_silence() -> None:
    assert silences(every(0.05, 40)).spells == 0
    assert silences([]) == silences([1.0]) == Silences()


def test_each_silence_counts_and_the_longest_is_the_blackout() -> None:
    answers = every(0.05, 20) + every(0.05, 20, since=1.45) + every(0.05, 20, since=2.6)
    heard = silences(answers)
    assert heard.longest == pytest.approx(0.45)
    assert heard.spells == 2
    assert heard.total == pytest.approx(0.45 + 0.15)
    assert not heard.dark


def test_a_guest_that_never_answers_again_is_dark() -> None:
    heard = silences(every(0.05, 20), until=10.95)
    assert heard.dark
    assert heard.longest == pytest.approx(9.95)


def in_postcopy(*spans: tuple[float, float], until: float, postcopy: tuple[float, float]) -> Silences:
    """What is heard of a guest that answers every 50 ms but in these spans."""
    answers = [at for at in every(0.05, round(until / 0.05)) if not any(begin < at < end for begin, end in spans)]
    return silences(answers, postcopy=postcopy)


def test_a_stall_in_post_copy_is_told_beside_the_switchover() -> None:
    heard = in_postcopy((2.0, 2.6), (3.0, 3.3), (4.0, 4.4), (8.0, 9.0), until=10.0, postcopy=(1.9, 6.0))
    assert heard.longest == pytest.approx(0.95, abs=0.06)  # after the last page: of no concern to post-copy
    assert heard.stall == pytest.approx(0.35, abs=0.06)
    assert heard.stalled == pytest.approx(0.25 + 0.35, abs=0.12)


def test_a_stall_that_lasts_until_the_last_page_counts_up_to_it() -> None:
    heard = in_postcopy((2.0, 2.6), (4.0, 9.0), until=10.0, postcopy=(1.9, 6.0))
    assert heard.stall == pytest.approx(1.95, abs=0.06)


def test_a_short_switchover_is_not_taken_for_a_stall_nor_a_late_stall_for_the_switchover() -> None:
    assert in_postcopy((2.0, 2.6), until=10.0, postcopy=(1.9, 6.0)).stall == pytest.approx(0.0, abs=0.01)
    assert in_postcopy((4.0, 4.6), until=10.0, postcopy=(1.9, 6.0)).stall == pytest.approx(0.55, abs=0.06)


def test_without_post_copy_there_are_no_stalls() -> None:
    assert silences(every(0.05, 20) + every(0.05, 20, since=2.0)).stall is None


@given(st.lists(st.floats(0.001, 5.0), min_size=2, max_size=50))
def test_what_is_silent_lies_within_what_was_watched(gaps: list[float]) -> None:
    answers = [sum(gaps[:count]) for count in range(len(gaps) + 1)]
    heard = silences(answers)
    assert 0 <= heard.longest <= max(later - earlier for earlier, later in pairwise(answers))
    assert heard.total <= answers[-1] - answers[0]


@pytest.mark.parametrize(
    "words", ["", "ping:", "ping:-f", "tcp:db", "tcp:db:0", "tcp:db:99999", "tcp::22", "http:db:80"]
)
def test_what_names_nothing_to_ask_is_refused(words: str) -> None:
    with pytest.raises(UsageError):
        parse_probe(words)


def test_hosts_and_ports_are_read() -> None:
    assert parse_probe("ping:db.example.org") == ("db.example.org", None)
    assert parse_probe("tcp:[2001:db8::1]:5432") == ("2001:db8::1", 5432)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


def test_somebody_who_listens_is_heard(port: int) -> None:
    with watching(f"tcp:127.0.0.1:{port}") as found:
        assert found is not None
        assert not found.heard().dark


def test_nobody_is_heard_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "FIRST_ANSWER", 0.2)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        with (
            pytest.raises(BlockedError, match="nobody answers"),
            watching(f"tcp:127.0.0.1:{bound.getsockname()[1]}"),
        ):
            pass


class Heard:
    """Somebody who has heard a guest at these instants, and whose clock goes on by itself."""

    def __init__(self, answers: Sequence[float]) -> None:
        self._answers = list(answers)
        self._now = 0.9

    def answers(self) -> list[float]:
        self._now += 0.1
        return [at for at in self._answers if at <= self._now]

    def now(self) -> float:
        return self._now

    def end(self) -> None: ...


def test_the_first_answer_after_the_move_is_waited_for_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "sleep", lambda _: None)
    heard = Outside(Heard([*every(0.05, 19), 3.0])).heard()
    assert heard.longest == pytest.approx(2.05)
    assert not heard.dark
    assert Outside(Heard(every(0.05, 19))).heard().dark


def test_it_takes_one_guest_that_runs(mudanza: Program) -> None:
    for words in (("a", "b"), ("--tag", "db"), ("a", "b", "--detach"), ("a", "--mode", "cold")):
        refused = mudanza("migrate", *words, "--to", "h2", "--probe", "ping:a")
        assert (refused.returncode, "--probe asks" in refused.stderr) == (2, True), words
