"""Where a VM belongs that moves switched off: the whole table, and what may never follow from it."""

from __future__ import annotations

import itertools

import pytest

from mudanza.migration.cold.settle import Next, settle_cold
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import VmState

ABSENT = Sighting(Side.ABSENT)
UNSEEN = Sighting(Side.UNSEEN, reason="no answer")
OFF = Sighting(Side.PRESENT, VmState.SHUTOFF, "shutdown", persistent=True)
ON = Sighting(Side.PRESENT, VmState.RUNNING, "booted", persistent=True)
PAUSED = Sighting(Side.PRESENT, VmState.PAUSED, "user", persistent=True)
CRASHED = Sighting(Side.PRESENT, VmState.CRASHED, "panicked", persistent=True)

# Source, target, compared, defined → what is to be done.
TABLE = [
    (OFF, ABSENT, False, False, Next.CARRY),
    (OFF, ABSENT, False, True, Next.CARRY),
    (OFF, ABSENT, True, False, Next.CARRY),
    (OFF, ABSENT, True, True, Next.CARRY),
    (CRASHED, ABSENT, False, False, Next.CARRY),
    (OFF, OFF, True, True, Next.HAND_OVER),
    (OFF, OFF, False, True, Next.TAKE_BACK),
    (OFF, OFF, False, False, Next.PERSON),
    (OFF, OFF, True, False, Next.PERSON),
    (ABSENT, OFF, True, True, Next.FINISH),
    (ABSENT, OFF, False, True, Next.PERSON),
    (ABSENT, OFF, False, False, Next.PERSON),
    (ABSENT, ON, True, True, Next.FINISH),
    (ABSENT, ON, False, False, Next.PERSON),
    (OFF, ON, True, True, Next.FINISH),
    (OFF, ON, False, True, Next.PERSON),
    (OFF, PAUSED, False, False, Next.PERSON),
    (ON, ABSENT, False, False, Next.STAY),
    (PAUSED, ABSENT, True, True, Next.STAY),
    (ON, OFF, True, True, Next.TAKE_BACK),
    (ON, OFF, False, True, Next.TAKE_BACK),
    (ON, OFF, False, False, Next.PERSON),
    (ON, ON, True, True, Next.PERSON),
    (ABSENT, ABSENT, True, True, Next.PERSON),
    (ABSENT, ABSENT, False, False, Next.PERSON),
    (UNSEEN, OFF, True, True, Next.PERSON),
    (OFF, UNSEEN, True, True, Next.PERSON),
    (OFF, UNSEEN, False, False, Next.CARRY),
    (ON, UNSEEN, False, False, Next.STAY),
    (ON, UNSEEN, False, True, Next.PERSON),
    (ABSENT, UNSEEN, False, False, Next.PERSON),
    (UNSEEN, ON, True, True, Next.PERSON),
]


@pytest.mark.parametrize(("source", "target", "compared", "defined", "expected"), TABLE)
def test_each_combination_has_one_answer(
    source: Sighting, target: Sighting, compared: bool, defined: bool, expected: Next
) -> None:
    verdict = settle_cold(source, target, compared=compared, defined=defined)
    assert verdict.next is expected, verdict.why
    assert verdict.why


ALL = [
    (source, target, compared, defined)
    for source, target in itertools.product((ABSENT, UNSEEN, OFF, ON, PAUSED, CRASHED), repeat=2)
    for compared, defined in itertools.product((False, True), repeat=2)
]


@pytest.mark.parametrize(("source", "target", "compared", "defined"), ALL)
def test_nothing_is_let_go_that_was_not_compared(
    source: Sighting, target: Sighting, compared: bool, defined: bool
) -> None:
    verdict = settle_cold(source, target, compared=compared, defined=defined)
    if verdict.next in (Next.HAND_OVER, Next.FINISH):
        assert compared
        assert defined
        assert not source.state.active
    strange = settle_cold(source, target, compared=compared, defined=defined, let_go=False)
    if source is ABSENT:
        assert strange.next is Next.PERSON, "who took it from the source may have it elsewhere"
    else:
        assert strange == verdict
    if verdict.next is Next.TAKE_BACK:
        assert defined, "only our own definition"
        assert not target.state.active, "and nothing that runs"
    if source is UNSEEN or (target is UNSEEN and (defined or source is ABSENT)):
        assert verdict.next is Next.PERSON, "a host that cannot be asked is not one that says no"
    elif target is UNSEEN:
        assert verdict.next in (Next.CARRY, Next.STAY), "it got files of ours only: the source's is the VM"
