"""``mudanza job …`` as a script meets it: exit codes, events and what is written down. No host is asked here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from mudanza.journal import schema
from mudanza.journal.database import open_database
from mudanza.journal.jobs import NEEDS_PERSON, JobHandle, Jobs, NewJob
from mudanza.model.migration import MigrationReport
from tests.program import Program

HOSTS = """
[hosts.h1]
uri = "qemu+ssh://root@h1/system"
[hosts.h2]
uri = "qemu+ssh://root@h2/system"
"""


@pytest.fixture
def engine(mudanza: Program, tmp_path: Path) -> Engine:
    mudanza("import", "-", stdin=HOSTS)
    return open_database(str(tmp_path / "state" / "mudanza.db"))


@pytest.fixture
def handle(engine: Engine) -> JobHandle:
    """The living owner of job 1."""
    return Jobs(engine).begin(NewJob("live", "u-1", "db", "h1", "h2", {"max_downtime": 0.3}, "ana@laptop"))


def report() -> dict[str, Any]:
    """How db moved, as the journal has it."""
    made = MigrationReport(
        vm="db",
        uuid="u-1",
        source="h1",
        target="h2",
        mode="live",
        moving_time=2.0,
        total_time=2.5,
        downtime=0.08,
        memory_bytes=1,
        disk_bytes=0,
        rate=1.0,
        iterations=3,
        tls=True,
        transport="directly",
        removed=("h1:/srv/db.qcow2",),
    )
    return dict(json.loads(json.dumps(asdict(made))))


def abandon(engine: Engine) -> None:
    """Let the job's controller be gone."""
    with engine.begin() as connection:
        connection.execute(update(schema.job).values(lease_until=0.0))


@pytest.mark.parametrize(("code", "watched", "cancelled"), [(0, 0, 3), (4, 4, 0), (5, 5, 5), (6, 6, 6)])
def test_the_end_of_a_job_is_told_by_the_exit_code(
    mudanza: Program, handle: JobHandle, code: int, watched: int, cancelled: int
) -> None:
    handle.finish("ended", "this is how", code, report() if code == 0 else None)
    for _ in range(2):
        assert mudanza("job", "watch", "1").returncode == watched
        done = mudanza("job", "cancel", "1")
        assert done.returncode == cancelled
        assert "this is how" in done.stderr


def test_a_watcher_gets_the_report_of_a_job_that_moved_its_vm(mudanza: Program, handle: JobHandle) -> None:
    handle.finish("done", "moved from h1 to h2", 0, report())
    assert "db moved from h1 to h2" in mudanza("job", "watch", "1").stdout
    event = json.loads(mudanza("job", "watch", "1", "-o", "json").stdout.splitlines()[-1])
    assert event["event"] == "report"
    assert {**event, "event": 0, "at": 0} == {**report(), "event": 0, "at": 0}


def test_a_report_of_another_version_is_told_by_its_sentence(mudanza: Program, handle: JobHandle) -> None:
    handle.finish("done", "moved from h1 to h2", 0, {"vm": "db", "warp": 9})
    done = mudanza("job", "watch", "1")
    assert (done.returncode, done.stdout) == (0, "")
    assert "moved from h1 to h2" in done.stderr


def test_a_job_that_nobody_works_on_is_not_watched_for_ever(
    mudanza: Program, handle: JobHandle, engine: Engine
) -> None:
    abandon(engine)
    done = mudanza("job", "watch", "1")
    assert done.returncode == 5
    assert "mudanza job resume 1" in done.stderr


def test_a_request_to_cancel_is_written_down_and_shown(mudanza: Program, handle: JobHandle) -> None:
    assert handle.cancel_asked() is None
    assert mudanza("job", "cancel", "1", "--no-wait").returncode == 0
    assert handle.cancel_asked()
    assert "asked to cancel it" in mudanza("job", "show", "1").stdout
    assert json.loads(mudanza("jobs", "-o", "json").stdout)[0]["cancel_asked_by"] == handle.cancel_asked()


@pytest.mark.parametrize(
    ("verb", "code", "message"),
    [("resume", 3, "controller that lives"), ("cancel", 6, "its QEMU died"), ("watch", 6, "its QEMU died")],
)
def test_an_error_is_an_event_too(mudanza: Program, handle: JobHandle, verb: str, code: int, message: str) -> None:
    if verb != "resume":
        handle.finish("down", "its QEMU died", 6)
    done = mudanza("job", verb, "1", "-o", "json")
    event = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == code == event["exit_code"]
    assert message in event["message"]
    assert message in done.stderr
    assert set(event) == {"event", "at", "vm", "message", "remedy", "vm_state", "exit_code", "findings"}


def test_closing_needs_a_dead_controller_and_somebody_who_has_looked(
    mudanza: Program, handle: JobHandle, engine: Engine
) -> None:
    step = handle.intend("create volume", {"pool": "p", "volume": "db.qcow2", "path": "/srv/db.qcow2", "size": 1})
    handle.done(step, {"made": "/srv/db.qcow2"})
    alive = mudanza("job", "close", "1", "--yes")
    assert alive.returncode == 3
    assert "controller that lives" in alive.stderr
    assert "mudanza job cancel 1" in alive.stderr
    handle.let_go(NEEDS_PERSON)
    unasked = mudanza("job", "close", "1")
    assert unasked.returncode == 2
    assert "mudanza job close 1 --yes" in unasked.stderr
    assert Jobs(engine).get(1).ended_at is None


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (NewJob("recovery", "recovery plan site", "site", "", "", {}, "ana"), "('site', recovery)"),
        (NewJob("failover", "u-1", "db", "", "h2", {}, "ana"), "('db', failover to h2)"),
        (NewJob("live", "u-1", "db", "h1", "h2", {}, "ana"), "(VM 'db', h1 → h2)"),
    ],
)
def test_what_goes_from_nowhere_is_told_by_what_it_is(mudanza: Program, engine: Engine, new: NewJob, told: str) -> None:
    Jobs(engine).begin(new).finish("failed", "it was given up", 4)
    ended = mudanza("job", "watch", "1")
    assert (ended.returncode, f"job 1 {told} has ended, failed: it was given up" in ended.stderr) == (4, True)
    assert ("the VM:" in ended.stderr) is (new.kind == "live")


def test_who_closed_a_job_and_when_is_history(mudanza: Program, handle: JobHandle, engine: Engine) -> None:
    step = handle.intend("create volume", {"pool": "p", "volume": "db.qcow2", "path": "/srv/db.qcow2", "size": 1})
    handle.done(step, {"made": "/srv/db.qcow2"})
    handle.let_go(NEEDS_PERSON)
    closed = mudanza("job", "close", "1", "--yes")
    assert closed.returncode == 0
    assert "volumes it made at h2, which stay there: /srv/db.qcow2" in closed.stderr
    job = Jobs(engine).get(1)
    [step_taken] = job.steps_named("close")
    assert step_taken.intent["by"] in job.outcome
    assert (job.state, job.exit_code) == ("closed", 5)
    assert job.ended_at is not None
    assert not job.steps_named("delete volume")
    again = mudanza("job", "close", "1")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    # The VM may have other jobs, and its hosts may be let go of.
    Jobs(engine).begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop")).finish("done", "", 0)
    assert mudanza("host", "remove", "h1").returncode == 0


@pytest.mark.parametrize(
    ("steps", "off"),
    [
        ([], False),
        ([("disarm", {"done": True})], True),
        ([("disarm", None)], True),
        ([("disarm", {"error": "refused"})], False),
        ([("disarm", {"done": True}), ("rearm", {"done": True})], False),
        ([("disarm", {"done": True}), ("autostart", {"done": True})], False),
        ([("disarm", {"done": True}), ("rearm", {"error": "h1 is down"})], True),
        ([("disarm", {"done": True}), ("autostart", None)], True),
        ([("disarm", {"done": True}), ("rearm", {"done": True}), ("disarm", {"done": True})], True),
    ],
)
def test_closing_a_job_tells_that_autostart_is_off(
    mudanza: Program, handle: JobHandle, steps: list[tuple[str, dict[str, object] | None]], off: bool
) -> None:
    for name, outcome in steps:
        number = handle.intend(name, {"host": "h2" if name == "autostart" else "h1"})
        if outcome is not None:
            handle.done(number, outcome)
    handle.let_go(NEEDS_PERSON)
    said = mudanza("job", "close", "1", "--yes").stderr
    assert ("switched off at h1, stays off" in said) == off
    assert ("virsh autostart u-1" in said) == off


@pytest.mark.parametrize(
    "words",
    [("host", "remove", "h1"), ("host", "edit", "h1", "--uri", "qemu:///system"), ("import", "-")],
)
def test_hosts_of_unfinished_jobs_stay_as_they_are(mudanza: Program, handle: JobHandle, words: tuple[str, ...]) -> None:
    before = mudanza("export").stdout
    done = mudanza(*words, stdin='[hosts.h1]\nuri = "qemu:///system"')
    assert done.returncode == 3
    assert "mudanza job cancel 1" in done.stderr
    assert mudanza("export").stdout == before
    assert mudanza("host", "edit", "h1", "--tag", "rack1").returncode == 0


def test_other_limits_are_written_down_for_whoever_works_on_the_job(mudanza: Program, handle: JobHandle) -> None:
    told = mudanza("job", "tune", "1", "--bandwidth", "20MiB/s", "--max-downtime", "1s", "--post-copy", "now")
    assert (told.returncode, "job 1 (db): bandwidth 20 MiB/s, downtime up to 1.0 s, post-copy now" in told.stderr) == (
        0,
        True,
    )
    named = ["bandwidth", "max_downtime", "post_copy"]
    assert handle.wishes()[1] == {"max_downtime": 1.0, "bandwidth": 20 * 1024**2, "post_copy": "now", "named": named}
    assert "tuned: bandwidth=20971520, max_downtime=1.0, post_copy=now" in mudanza("job", "show", "1").stdout


def test_impossible_limits_and_none_at_all_are_refused(mudanza: Program, handle: JobHandle) -> None:
    before = handle.wishes()[1]
    for words in ((), ("--bandwidth", "1KiB/s"), ("--max-downtime", "300"), ("--deadline", "0s")):
        assert mudanza("job", "tune", "1", *words).returncode == 2
    assert handle.wishes()[1] == before


def test_a_job_that_cannot_be_told_so_is_not_tuned(mudanza: Program, handle: JobHandle, engine: Engine) -> None:
    handle.intend("transfer", {"flags": ["LIVE"]})
    refused = mudanza("job", "tune", "1", "--post-copy", "now")
    assert (refused.returncode, "began without post-copy" in refused.stderr) == (3, True)
    Jobs(engine).begin(NewJob("cold", "u-2", "web", "h1", "h2", {}, "ana@laptop"))
    assert "no live move" in mudanza("job", "tune", "2", "--bandwidth", "2MiB/s").stderr
    handle.finish("done", "moved", 0)
    refused = mudanza("job", "tune", "1", "--bandwidth", "2MiB/s")
    assert (refused.returncode, "has ended" in refused.stderr) == (3, True)
