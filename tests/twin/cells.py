"""Runs of steps that the model takes every time: what it found once, and troubles at each instant of a move.

Random play meets a single trouble at a given instant now and then, and two at the same instant hardly ever.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from mudanza.journal.jobs import LEASE, LONGEST_CALL
from mudanza.model.migration import Mode, Verify
from tests.twin import machine
from tests.twin.play import Step


def begin(**about: Any) -> Step:
    return Step("begin", {"autostart": False, "disks": 1, "rate": 4, "run": True, "seed": 3, "shared": False, **about})


def migrate(instant: str, mode: Mode = Mode.AUTO, *, keep: bool = False, calm: bool = True) -> Step:
    return Step("migrate", {"calm": calm, "keep": keep, "mode": mode, "verify": Verify.FULL, "instant": instant})


def step(rule: str, **arguments: Any) -> Step:
    return Step(rule, arguments)


def later(seconds: float) -> Step:
    return Step("later", {"seconds": seconds})


ASLEEP = [step("stop_controller", seconds=400.0), later(LEASE + LONGEST_CALL + 5), step("resume"), later(400.0)]
"""A controller sleeps until another one has taken its job, and wakes."""


def sleeps_through_its_lease(instant: str, mode: Mode = Mode.AUTO) -> list[Step]:
    """A controller is stopped at an instant, and wakes when another one has gone on with its job."""
    return [begin(autostart=True), migrate(instant, mode), *ASLEEP]


FOUND = {
    "a VM loses its autostart that was judged while an earlier job had switched it off": [
        step("begin", seed=0, run=True, shared=True, disks=1, autostart=True, rate=4),
        step(
            "two_troubles_at_the_switchover",
            phase="STOPPED",
            first="controller asleep",
            second="controller asleep",
            taken_over=True,
        ),
        step("kill_host", host="h2"),
        step("migrate_it_a_second_time_meanwhile"),
        step("resume"),
        step("a_little_later", points=1),
    ],
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
        step("stop_controller", seconds=400.0),
        later(LEASE + LONGEST_CALL + 5),
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

TROUBLES = {name: step(rule, **arguments) for name, (rule, arguments) in machine.TROUBLES.items()}
LIVE = [
    "after intend create volume",
    *(f"phase {phase} of web" for phase in ("DISKS", "MEMORY", "STOPPED", "HANDED_OVER", "FINISHING", "CONFIRMED")),
]
COLD = [
    "after intend create volume",
    "after intend shut down",
    "phase DISKS of mudanza-carrier",
    *(f"after intend {each}" for each in ("compare", "define", "disarm", "start", "release source", "delete volume")),
]
INSTANTS = (*((each, Mode.AUTO) for each in LIVE), *((each, Mode.COLD) for each in COLD))


def _called(instant: str, mode: Mode) -> str:
    return f"{instant.replace(machine.WEB, 'web')}{', cold' if mode is Mode.COLD else ''}"


ONE_TROUBLE = {
    f"{name} at {_called(instant, mode)}": [
        begin(autostart=True),
        migrate(instant, mode),
        later(0.05),
        trouble,
        later(120.0),
    ]
    for instant, mode in INSTANTS
    for name, trouble in TROUBLES.items()
}

# What was ordered is done, and whoever ordered it will not know; or it was about to be written down.
UNHEARD = {
    f"{what} at {_called(instant, mode)}": [begin(autostart=True), migrate(instant, mode), *then]
    for instant in ("before intend create volume", *machine.ANSWERS)
    for mode in (Mode.AUTO, Mode.COLD)
    for what, then in (
        ("controller killed", [TROUBLES["controller killed"], later(120.0)]),
        ("controller sleeps", ASLEEP),
    )
}
ASLEEP_FOR_LONG = {
    f"controller sleeps at {_called(instant, mode)}": sleeps_through_its_lease(instant, mode)
    for instant, mode in INSTANTS
}

# Somebody goes on with a job whose controller lives, and stands still for a moment before it acts.
TOO_EARLY = {
    f"taken over too early at {instant}": [
        begin(autostart=True),
        migrate(instant, mode),
        step("stop_controller", seconds=3.0),
        step("resume"),
        later(120.0),
    ]
    for instant, mode in (
        ("after intend create volume", Mode.AUTO),
        ("after intend delete volume", Mode.AUTO),
        ("after intend define", Mode.COLD),
        ("after intend start", Mode.COLD),
    )
}

# Within the second in which the VM changes its host, two things at once decide who may be believed. Then somebody goes
# on with the job before anything is mended, and the source's host dies and comes back.
AT_ONCE = sorted(name for name in TROUBLES if "QEMU" not in name)
TWO_TROUBLES = {
    f"{first} and {second} at {instant}": [
        begin(autostart=True),
        migrate(instant),
        later(0.05),
        TROUBLES[first],
        TROUBLES[second],
        later(LEASE + 1),
        step("resume"),
        later(120.0),
        step("kill_host", host="h1"),
        step("host_returns", host="h1"),
        later(120.0),
    ]
    for instant in ("phase HANDED_OVER of web", "phase FINISHING of web")
    for first, second in combinations(AT_ONCE, 2)
}
ASLEEP_OR_UNHEARD = ASLEEP_FOR_LONG | UNHEARD
CELLS = FOUND | ONE_TROUBLE | ASLEEP_OR_UNHEARD | TOO_EARLY | TWO_TROUBLES
