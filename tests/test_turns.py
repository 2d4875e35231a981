"""Whose turn it is to bring a file that several VMs use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mudanza import clock
from mudanza.journal.database import open_database
from mudanza.journal.jobs import Job, JobHandle, Jobs, NewJob
from mudanza.migration.freight.freight import CancelledError
from mudanza.migration.freight.turns import LOOK_EVERY, await_turn, brought_by
from mudanza.preflight.cargo import CargoFile, Role

BASE = "/images/base.qcow2"
GOLD = CargoFile(Role.BACKING, "vda's base.qcow2", BASE, BASE, for_others_too=True)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(open_database(str(tmp_path / "jobs.db")))


def begin(jobs: Jobs, vm: str, *, kind: str = "cold", target: str = "h2") -> JobHandle:
    return jobs.begin(NewJob(kind, vm, vm, "h1", target, {}, "ana@laptop"))


def decide(handle: JobHandle, key: str = "files", *, shared: bool = True, path: str = BASE) -> None:
    handle.done(handle.intend("decide", {key: [{"path": path, "for_others_too": shared}]}), {})


def ahead(jobs: Jobs, job_id: int, target: str = "h2") -> Job | None:
    return brought_by(job_id, target, {BASE}, jobs.unfinished())


def test_the_older_job_goes_first(jobs: Jobs) -> None:
    older, younger = begin(jobs, "a"), begin(jobs, "b")
    decide(older)
    decide(younger)
    first = ahead(jobs, younger.id)
    assert first is not None
    assert first.id == older.id
    assert ahead(jobs, older.id) is None


def test_one_that_has_not_decided_may_bring_anything(jobs: Jobs) -> None:
    older, younger = begin(jobs, "a"), begin(jobs, "b")
    assert ahead(jobs, younger.id) is not None
    decide(older, path="/images/other.qcow2")
    assert ahead(jobs, younger.id) is None


def test_nobody_waits_for_what_is_not_shared_or_goes_elsewhere(jobs: Jobs) -> None:
    decide(begin(jobs, "a"), shared=False)
    decide(begin(jobs, "b", target="h3"))
    assert ahead(jobs, begin(jobs, "c").id) is None


@pytest.mark.parametrize(("kind", "key"), [("cold", "files"), ("live", "ahead")])
def test_a_job_is_waited_for_to_its_end_lest_it_takes_away_what_it_brought(jobs: Jobs, kind: str, key: str) -> None:
    older, younger = begin(jobs, "a", kind=kind), begin(jobs, "b")
    decide(older, key)
    older.done(older.intend("compare", {}), {"same": "all"})
    older.enter("transferring")
    assert ahead(jobs, younger.id) is not None
    older.finish("done", "moved", 0)
    assert ahead(jobs, younger.id) is None


def test_a_job_whose_controller_is_gone_is_not_waited_for(jobs: Jobs) -> None:
    older, younger = begin(jobs, "a"), begin(jobs, "b")
    decide(older)
    gone = [replace(job, abandoned=True) for job in jobs.unfinished()]
    assert brought_by(younger.id, "h2", {BASE}, gone) is None


def test_waiting_ends_with_the_other_job_and_tells_why(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    older, younger = begin(jobs, "a"), begin(jobs, "b")
    decide(older)
    told: list[str] = []

    def keep_claim() -> None:
        older.finish("done", "moved", 0)

    monkeypatch.setattr("mudanza.clock.sleep", lambda _seconds: None)
    await_turn(jobs, younger.id, [GOLD], keep_claim, told.append, begun=clock.monotonic(), deadline=None)
    assert len(told) == 1
    assert f"job {older.id}" in told[0]


def test_waiting_ends_with_the_deadline_and_what_was_waited_for_goes_on(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, younger = begin(jobs, "a"), begin(jobs, "b")
    decide(older)
    now, looks = 1000.0, 0
    monkeypatch.setattr("mudanza.clock.monotonic", lambda: now)

    def sleep(seconds: float) -> None:
        nonlocal now, looks
        now, looks = now + seconds, looks + 1

    monkeypatch.setattr("mudanza.clock.sleep", sleep)
    with pytest.raises(CancelledError, match=rf"deadline of 10 min 0 s: .*job {older.id} \(a\)"):
        # The checks before took 580 s of it.
        await_turn(jobs, younger.id, [GOLD], lambda: None, lambda _: None, begun=now - 580, deadline=600.0)
    assert looks * LOOK_EVERY == 20 + LOOK_EVERY, "the first look after it has passed"
    assert jobs.get(older.id).ended_at is None


def test_who_shares_nothing_does_not_wait(jobs: Jobs) -> None:
    begin(jobs, "a")

    def never(_what: Any = None) -> None:
        raise AssertionError

    alone = [replace(GOLD, for_others_too=False)]
    await_turn(jobs, begin(jobs, "b").id, alone, never, never, begun=0.0, deadline=0.1)
