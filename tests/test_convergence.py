"""A guest's memory is steered to its end: on a model of QEMU's pre-copy, with guests of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.migration.convergence import (
    ENDING,
    NOTHING,
    STEPS,
    Budget,
    Course,
    Orders,
    Pass,
    begin,
    first_limit,
    retune,
    steer,
    take_up,
)
from mudanza.migration.forecast.dirtying import Dirtying
from mudanza.migration.forecast.precopy import LOOK, Load, Run
from mudanza.migration.forecast.precopy import carry as play
from mudanza.model.migration import MigrationOptions, Progress
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.units import GIB, MIB


def carry(memory: float, link: float, dirty: float, working_set: float, budget: Budget) -> Run:
    """Move a guest all of whose memory is in use."""
    return play(Load(memory, memory, link, Dirtying(dirty, working_set)), budget)


ALLOWED = Budget(0.3, postcopy=PostCopy.ALLOW)


def test_an_idle_guest_goes_dark_for_less_than_it_was_allowed() -> None:
    run = carry(2 * GIB, 100 * MIB, 5 * MIB, 64 * MIB, ALLOWED)
    assert run.downtime <= ALLOWED.max_downtime * STEPS[0]
    assert not run.postcopy


def test_a_guest_that_dirties_half_the_link_converges_without_postcopy() -> None:
    run = carry(512 * MIB, 40 * MIB, 20 * MIB, 256 * MIB, ALLOWED)
    assert not run.postcopy
    assert run.downtime <= ALLOWED.max_downtime
    assert run.took <= 3 * 512 / 40


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_a_guest_faster_than_the_link_is_there_within_twice_its_memory(share: float) -> None:
    run = carry(512 * MIB, 40 * MIB, 60 * MIB, share * 512 * MIB, ALLOWED)
    assert run.postcopy
    assert "the guest dirties" in run.postcopy
    assert run.took <= 2 * 512 / 40 + 4 * LOOK


def test_what_is_forbidden_is_not_done_and_it_does_not_go_on_for_ever() -> None:
    run = carry(512 * MIB, 40 * MIB, 60 * MIB, 512 * MIB, Budget(0.3))
    assert run.given_up.startswith("it does not converge")
    assert "--post-copy allow" in run.given_up
    assert "--max-downtime" in run.given_up
    assert run.took < 200


@pytest.mark.parametrize("deadline", [15.0, 25.0, 26.0, 30.0, 41.0])
def test_a_deadline_that_cannot_be_kept_is_said_in_time_to_tidy_up_before_it_is_over(deadline: float) -> None:
    run = carry(512 * MIB, 40 * MIB, 60 * MIB, 512 * MIB, Budget(0.3, deadline=deadline))
    assert "cannot be done within the deadline" in run.given_up
    assert run.took <= deadline - ENDING


def test_postcopy_is_not_begun_where_the_rest_could_not_arrive_in_time() -> None:
    run = carry(512 * MIB, 40 * MIB, 60 * MIB, 512 * MIB, replace(ALLOWED, deadline=20.0))
    assert not run.postcopy
    assert run.given_up


def test_a_working_set_that_fits_into_the_downtime_needs_no_postcopy() -> None:
    run = carry(512 * MIB, 40 * MIB, 200 * MIB, 8 * MIB, ALLOWED)
    assert not run.postcopy
    assert run.downtime <= 0.3


def test_postcopy_at_once_does_not_wait_for_a_pass() -> None:
    assert carry(512 * MIB, 40 * MIB, 0, 0, Budget(0.3, postcopy=PostCopy.NOW)).fetched == pytest.approx(512 / 40)


def test_once_in_postcopy_nothing_is_ordered_any_more() -> None:
    seen = Progress("copying memory", 9.0, memory_total=GIB, memory_remaining=GIB, iteration=9, postcopy=True)
    course, orders = steer(Course(), seen, replace(ALLOWED, deadline=1.0))
    assert (course.postcopy, orders) == (True, NOTHING)


def test_memory_leaves_the_mirrors_their_part_of_the_limit() -> None:
    seen = Progress(
        "copying memory", 1.0, memory_total=GIB, memory_remaining=GIB, memory_rate=100.0 * MIB, iteration=1,
        disk_total=GIB, disk_rate=30.0 * MIB,
    )  # fmt: skip
    budget = Budget(0.3, bandwidth=100 * MIB)
    course, orders = steer(Course(), seen, budget)
    assert orders.memory_bandwidth == 70 * MIB
    assert steer(course, seen, budget)[1].memory_bandwidth is None, "said once"
    _, greedy = steer(Course(), replace(seen, disk_rate=99.0 * MIB), budget)
    assert greedy.memory_bandwidth == 25 * MIB, "memory never starves"


@settings(deadline=None)
@given(
    st.floats(64, 2048), st.floats(10, 1000), st.floats(0, 2000), st.floats(0.01, 1.0),
    st.sampled_from(list(PostCopy)), st.none() | st.floats(5, 300),
)  # fmt: skip
def test_it_ends_and_keeps_to_what_was_allowed(
    memory: float, link: float, dirty: float, share: float, postcopy: PostCopy, deadline: float | None
) -> None:
    budget = Budget(0.3, deadline=deadline, postcopy=postcopy)
    run = carry(memory * MIB, link * MIB, dirty * MIB, share * memory * MIB, budget)
    assert run.took < 600 + 60 * memory / link, "passes that hardly shrink do not go on for ever"
    assert all(told <= budget.max_downtime for told in run.told)
    assert list(run.told) == sorted(run.told)
    assert run.downtime <= budget.max_downtime
    assert not (run.postcopy and postcopy is PostCopy.NEVER)


MIRRORED = Progress(
    "copying memory", 1.0, memory_total=GIB, memory_remaining=GIB, memory_rate=9.0 * MIB, iteration=1,
    disk_total=GIB, disk_rate=3.0 * MIB,
)  # fmt: skip
COPIED = Progress("copying disks", 1.0, disk_total=GIB, disk_remaining=GIB, disk_rate=3.0 * MIB)


def told(budget: Budget, *seen: Progress) -> list[tuple[int | None, int | None]]:
    """Return what memory and mirrors are limited to, in MiB per second, at each of these looks."""
    course, limits = begin(budget), []
    for each in seen:
        course, orders = steer(course, each, budget)
        both = orders.memory_bandwidth, orders.disk_bandwidth
        limits.append(tuple(None if limit is None else limit // MIB for limit in both))
    return limits  # type: ignore[return-value]


def test_what_a_transfer_begins_with_adds_up() -> None:
    assert [first_limit(12 * MIB, disks) // MIB for disks in (0, 1, 2, 5, 40)] == [12, 12, 6, 2, 1]
    two = Budget(0.3, bandwidth=12 * MIB, disks=2)
    assert begin(two).memory_limit == 6 * MIB
    # The mirrors share all of it; memory, once it begins, gets what they leave.
    assert told(two, COPIED, COPIED, MIRRORED, MIRRORED) == [(None, 12), (None, None), (9, None), (None, None)]
    one = Budget(0.3, bandwidth=12 * MIB, disks=1)
    assert told(one, COPIED, MIRRORED) == [(None, None), (9, None)], "what libvirt was told is right already"


def test_mirrors_leave_memory_its_least_part_once_both_want_more() -> None:
    budget = Budget(0.3, bandwidth=12 * MIB, disks=1)
    hard = replace(MIRRORED, disk_rate=11.5 * MIB)
    assert told(budget, COPIED, hard, hard, MIRRORED) == [(None, None), (3, 9), (None, None), (9, None)]


def test_whoever_takes_it_up_says_anew_what_holds() -> None:
    budget = Budget(0.3, bandwidth=12 * MIB, disks=2)
    assert steer(take_up(budget), MIRRORED, budget)[1].memory_bandwidth == 9 * MIB
    assert steer(take_up(budget), COPIED, budget)[1].disk_bandwidth == 12 * MIB


def test_another_limit_holds_for_mirrors_and_memory_together() -> None:
    before = Budget(0.3, bandwidth=12 * MIB, disks=2)
    after = replace(before, bandwidth=8 * MIB)
    assert retune(begin(before), before, after, COPIED)[1] == Orders(memory_bandwidth=4 * MIB, disk_bandwidth=8 * MIB)
    assert retune(begin(before), before, after, MIRRORED)[1] == Orders(memory_bandwidth=5 * MIB, disk_bandwidth=8 * MIB)
    fetching = replace(MIRRORED, postcopy=True)
    assert retune(begin(before), before, after, fetching)[1] == Orders(memory_bandwidth=8 * MIB)


def test_policies_say_what_is_allowed() -> None:
    asked = {policy: MigrationOptions(policy=policy) for policy in Policy}
    assert {policy: options.postcopy for policy, options in asked.items()} == {
        Policy.AUTO: PostCopy.ALLOW, Policy.GENTLE: PostCopy.NEVER, Policy.DEADLINE: PostCopy.ALLOW,
        Policy.NOW: PostCopy.NOW,
    }  # fmt: skip
    assert [policy for policy, options in asked.items() if options.may_throttle] == [Policy.DEADLINE]
    assert MigrationOptions(policy=Policy.NOW, post_copy=PostCopy.NEVER).postcopy is PostCopy.NEVER


def test_who_allows_more_gets_it_at_once_and_a_move_that_did_not_converge_is_given_time_again() -> None:
    course = Course(step=0, passes=(Pass(1, 0.0, GIB),), least=GIB, least_at=3.0, least_pass=1)
    before = Budget(0.3, bandwidth=10 * MIB)
    after, orders = retune(course, before, replace(before, max_downtime=2.0, bandwidth=20 * MIB), MIRRORED)
    assert orders == Orders(downtime=2.0, memory_bandwidth=20 * MIB)
    assert after.step == len(STEPS) - 1
    assert after.memory_limit == 20 * MIB
    assert after.least is None
    assert after.passes == course.passes


def test_what_is_not_changed_is_not_ordered_again() -> None:
    before = Budget(0.3, bandwidth=10 * MIB)
    _, orders = retune(Course(step=1), before, replace(before, deadline=60.0, postcopy=PostCopy.ALLOW), MIRRORED)
    assert orders == NOTHING


def test_postcopy_is_started_once_it_is_asked_for() -> None:
    budget = Budget(0.3, postcopy=PostCopy.ALLOW)
    seen = Progress("copying memory", 5.0, memory_total=GIB, memory_remaining=GIB // 2, memory_rate=MIB, iteration=1)
    course, orders = steer(Course(), seen, budget)
    assert not orders.postcopy
    _, orders = steer(course, seen, replace(budget, postcopy=PostCopy.NOW))
    assert orders.postcopy
