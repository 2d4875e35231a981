"""The analysis of what the client saw: every constructed gap, loss, repeat and disorder is found exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.lab.series import Beat, Ping, Recording, analyse, parse
from mudanza.model.errors import MudanzaError

MS = 1_000_000
STEP = 8 * MS


def pings(times: list[int]) -> tuple[Ping, ...]:
    return tuple(Ping(at=at, number=number) for number, at in enumerate(times, start=1))


def beats(numbers: list[int]) -> tuple[Beat, ...]:
    return tuple(
        Beat(at=20 * MS * turn, seq=seq, monotonic=20 * MS * turn, loop_gap=20 * MS, tick_gap=2 * MS, boot=1)
        for turn, seq in enumerate(numbers)
    )


def answered(times: list[int]) -> Recording:
    """Every request answered within a millisecond."""
    return Recording(sent=pings(times), replies=pings([at + MS for at in times]))


def test_nothing_recorded_is_no_good_news() -> None:
    series = analyse(Recording())
    assert (series.pings_sent, series.beats, series.blackout, series.dark_at_end) == (0, 0, 0.0, 0.0)
    assert series.blackout_at is None
    assert not series.every_beat_arrived


def test_a_gap_in_the_replies_is_the_blackout_and_says_when_it_began() -> None:
    recording = answered([0, STEP, STEP + 500 * MS, STEP + 508 * MS])
    series = analyse(recording)
    assert series.blackout == 0.5
    assert series.blackout_at == (STEP + MS) / 10**9
    assert series.typical_gap == 0.008


def test_late_replies_count_by_their_arrival_not_by_their_request() -> None:
    sent = pings([STEP * turn for turn in range(10)])
    late = tuple(replace(ping, at=300 * MS + ping.number) for ping in sent)
    series = analyse(Recording(sent=sent, replies=(late[0], *late[1:])))
    assert series.pings_lost == 0
    assert series.blackout < 0.000_001
    darkness_before = Recording(sent=sent, replies=(replace(sent[0], at=MS), *late[1:]))
    assert analyse(darkness_before).blackout == pytest.approx(0.299, abs=1e-6)


def test_replies_that_overtake_each_other_are_put_in_the_order_of_their_arrival() -> None:
    sent = pings([0, STEP, 2 * STEP])
    replies = (Ping(at=60 * MS, number=1), Ping(at=50 * MS, number=2), Ping(at=90 * MS, number=3))
    series = analyse(Recording(sent=sent, replies=replies))
    assert series.blackout == 0.03
    assert series.blackout_at == 0.06


def test_no_reply_after_some_time_is_dark_at_the_end() -> None:
    recording = answered([STEP * turn for turn in range(100)])
    silent = replace(recording, replies=recording.replies[:50])
    series = analyse(silent)
    assert series.pings_lost == 50
    assert series.dark_at_end == pytest.approx((99 * 8 - 49 * 8 - 1) / 1000)
    assert series.longest_dark == series.dark_at_end > series.blackout


def test_a_guest_that_never_answers_is_dark_throughout() -> None:
    series = analyse(Recording(sent=pings([0, STEP, 2 * STEP])))
    assert series.pings_lost == 3
    assert series.dark_at_end == 0.016


def test_two_answers_to_one_request_are_told() -> None:
    recording = answered([0, STEP])
    twice = replace(recording, replies=(*recording.replies, replace(recording.replies[0], at=STEP * 2)))
    assert analyse(twice).pings_repeated == 1
    assert analyse(recording).pings_repeated == 0


@pytest.mark.parametrize(
    ("numbers", "lost", "repeated", "disordered"),
    [
        ([1, 2, 3], 0, 0, 0),
        ([1, 3], 1, 0, 0),
        ([1, 2, 2, 3], 0, 1, 0),
        ([1, 3, 2, 4], 0, 0, 1),
        ([5, 6, 1, 2], 2, 0, 2),
        ([5, 6, 5, 6, 7], 0, 2, 0),
    ],
)
def test_loss_repeat_and_disorder_are_three_things(
    numbers: list[int], lost: int, repeated: int, disordered: int
) -> None:
    series = analyse(Recording(beats=beats(numbers)))
    assert (series.beats_lost, series.beats_repeated, series.beats_disordered) == (lost, repeated, disordered)
    assert series.every_beat_arrived == (numbers == [1, 2, 3])


def test_the_guests_own_stalls_are_told_apart() -> None:
    quiet = beats([1, 2, 3])
    disk_wait = replace(quiet[1], loop_gap=700 * MS)
    page_fault = replace(quiet[2], tick_gap=90 * MS)
    series = analyse(Recording(beats=(quiet[0], disk_wait, page_fault)))
    assert series.longest_beat_stall == 0.7
    assert series.longest_tick_stall == 0.09


def test_reconnects_and_boots_are_counted() -> None:
    rebooted = (*beats([1, 2]), replace(beats([3])[0], boot=2))
    series = analyse(Recording(beats=rebooted, connected=(0, 5, 9), broken=(4, 8)))
    assert (series.reconnects, series.boots) == (2, 2)


@given(
    lengths=st.lists(st.integers(min_value=1, max_value=10**12), min_size=1, max_size=50),
    start=st.integers(min_value=0, max_value=10**18),
)
def test_the_longest_constructed_gap_is_found_exactly(lengths: list[int], start: int) -> None:
    times = [start]
    for length in lengths:
        times.append(times[-1] + length)
    series = analyse(answered(times))
    longest = max(lengths)
    assert series.blackout == longest / 10**9
    assert series.blackout_at == (times[lengths.index(longest)] + MS) / 10**9
    assert series.longest_send_gap == longest / 10**9
    assert series.pings_lost == 0


@given(
    first=st.integers(min_value=1, max_value=10**9),
    count=st.integers(min_value=3, max_value=200),
    dropped=st.sets(st.integers(min_value=1, max_value=198)),
    again=st.sets(st.integers(min_value=0, max_value=199)),
)
def test_exactly_the_numbers_taken_out_are_lost_and_those_sent_again_repeated(
    first: int, count: int, dropped: set[int], again: set[int]
) -> None:
    inner = {first + place for place in dropped if place < count - 1}
    arrived = [seq for seq in range(first, first + count) if seq not in inner]
    repeated = sorted({first + place for place in again} & set(arrived))
    series = analyse(Recording(beats=beats(arrived + repeated)))
    assert series.beats_lost == len(inner)
    assert series.first_lost == min(inner, default=None)
    assert series.beats_repeated == len(repeated)
    assert series.beats_disordered == 0
    assert (series.first_beat, series.last_beat) == (first, first + count - 1)


@given(order=st.permutations(list(range(1, 30))))
def test_disorder_is_every_number_that_comes_after_a_higher_one(order: list[int]) -> None:
    expected = sum(any(earlier > seq for earlier in order[:place]) for place, seq in enumerate(order))
    series = analyse(Recording(beats=beats(order)))
    assert series.beats_disordered == expected
    assert series.beats_lost == series.beats_repeated == 0


@given(lost=st.sets(st.integers(min_value=1, max_value=50)))
def test_every_request_without_a_reply_is_lost(lost: set[int]) -> None:
    recording = answered([STEP * turn for turn in range(50)])
    replies = tuple(reply for reply in recording.replies if reply.number not in lost)
    assert analyse(replace(recording, replies=replies)).pings_lost == len(lost)


def test_a_record_is_read_back_as_it_was_written() -> None:
    rows: list[list[object]] = [
        ["sent", 10, 1],
        ["connected", 11],
        ["reply", 12, 1],
        ["beat", 13, 7, 100, 20, 2, 1],
        ["error", 14, "Network is unreachable"],
        ["broken", 15, "Connection reset by peer"],
        ["error", 16, "Network is unreachable"],
        ["end", 17, "stopped"],
    ]
    recording = parse(json.dumps(row) + "\n" for row in rows)
    assert recording == Recording(
        sent=(Ping(10, 1),),
        replies=(Ping(12, 1),),
        beats=(Beat(at=13, seq=7, monotonic=100, loop_gap=20, tick_gap=2, boot=1),),
        connected=(11,),
        broken=(15,),
        troubles=("Network is unreachable", "Connection reset by peer"),
        ended="stopped",
    )


def test_a_line_still_being_written_is_left_out() -> None:
    recording = parse(['["sent", 10, 1]\n', '["sent", 1'])
    assert recording.sent == (Ping(10, 1),)
    assert recording.ended is None


@pytest.mark.parametrize("line", ["\n", "{}\n", '["sent", 1]\n', '["nonsense", 1, 2]\n', '["sent", 1, "x"]\n', "[1\n"])
def test_a_line_that_no_client_writes_is_refused(line: str) -> None:
    with pytest.raises(MudanzaError, match="record"):
        parse([line])
