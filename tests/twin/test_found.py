"""What the model found in the product, each as the shortest run of steps that broke a promise before it was mended."""

from __future__ import annotations

from typing import Any

import pytest

from mudanza.model.migration import Mode, Verify
from tests.twin.machine import World
from tests.twin.play import Step, replay, take


def begin(**about: Any) -> Step:
    return Step("begin", {"autostart": False, "disks": 1, "rate": 4, "run": True, "seed": 3, "shared": False, **about})


def migrate(instant: str, mode: Mode = Mode.AUTO, *, keep: bool = False, calm: bool = True) -> Step:
    return Step("migrate", {"calm": calm, "keep": keep, "mode": mode, "verify": Verify.FULL, "instant": instant})


def step(rule: str, **arguments: Any) -> Step:
    return Step(rule, arguments)


def later(seconds: float) -> Step:
    return Step("later", {"seconds": seconds})


def sleeps_through_its_lease(instant: str, mode: Mode = Mode.AUTO) -> list[Step]:
    """A controller is stopped at an instant, and wakes when another one has gone on with its job."""
    stopped = [step("stop_controller", seconds=200.0), later(31.0), step("resume"), later(120.0), later(120.0)]
    return [begin(autostart=True), migrate(instant, mode), *stopped]


FOUND = {
    "the source's host dies when the target runs it, and comes back with autostart": [
        begin(autostart=True),
        migrate("phase FINISHING of web"),
        later(0.05),
        step("kill_host", host="h1"),
        later(5.0),
        step("host_returns", host="h1"),
        later(120.0),
    ],
    "a controller that slept deletes the disk of the VM that has moved there meanwhile": [
        begin(autostart=True),
        migrate("phase DISKS of web"),
        step("press_ctrl_c"),
        step("at_the_instant", instant="after intend delete volume"),
        step("stop_controller", seconds=200.0),
        later(31.0),
        step("resume"),
        later(5.0),
        migrate("", calm=False),
        later(120.0),
        later(120.0),
    ],
    "a guest that was told to shut down goes down unnoticed, for the answer was lost": [
        begin(),
        migrate("after intend shut down", Mode.COLD),
        step("lose_answer", host="h1", call="shutdown"),
        later(120.0),
    ],
    "a person is called for a VM that has started, for the answer was lost": [
        begin(),
        migrate("after intend start", Mode.COLD),
        step("lose_answer", host="h2", call="start"),
        later(120.0),
    ],
    "a person is called for a VM that was let go of, for the answer was lost": [
        begin(autostart=True),
        migrate("after intend release source", Mode.COLD),
        step("lose_answer", host="h1", call="undefine"),
        later(120.0),
    ],
    "a volume is left and not told of, for the answer was lost": [
        begin(),
        migrate("after intend create volume", Mode.COLD),
        step("lose_answer", host="h2", call="create volume"),
        later(120.0),
    ],
    "a person is called for ever for a guest that died at the target": [
        begin(),
        migrate("phase FINISHING of web"),
        later(0.05),
        step("kill_qemu", host="h2"),
        later(120.0),
    ],
    "a stranger starts it at the source while autostart is about to be switched off there": [
        begin(autostart=True),
        migrate("before intend define", Mode.COLD),
        step("stranger_starts_it"),
        later(120.0),
    ],
    "a controller that slept makes a volume nobody knows of": sleeps_through_its_lease("after intend create volume"),
    "a controller that slept defines the VM at the target": sleeps_through_its_lease("after intend define", Mode.COLD),
    "a controller that slept starts the VM": sleeps_through_its_lease("after intend start", Mode.COLD),
}


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
