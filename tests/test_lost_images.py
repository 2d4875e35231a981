"""Images of a replica that are not there any more: which restore points are worth nothing, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.journal.database import open_database
from mudanza.journal.protections import Protections
from mudanza.model.errors import MigrationFailedError
from mudanza.model.protection import ReplicaDisk, RestorePoint
from mudanza.protection.lost import forget_lost, lost
from mudanza.protection.replica import image_name, is_whole
from tests.test_protection import VALUES, point

DISKS = ("vda", "vdb")


def chain(*whole: Collection[str]) -> tuple[RestorePoint, ...]:
    """Points of which each has those disks brought as a whole."""
    found = []
    for number, wholes in enumerate(whole, start=1):
        images = {disk: ReplicaDisk(image_name(disk, number, whole=disk in wholes), 1) for disk in DISKS}
        found.append(replace(point(number), disks=images))
    return tuple(found)


def numbers(points: Collection[RestorePoint]) -> list[int]:
    return [each.number for each in points]


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ((), []),
        (("vda.3.qcow2",), [3, 4]),
        (("vda.1.whole.qcow2",), [1, 2, 3, 4]),
        (("vdb.1.whole.qcow2",), []),
        (("vdb.1.whole.qcow2", "vdb.3.whole.qcow2"), [1, 2, 3, 4]),
    ],
)
def test_what_stands_on_an_image_that_is_lost_is_lost(missing: Collection[str], gone: list[int]) -> None:
    points = chain(DISKS, (), ("vdb",), ())
    assert numbers(lost(points, missing)) == gone
    assert lost((), missing) == ()


@given(
    whole=st.lists(st.sets(st.sampled_from(DISKS)), min_size=1, max_size=6),
    drop=st.sets(st.tuples(st.sampled_from(DISKS), st.integers(1, 6))),
)
def test_what_is_left_can_be_come_back_to_at_its_end_and_loses_nothing_it_stands_on(
    whole: list[set[str]], drop: set[tuple[str, int]]
) -> None:
    points = chain(DISKS, *whole[1:])
    missing = {each.disks[disk].file for each in points for disk in DISKS if (disk, each.number) in drop}
    gone = lost(points, missing)
    kept = points[: len(points) - len(gone)]
    assert (*kept, *gone) == points
    for disk in DISKS:
        below: list[str] = []
        for each in kept:
            image = each.disks[disk]
            below = [image.file] if is_whole(image, each.number) else [*below, image.file]
        assert missing.isdisjoint(below)


class Images:
    def __init__(self, missing: Collection[str]) -> None:
        self.gone = frozenset(missing)

    def missing(self, files: Collection[str]) -> frozenset[str]:
        return self.gone & frozenset(files) if "all" not in self.gone else frozenset(files)


def forgetting(store: Protections, images: Images) -> tuple[list[int], str, str]:
    handle = cast("Any", SimpleNamespace(perform=lambda _what, _about, act: act()))
    now, told = forget_lost(handle, store, store.of("db"), cast("Any", images))
    return numbers(now.points), now.checkpoint, told


def test_points_whose_images_are_gone_are_forgotten_and_the_next_round_compares(database: str) -> None:
    store = Protections(open_database(database))
    made = store.make(VALUES)
    for number in (1, 2, 3):
        store.add_point(made.id, point(number, whole=number == 1), f"c{number}")
    assert forgetting(store, Images(())) == ([1, 2, 3], "c3", "")
    with pytest.raises(MigrationFailedError, match="not there") as refused:
        forgetting(store, Images({"all"}))
    assert "mounted" in (refused.value.remedy or "")
    assert numbers(store.get(made.id).points) == [1, 2, 3], "its storage may come back"
    name = image_name("vda", 2, whole=False)
    assert forgetting(store, Images({name})) == ([1], "", f"points 2, 3 are lost, for {name} was not there")


def test_one_that_was_given_up_goes_with_those_that_stand_on_it(database: str) -> None:
    store = Protections(open_database(database))
    made = store.make(VALUES)
    for number in (1, 2):
        store.add_point(made.id, point(number, whole=number == 1), f"c{number}")
    store.give_up(made.id, 1)
    assert forgetting(store, Images({image_name("vda", 1, whole=True)}))[0] == []
    assert store.get(made.id).given_up is None
