"""Fewer hosts when little is to be done: who is emptied, who is relieved, who is woken, and who is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mudanza.model.errors import UsageError
from mudanza.model.watts import PowerModel, kilowatt_hours, straight
from mudanza.planning.saving.deciding import Round, decide
from mudanza.planning.saving.park import Park
from mudanza.planning.saving.terms import Terms

TERMS = Terms(unsure=0.0, move_price=1.0)
MODEL = straight(100, 200)


def park(vms: list[tuple[int, list[float]]], hosts: int = 3, *, asleep: tuple[int, ...] = (), **more: object) -> Park:
    """Return hosts of 10 CPUs with these VMs: where each is, and what it used in each of the last readings."""
    on = np.ones(hosts, dtype=np.bool_)
    on[list(asleep)] = False
    place, recent = np.array([at for at, _ in vms]), np.array([used for _, used in vms], dtype=np.float64)
    return Park(np.full(hosts, 10.0), [MODEL] * hosts, on, place, recent, **more)  # type: ignore[arg-type]


def decided(found: Park, terms: Terms = TERMS, rested: float = np.inf) -> Round:
    return decide(found, np.full(len(found.capacity), rested), terms)


def test_the_least_used_host_is_emptied_and_switched_off() -> None:
    found = decided(park([(0, [4, 4]), (1, [3, 3]), (2, [1, 1])]))
    assert found.off == (1, 2)
    assert {vm for vm, _, _ in found.moves} == {1, 2}
    assert all(target == 0 for _, _, target in found.moves)


def test_nothing_moves_where_no_host_can_be_emptied() -> None:
    found = decided(park([(0, [6, 6]), (1, [6, 6]), (2, [6, 6])]))
    assert (found.moves, found.off, found.woken) == ((), (), ())


def test_vms_that_are_busy_at_the_same_time_do_not_share_a_host() -> None:
    same = [[8.0, 1.0, 1.0], [8.0, 1.0, 1.0]]
    turns = [[8.0, 1.0, 1.0], [1.0, 8.0, 1.0]]
    together = [decided(park(list(enumerate(used)), hosts=2), replace(TERMS, usual=1.0)) for used in (same, turns)]
    assert [len(each.off) for each in together] == [0, 1]


def test_what_cannot_be_emptied_altogether_is_left_as_it_is() -> None:
    # One of the two VMs on the last host would fit beside the first one; both would not.
    found = decided(park([(0, [7, 7]), (1, [2, 2]), (1, [2, 2])], hosts=2))
    assert found.moves == ()


def test_a_host_that_was_woken_stays_on_for_a_while() -> None:
    quiet = [(0, [4.0, 4.0]), (1, [1.0, 1.0])]
    assert decided(park(quiet, hosts=2), rested=TERMS.least_on - 1).off == ()
    assert decided(park(quiet, hosts=2), rested=TERMS.least_on).off == (1,)


def test_a_host_that_must_stay_on_is_never_emptied() -> None:
    fixed = np.array([False, True])
    assert decided(park([(0, [4, 4]), (1, [1, 1])], hosts=2, fixed=fixed)).off == (0,)


def test_moves_that_save_too_little_are_not_made() -> None:
    many = [(0, [4.0, 4.0]), *[(1, [0.1, 0.1])] * 10]
    fixed = np.array([True, False])
    assert decided(park(many, hosts=2, fixed=fixed)).off == (1,)
    assert decided(park(many, hosts=2, fixed=fixed), replace(TERMS, move_price=30.0)).moves == ()


def test_a_host_that_is_too_busy_is_relieved_by_one_move_of_the_smallest_vm_that_is_enough() -> None:
    found = decided(park([(0, [5, 6]), (0, [2, 2]), (0, [3, 3]), (1, [6, 6])], hosts=2))
    assert found.moves == ((1, 0, 1),)
    assert "110%" in found.why[0]


def test_a_host_is_woken_where_a_busy_one_has_no_other_way_out() -> None:
    found = decided(park([(0, [6, 6]), (0, [5, 5]), (1, [8, 8])], asleep=(2,)))
    assert found.woken == (2,)
    assert [target for _, _, target in found.moves] == [2]


def test_memory_that_is_not_there_keeps_a_vm_out() -> None:
    quiet = [(0, [1.0, 1.0]), (1, [1.0, 1.0])]
    needs = np.array([6.0, 6.0])
    assert decided(park(quiet, hosts=2, memory=(np.array([10.0, 10.0]), needs))).moves == ()
    assert len(decided(park(quiet, hosts=2, memory=(np.array([12.0, 12.0]), needs))).moves) == 1


def test_a_reserve_keeps_hosts_on_that_could_fail() -> None:
    quiet = [(0, [4.0, 4.0]), (1, [4.0, 4.0])]
    assert len(decided(park(quiet, hosts=3)).off) == 2
    assert len(decided(park(quiet, hosts=3), replace(TERMS, reserve=1)).off) == 1


def test_few_readings_leave_more_room() -> None:
    terms = replace(TERMS, unsure=0.4, ceiling=0.9)
    assert terms.full_at(1) == pytest.approx(0.54)
    assert terms.full_at(16) == pytest.approx(0.81)


@pytest.mark.parametrize("wrong", [{"ceiling": 1.2}, {"relieved": 1.1}, {"ceiling": 0.9, "relief": 0.8}])
def test_terms_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Terms(**wrong)  # type: ignore[arg-type]


def test_watts_lie_on_the_line_between_the_figures_known() -> None:
    model = PowerModel((100, 110, 150))
    assert [model.at(share) for share in (-1, 0, 0.25, 0.5, 0.75, 1, 2)] == [100, 100, 105, 110, 130, 150, 150]
    assert (model.idle, model.peak) == (100, 150)
    assert kilowatt_hours([500, 500], 1800) == 0.5


@pytest.mark.parametrize("watts", [(100,), (100, 90), (-1, 5), (1, float("nan"))])
def test_watts_that_cannot_be_are_refused(watts: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        PowerModel(watts)
