"""Some cells of the crash matrix; ``scripts/soak --matrix`` plays them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mudanza.lab.lab import Lab
from tests.lab.command import Mudanza
from tests.lab.matrix.cast import Cast
from tests.lab.matrix.cells import CELLS

pytestmark = pytest.mark.lab

PLAYED = (
    pytest.param("live: source's libvirtd killed: switchover + 150 ms", marks=pytest.mark.soak),
    pytest.param("live: source's QEMU killed: copying disks", marks=pytest.mark.soak),
    pytest.param("live: controller killed: before the end of create volume", marks=pytest.mark.soak),
    "live: controller killed: before the end of transfer",
    pytest.param("live: target cut off from all: settling", marks=pytest.mark.soak),
    pytest.param("cold: controller killed: before the end of release source", marks=pytest.mark.soak),
    "cold, running: controller killed: before the end of start",
)
"""One of each kind: what is killed, cut off and refused, and the moments at which a VM changes hands."""
BY_NAME = {cell.id: cell for cell in CELLS}


@pytest.fixture(scope="module")
def cast(lab: Lab, mudanza: Mudanza) -> Iterator[Cast]:
    made = Cast(lab)
    yield made
    made.dismiss()


@pytest.mark.parametrize("name", PLAYED)
def test_cell(cast: Cast, name: str) -> None:
    cast.play(BY_NAME[name])


def test_every_cell_has_a_name_of_its_own() -> None:
    assert len(BY_NAME) == len(CELLS)
