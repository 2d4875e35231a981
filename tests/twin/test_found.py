"""What the model found in the product, each as the shortest run of steps that broke a promise before it was mended."""

from __future__ import annotations

from typing import Any

import pytest

from mudanza.model.migration import Mode, Verify
from tests.twin.play import Step, replay


def begin(**about: Any) -> Step:
    return Step("begin", {"autostart": False, "disks": 1, "rate": 4, "run": True, "seed": 3, "shared": False, **about})


def migrate(instant: str, mode: Mode = Mode.AUTO, *, keep: bool = False) -> Step:
    return Step("migrate", {"calm": True, "keep": keep, "mode": mode, "verify": Verify.FULL, "instant": instant})


def step(rule: str, **arguments: Any) -> Step:
    return Step(rule, arguments)


FOUND = {
    "the source's host dies when the target runs it, and comes back with autostart": [
        begin(autostart=True),
        migrate("phase FINISHING of web"),
        step("later", seconds=0.05),
        step("kill_host", host="h1"),
        step("later", seconds=5.0),
        step("host_returns", host="h1"),
        step("later", seconds=120.0),
    ],
}


@pytest.mark.parametrize("steps", FOUND.values(), ids=FOUND)
def test_it_is_mended(steps: list[Step]) -> None:
    broken = replay(steps)
    assert broken is None, broken
