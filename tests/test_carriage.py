"""What carriers take of files, and what has got there."""

from __future__ import annotations

import pytest

from mudanza.migration.freight.carriage import UNDER_WAY, arrived
from mudanza.model.units import MIB

LENGTH = 100 * MIB


@pytest.mark.parametrize(
    ("done", "there"),
    [
        (0, 0),
        (1, 0),
        (UNDER_WAY, 0),
        (UNDER_WAY + MIB, MIB),
        (LENGTH - 2, LENGTH - 2 - UNDER_WAY),
        (LENGTH - 1, LENGTH),
        (LENGTH, LENGTH),
    ],
)
def test_what_is_still_on_its_way_has_not_arrived_before_libvirt_says_all_but_one_byte(done: int, there: int) -> None:
    assert arrived(done, LENGTH) == there
