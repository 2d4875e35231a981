"""Work that a daemon does because a command has asked for it: followed to its end, as when it is done here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mudanza.journal.plans import Plans
from mudanza.model.carrying import RunState
from tests.program import Program
from tests.twin.conftest import Ask
from tests.twin.scene import Scene, scene


@pytest.fixture
def the(tmp_path: Path) -> Iterator[Scene]:
    with scene(Random(7).randrange, tmp_path, hosts=3) as made:
        made.twin.rate *= 8
        made.make_vm("web", "h1", shared=True)
        made.make_vm("db", "h1")
        yield made


def test_a_plan_is_carried_out_there(the: Scene, there: Ask, program: Program, tmp_path: Path) -> None:
    plan = str(tmp_path / "plan.json")
    made = there("plan", "drain", "h1", "--save", plan)
    assert (made.returncode, made.stderr) == (0, f"kept in {plan}; carry it out: mudanza apply {plan}\n")
    done = there("apply", plan)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("plan 1")]  # the moves' own are the daemon's
    assert "2 moves" in told[0]
    assert told[-1] == "plan 1 is done: 2 of 2 VMs are where they were to go"
    assert Plans(the.engine).get(1).state is RunState.DONE
    again = there("apply", plan)
    assert again.returncode == 3
    assert "the world is not as the plan found it" in again.stderr
    assert the.do(lambda: program("apply", plan)) == again
    assert there("run", "watch", "1") == the.do(lambda: program("run", "watch", "1"))


def test_a_plan_that_was_left_to_the_daemon_is_cancelled_there(the: Scene, there: Ask, tmp_path: Path) -> None:
    plan = str(tmp_path / "plan.json")
    there("plan", "drain", "h1", "--save", plan)
    left = there("apply", plan, "--detach", "--at", "2100-01-01T00:00")
    assert left.returncode == 0
    assert left.stderr.endswith("see how it goes: mudanza run watch 1\n")
    paused = there("run", "pause", "1")
    assert (paused.returncode, paused.stderr) == (0, "plan 1 pauses; go on: mudanza run resume 1\n")
    cancelled = there("run", "cancel", "1")
    assert cancelled.returncode == 4
    assert "plan 1 is cancelled" in cancelled.stderr
    assert Plans(the.engine).get(1).state is RunState.CANCELLED
