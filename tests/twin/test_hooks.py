"""Hooks around moves that go wrong: each manner of theirs, and controllers that die or sleep at each of their moments.

Random play (`test_model.py`) gives its moves hooks as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from mudanza.migration.hooks import Hooks
from mudanza.model.hook import When
from mudanza.model.migration import Mode
from tests.twin.cells import ASLEEP, begin, later, migrate, step
from tests.twin.play import Step, replay

DEAD = [step("kill_controller"), later(200.0), step("resume"), later(400.0)]
MOMENTS = ("hook ask before", "hook dns before", "hook dns before has", "hook dns after", "hook told after")


def hooked(instant: str, mode: Mode, *then: Step, **manners: str) -> list[Step]:
    usual = {"ask": "well", "dns": "well", "told": "well"}
    return [begin(autostart=True), step("give_it_hooks", **{**usual, **manners}), migrate(instant, mode), *then]


def cells() -> Iterator[tuple[str, list[Step]]]:
    for mode in (Mode.AUTO, Mode.COLD):
        for manner in ("well", "fails", "hangs", "is missing"):
            yield f"{mode}, dns {manner}", hooked("", mode, later(400.0), dns=manner)
        for moment in MOMENTS:
            yield f"{mode}, dead at {moment}", hooked(moment, mode, *DEAD)
            yield f"{mode}, asleep at {moment}", hooked(moment, mode, *ASLEEP)
        yield f"{mode}, cancelled at a hook", hooked("hook dns before", mode, step("press_ctrl_c"), later(400.0))
        yield (
            f"{mode}, failed, and dead as that is told",
            hooked("after intend create volume", mode, step("refuse_logins", host="h2"), step("press_ctrl_c"),
                   step("at_the_instant", instant="hook told failure"), *DEAD),
        )  # fmt: skip


CELLS = dict(cells())


@pytest.mark.parametrize("steps", CELLS.values(), ids=CELLS)
def test_the_promises_hold(steps: list[Step]) -> None:
    broken = replay(steps)
    assert broken is None, broken


def test_a_hook_that_is_run_once_too_often_is_seen() -> None:
    """As whoever goes on would that does not look into the journal."""

    def all_of_them(hooks: Hooks, when: When) -> tuple[str, ...]:
        known = hooks._known
        return tuple(name for name in hooks._record.hooks if when in known[name].when)

    with patch.object(Hooks, "_due", all_of_them):
        broken = replay(CELLS["auto, dead at hook told after"])
    assert "and was run again" in str(broken)


def test_a_move_that_a_hook_did_not_want_is_seen() -> None:
    def unheard(hooks: Hooks, wanted: object, _deadline: object, _begun: object) -> None:
        for name in hooks._due(When.BEFORE):
            hooks._run(name, When.BEFORE, wanted)  # type: ignore[arg-type]

    with patch.object(Hooks, "before", unheard):
        broken = replay(CELLS["auto, dns fails"])
    assert "did not want the move, and it was made" in str(broken)


def test_those_for_a_failure_that_are_left_out_are_seen() -> None:
    def silent(_hooks: Hooks, when: When, _outcome: str, _why: str = "") -> tuple[str, ...]:
        return ()

    with patch.object(Hooks, "after", silent):
        broken = replay(CELLS["cold, dns fails"])
    assert "to take back what they did" in str(broken)
