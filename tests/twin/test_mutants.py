"""Faults planted into the product: the model sees each of them, in the cell that is known to show it."""

from __future__ import annotations

import pytest

from tests.twin.cells import CELLS
from tests.twin.mutants import MUTANTS, Mutant
from tests.twin.play import replay


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_it_is_seen(mutant: Mutant) -> None:
    assert replay(CELLS[mutant.cell]) is None
    with mutant.plant():
        assert replay(CELLS[mutant.cell]) is not None
