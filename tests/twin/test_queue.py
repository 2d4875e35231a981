"""Controllers that share a queue, by the product's own worker and moves, on simulated hosts: one is killed, one is
paused past its leases and woken. Each job runs to its end once, and nothing is done by whoever has lost it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, update

from mudanza.journal.jobs import LEASE, LONGEST_CALL, JobHandle
from mudanza.journal.schema import job
from mudanza.model.errors import MigrationFailedError
from tests.postgres import Server
from tests.twin.database_clock import simulated_time_in
from tests.twin.fleet import Fleet
from tests.twin.scene import scene_on

HOSTS = 3
FIRST = 2
"""The epoch of whoever takes a job from the queue."""
PAUSE = LEASE + LONGEST_CALL + 120.0
"""Seconds for which one sleeps: until others have taken what it had, and have done it."""

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def fleet(postgresql: Server, tmp_path: Path) -> Iterator[Fleet]:
    database = postgresql.new_database()
    with simulated_time_in(database), scene_on(database, Random(7).randrange, HOSTS) as the:
        the.twin.rate *= 8
        the.twin.strangers.add("stranger")
        yield Fleet(the, tmp_path)


def ask_for_moves(fleet: Fleet) -> list[int]:
    """Ask for every VM to go to the next host."""
    hosts = list(fleet.the.twin.hosts)
    following = dict(zip(hosts, hosts[1:] + hosts[:1], strict=True))
    return [fleet.ask_for(vm, following[fleet.places(vm)[0]]) for vm in fleet.vms]


def play(fleet: Fleet, killed_at: str, paused_at: str, times: int = 1) -> None:
    """Have two controllers share the queue, lose one, pause the other, and let a third one do what they left.

    ``times``: they come to these instants so often before.
    """
    scheduler = fleet.the.twin.scheduler
    killed, sleeper = fleet.start("killed"), fleet.start("sleeper")
    fleet.advance_to(killed, killed_at, times=times)
    assert fleet.held_by(killed)
    fleet.the.twin.kill(killed)
    fleet.advance_to(sleeper, paused_at, times=times)
    slept_over = fleet.held_by(sleeper)
    scheduler.stop(sleeper, PAUSE)
    woken_at = scheduler.now + PAUSE
    heir = fleet.start("heir")
    fleet.advance_until(lambda: scheduler.now >= woken_at, "it wakes")
    taken = [each.id for each in slept_over if fleet.the.holders[each.id].controller is heir]
    assert taken, "what the sleeper had was taken from it"
    fleet.advance_until(lambda: not fleet.the.jobs.unfinished(), "all jobs end")
    for controller in (sleeper, heir):
        fleet.end(controller)
    fleet.advance_until(lambda: not (sleeper.threads or heir.threads), "both end")


@pytest.mark.parametrize(
    ("count", "killed_at", "paused_at"),
    [
        (50, "after enter transferring", "after intend delete volume"),
        (15, "after intend release source", "after intend define"),
        (15, "after intend create volume", "after intend transfer"),
    ],
)
def test_each_move_is_done_once_though_a_controller_dies_and_another_sleeps(
    fleet: Fleet, count: int, killed_at: str, paused_at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.populate(count)
    numbers = ask_for_moves(fleet)
    play(fleet, killed_at, paused_at, times=3 if count == 50 else 1)
    assert fleet.stale == []
    assert fleet.ends() == Counter(numbers), "each ran to its end once"
    assert "does nothing more for it" in capsys.readouterr().err, "the sleeper was told that it had lost a job"
    jobs = [fleet.the.jobs.get(number) for number in numbers]
    # What had not begun to move when its controller was lost is given up, and said to be at its source as before.
    given_up = [each for each in jobs if each.exit_code != 0]
    assert {each.exit_code for each in given_up} <= {MigrationFailedError.exit_code}
    assert all(each.epoch > FIRST and fleet.places(each.vm_uuid) == [each.source] for each in given_up)
    do_all(fleet, [fleet.ask_for(each.vm_uuid, each.target) for each in given_up])
    assert fleet.faults() == []


def test_a_fence_that_is_down_is_seen(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobHandle, "assert_held", lambda _self: None)
    monkeypatch.setattr(JobHandle, "assert_may_act", lambda _self: None)
    monkeypatch.setattr(
        JobHandle,
        "_guarded",
        lambda self, db, values: db.execute(update(job).where(job.c.id == self.id).values(**values)),
    )
    fleet.populate(15)
    ask_for_moves(fleet)
    play(fleet, "after enter transferring", "after intend delete volume")
    assert "whose job is heir's" in fleet.stale[0]


def write_unguarded(mine: JobHandle, connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(update(job).where(job.c.id == mine.id).values(**values))


def do_all(fleet: Fleet, jobs: list[int]) -> None:
    """Have these jobs done, and well."""
    last = fleet.start("last")
    fleet.advance_until(lambda: not fleet.the.jobs.unfinished(), "what was given up is done, too")
    fleet.end(last)
    assert {fleet.the.jobs.get(number).exit_code for number in jobs} <= {0}
