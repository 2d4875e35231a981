"""What the model found in the product, each as the shortest run of steps that broke a promise before it was mended."""

from __future__ import annotations

import pytest

from tests.twin.cells import FOUND, begin, later, migrate, step
from tests.twin.machine import World
from tests.twin.play import Step, replay, take


@pytest.mark.parametrize("steps", FOUND.values(), ids=FOUND)
def test_it_is_mended(steps: list[Step]) -> None:
    broken = replay(steps)
    assert broken is None, broken


@pytest.mark.parametrize("phase", ["HANDED_OVER", "FINISHING"])
def test_libvirt_is_kept_from_letting_both_copies_run(phase: str) -> None:
    """Cut off while the target lets the guest run, the source's libvirt would let it go on there after 30 s."""
    world = World()
    try:
        for each in (begin(), migrate(f"phase {phase} of web"), later(0.05), step("cut"), later(120.0)):
            take(world, each)
        assert world.twin.oracle.violations == []
        assert world.twin.oracle.runs_on(world.vm) == ["h2"]
        assert [attempt.exit_code for attempt in world.the.attempts] == [0]
    finally:
        world.close()
