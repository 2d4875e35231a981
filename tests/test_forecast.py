"""A forecast foresees what the controller will do: on examples, and on guests and links of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.migration.convergence import Budget
from mudanza.migration.forecast.dirtying import STILL, Dirtying, Sample, fitted
from mudanza.migration.forecast.foresight import foresee
from mudanza.migration.forecast.model import Chance, Forecast, Known, Link, Prediction, Strategy, outcome_beside
from mudanza.migration.forecast.precopy import LOOK, Load, carry
from mudanza.migration.transfer import POLL
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.units import GIB, MIB

LINK = Link(100.0 * MIB, "as the settings say")
ALLOWED = Budget(0.3, postcopy=PostCopy.ALLOW)
CALM = Known(
    link=LINK, budget=ALLOWED, memory=4.0 * GIB, in_use=1.0 * GIB, dirtying=Dirtying(5.0 * MIB, 64.0 * MIB),
    dirtying_from="sampled",
)  # fmt: skip
BUSY = replace(CALM, dirtying=Dirtying(150.0 * MIB, 1.0 * GIB))


def of(forecast: Forecast, strategy: Strategy) -> Prediction:
    return next(each for each in forecast.strategies if each.strategy is strategy)


def test_a_calm_guest_goes_by_precopy_and_the_reason_names_both_rates() -> None:
    forecast = foresee(CALM)
    assert forecast.chosen.strategy is Strategy.PRECOPY
    assert forecast.chosen.chance is Chance.SURE
    assert 10.24 + 2 < forecast.chosen.total < 16
    assert "the guest dirties 5 MiB/s, and 100 MiB/s get across" in forecast.why
    assert forecast.sentence.startswith("about 1")
    assert "1.0 GiB over a link of 100 MiB/s (as the settings say): pre-copy, because" in forecast.sentence.replace(
        "1.1 GiB", "1.0 GiB"
    )


def test_a_guest_faster_than_the_link_goes_by_postcopy_where_that_is_allowed() -> None:
    forecast = foresee(BUSY)
    assert forecast.chosen.strategy is Strategy.POSTCOPY_AFTER
    assert forecast.why.startswith("pre-copy would take ")
    assert of(forecast, Strategy.PRECOPY).chance in (Chance.NO, Chance.UNLIKELY)
    assert of(forecast, Strategy.PRECOPY).downtime is None
    assert of(forecast, Strategy.POSTCOPY_NOW).total < of(forecast, Strategy.POSTCOPY_AFTER).total


def test_where_it_is_forbidden_it_is_foreseen_to_be_given_up_and_said_what_would_work() -> None:
    forecast = foresee(replace(BUSY, budget=Budget(0.3, policy=Policy.GENTLE)))
    assert forecast.chosen.downtime is None
    assert not forecast.chosen.arrives
    assert "it would be given up after about" in forecast.sentence
    assert "--post-copy allow" in forecast.sentence
    assert outcome_beside(forecast.to_json()).startswith("to be given up after")


def test_slowing_the_guest_down_gets_it_across() -> None:
    forecast = foresee(replace(BUSY, budget=Budget(0.3, policy=Policy.DEADLINE)))
    assert forecast.chosen.strategy is Strategy.THROTTLED
    assert forecast.chosen.downtime is not None
    assert "slowed down by" in forecast.why


def test_the_chance_tells_how_much_it_rests_on_the_measurement() -> None:
    never = replace(CALM, budget=Budget(0.3), in_use=4.0 * GIB)

    def chance(rate: float) -> Chance:
        return foresee(replace(never, dirtying=Dirtying(rate * MIB, 4.0 * GIB))).chosen.chance

    assert [chance(rate) for rate in (10, 60, 110, 400)] == [Chance.SURE, Chance.LIKELY, Chance.UNLIKELY, Chance.NO]
    assert foresee(replace(never, dirtying=None)).chosen.chance is Chance.UNKNOWN


def test_the_model_looks_as_often_as_the_controller() -> None:
    assert LOOK == POLL


def test_what_is_not_known_is_said() -> None:
    forecast = foresee(replace(CALM, dirtying=None, dirtying_from="that takes longer than the check"))
    assert "how much it dirties is not known: that takes longer than the check" in forecast.sentence


def test_a_deadline_that_cannot_be_kept_is_foreseen() -> None:
    forecast = foresee(replace(CALM, budget=replace(ALLOWED, deadline=6.0)))
    assert forecast.chosen.downtime is None
    assert "deadline" in forecast.sentence


def test_a_vm_that_is_off_has_only_one_way() -> None:
    forecast = foresee(replace(CALM, running=False, disks=1.0 * GIB))
    assert [each.strategy for each in forecast.strategies] == [Strategy.COLD]
    assert forecast.chosen.downtime == 0.0
    assert forecast.chosen.total > 10.24


def test_what_is_stored_is_plain_and_tells_the_downtime_apart() -> None:
    stored = foresee(CALM).to_json()
    assert stored["strategy"] == "pre-copy"
    assert stored["downtime"] > stored["switchover"] == 0.1
    assert stored["link"] == {"rate": LINK.rate, "why": LINK.why}
    assert outcome_beside(stored).endswith("pre-copy")


def test_a_working_set_is_seen_where_the_second_period_finds_no_more() -> None:
    assert fitted([Sample(1, 64 * MIB), Sample(3, 64 * MIB)], GIB).working_set == 64 * MIB
    linear = fitted([Sample(1, 20 * MIB), Sample(3, 60 * MIB)], GIB)
    assert linear.working_set == GIB
    assert linear.rate == pytest.approx(20 * MIB, rel=0.05)
    assert fitted([Sample(1, 0), Sample(3, 0)], GIB) == STILL
    few = fitted([Sample(1, 8 * MIB), Sample(3, 18 * MIB)], GIB, grain=2 * MIB)
    assert few.working_set == GIB, "four and nine sampled pages are too few to tell"
    many = fitted([Sample(1, 80 * MIB), Sample(3, 100 * MIB)], GIB, grain=2 * MIB)
    assert 100 * MIB < many.working_set < 200 * MIB
    assert fitted([Sample(1, 20 * MIB)], GIB).within(1) == pytest.approx(20 * MIB)


@given(st.floats(1, 500), st.floats(0.05, 0.9))
def test_two_samples_give_back_the_guest_that_they_are_of(working_set: float, share: float) -> None:
    guest = Dirtying(share * working_set, working_set)
    found = fitted([Sample(1, guest.within(1)), Sample(3, guest.within(3))], 10_000)
    if found.working_set < 10_000:  # else it is so near to steady writing that no working set can be seen
        assert found.working_set == pytest.approx(working_set, rel=0.01)
        assert found.rate == pytest.approx(guest.rate, rel=0.01)


links = st.floats(5, 2000).map(lambda rate: Link(rate * MIB, "told"))
guests = st.builds(Dirtying, st.floats(0 * MIB, 1000 * MIB), st.floats(1 * MIB, 4096 * MIB))
knowns = st.builds(
    Known,
    link=links,
    budget=st.builds(
        Budget, st.floats(0.05, 2.0), st.none() | st.floats(1, 500), st.sampled_from(Policy), st.sampled_from(PostCopy)
    ),
    memory=st.just(4.0 * GIB),
    in_use=st.floats(16 * MIB, 4096 * MIB),
    dirtying=st.none() | guests,
    writes=st.floats(0 * MIB, 100 * MIB),
    disks=st.just(0.0) | st.floats(1 * MIB, 4096 * MIB),
)


@settings(deadline=None, max_examples=30)
@given(knowns)
def test_no_move_is_foreseen_to_take_less_than_its_data(known: Known) -> None:
    forecast = foresee(known)
    for each in (*forecast.strategies, forecast.chosen):
        if each.arrives and each.strategy is not Strategy.COLD:
            assert each.total >= known.floor
            assert each.bytes >= (known.in_use + known.disks) * 0.999


@settings(deadline=None, max_examples=30)
@given(knowns)
def test_what_is_chosen_is_what_the_controller_does(known: Known) -> None:
    forecast = foresee(known)
    budget = known.budget
    beside = known.habits.set_up + known.disks / (known.link.rate - min(known.writes, known.link.rate / 2))
    left = None if budget.deadline is None else budget.deadline - beside
    slowed = min(known.writes, known.link.rate / 2) if known.disks else 0.0
    load = Load(known.memory, known.in_use, known.link.rate - slowed, known.dirtying or STILL)
    run = carry(load, replace(budget, deadline=left), throttled=budget.policy is Policy.DEADLINE)
    assert forecast.chosen.arrives == run.arrived
    assert forecast.chosen.strategy.startswith("post-copy") == bool(run.postcopy)
    if forecast.chosen.downtime is not None:
        assert forecast.chosen.downtime - forecast.chosen.switchover <= budget.max_downtime
    if budget.postcopy is PostCopy.NEVER:
        assert not forecast.chosen.strategy.startswith("post-copy")


@settings(deadline=None, max_examples=30)
@given(knowns, st.floats(1.1, 4.0))
def test_a_faster_link_never_makes_it_longer(known: Known, times: float) -> None:
    faster = replace(known, link=Link(known.link.rate * times, "told"))
    slow, fast = foresee(known), foresee(faster)
    for strategy in (Strategy.POSTCOPY_NOW, Strategy.POSTCOPY_AFTER, Strategy.COLD):
        assert of(fast, strategy).total <= of(slow, strategy).total + 1e-6 or not of(slow, strategy).arrives
    if of(slow, Strategy.PRECOPY).arrives:
        assert of(fast, Strategy.PRECOPY).arrives
        assert of(fast, Strategy.PRECOPY).total <= of(slow, Strategy.PRECOPY).total * 1.01 + 0.5


@settings(deadline=None, max_examples=30)
@given(knowns.filter(lambda known: known.dirtying is not None), st.floats(1.1, 4.0))
def test_a_busier_guest_never_goes_quicker(known: Known, times: float) -> None:
    assert known.dirtying is not None
    busier = replace(known, dirtying=known.dirtying.faster(times))
    calm, busy = foresee(known), foresee(busier)
    for strategy in (Strategy.POSTCOPY_NOW, Strategy.POSTCOPY_AFTER):
        assert of(busy, strategy).total >= of(calm, strategy).total - 1e-6
    if of(busy, Strategy.PRECOPY).arrives:
        assert of(calm, Strategy.PRECOPY).arrives
        assert of(busy, Strategy.PRECOPY).total >= of(calm, Strategy.PRECOPY).total * 0.99 - 0.5
