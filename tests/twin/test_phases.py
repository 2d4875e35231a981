"""One trouble in each phase of a move, and two at its switchover: what the model meets now and then, always."""

from __future__ import annotations

import pytest

from tests.twin.cells import ASLEEP_OR_UNHEARD, ONE_TROUBLE, TOO_EARLY, TWO_TROUBLES
from tests.twin.play import Step, replay

CELLS = ONE_TROUBLE | ASLEEP_OR_UNHEARD | TOO_EARLY


@pytest.mark.parametrize("steps", CELLS.values(), ids=CELLS)
def test_the_promises_hold(steps: list[Step]) -> None:
    broken = replay(steps)
    assert broken is None, broken


@pytest.mark.parametrize("steps", TWO_TROUBLES.values(), ids=TWO_TROUBLES)
def test_the_promises_hold_when_two_things_happen_at_once(steps: list[Step]) -> None:
    broken = replay(steps)
    assert broken is None, broken
