"""Which exit code several VMs amount to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.cli.exit_codes import GRAVITY, PARTLY, of_several
from mudanza.model.errors import MudanzaError


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], 0),
        ([0, 0], 0),
        ([4], 4),
        ([3, 3], 3),
        ([0, 5], PARTLY),
        ([6, 5], 5),
        ([4, 6], 6),
        ([3, 4, 3], 4),
        ([2, 3], 3),
        ([1, 4], 1),
        ([1, 6], 6),
    ],
)
def test_examples(codes: list[int], expected: int) -> None:
    assert of_several(codes) == expected


@given(st.lists(st.sampled_from((0, *GRAVITY)), min_size=1))
def test_the_order_of_vms_does_not_matter(codes: list[int]) -> None:
    assert of_several(codes) == of_several(codes[::-1])
    assert (of_several(codes) == 0) == (not any(codes))
    assert (of_several(codes) == PARTLY) == (any(codes) and not all(codes))


def test_every_error_has_its_place() -> None:
    kinds = [MudanzaError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} == set(GRAVITY)
