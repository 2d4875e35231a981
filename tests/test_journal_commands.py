"""``mudanza work``, ``jobs``, ``audit`` and ``journal …`` as a script meets them. No host is asked here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text, update

from mudanza import __version__
from mudanza.journal import audit as audit_module
from mudanza.journal import schema
from mudanza.journal.database import open_database
from mudanza.journal.jobs import NEEDS_PERSON, Filter, JobHandle, Jobs, NewJob
from mudanza.journal.protocol import PROTOCOL
from mudanza.migration.asked import put_down, read_back, stored
from mudanza.model.errors import BlockedError
from mudanza.model.migration import Chain, MigrationOptions, Mode
from mudanza.operations.here import Here
from tests.program import Program
from tests.test_job_commands import HOSTS, abandon

NEW = NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop")


@pytest.fixture
def engine(mudanza: Program, tmp_path: Path) -> Engine:
    mudanza("import", "-", stdin=HOSTS)
    return open_database(str(tmp_path / "state" / "mudanza.db"))


@pytest.fixture
def handle(engine: Engine) -> JobHandle:
    return Jobs(engine).begin(NEW)


def forge(engine: Engine, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(schema.job).values(lease_until=0.0, **values))


@pytest.mark.parametrize(
    ("forged", "unknown"),
    [
        ({"protocol": PROTOCOL + 1}, f"protocol {PROTOCOL + 1}"),
        ({"kind": "teleport"}, "the kind 'teleport'"),
        ({"written_by": "7.0.0"}, "the step 'warp'"),
    ],
)
def test_a_job_with_words_of_a_newer_version_is_left_to_it(
    mudanza: Program, engine: Engine, handle: JobHandle, forged: dict[str, Any], unknown: str
) -> None:
    handle.intend("warp" if "written_by" in forged else "decide", {"xml": "<domain/>"})
    forge(engine, **forged)
    before = Jobs(engine).get(1)
    for words in (("job", "resume", "1"), ("work", "--once")):
        done = mudanza(*words)
        assert done.returncode == 3, done
        assert unknown in done.stderr
        assert "nothing was touched" in done.stderr
    with pytest.raises(BlockedError):
        Jobs(engine).take_over(1)
    after = Jobs(engine).get(1)
    assert (after.epoch, after.steps, after.state) == (before.epoch, before.steps, before.state)
    assert "teleport" in mudanza("job", "show", "1").stdout or "warp" in unknown or "protocol" in unknown


def test_a_job_that_was_written_by_this_version_says_so(engine: Engine, handle: JobHandle) -> None:
    assert Jobs(engine).get(1).written_by == __version__
    forge(engine, protocol=1, written_by="")
    Jobs(engine).take_over(1)
    assert (Jobs(engine).get(1).protocol, Jobs(engine).get(1).written_by) == (PROTOCOL, __version__)


def test_what_was_asked_is_read_back_and_an_older_job_has_the_usual() -> None:
    options = MigrationOptions(
        max_downtime=0.1, bandwidth=7, map_storage={"a": "b"}, mode=Mode.COLD, chain=Chain.KEEP, format="raw"
    )
    assert read_back(json.loads(json.dumps(put_down(options, "h2")))) == options
    assert read_back({}) == MigrationOptions()
    assert read_back({"bandwidth": 9, "of a later version": 1}) == MigrationOptions(bandwidth=9)
    assert set(stored(options)) < set(put_down(options, None))


def test_there_is_nothing_to_do(mudanza: Program) -> None:
    done = mudanza("work", "--once")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing to do" in done.stderr


def test_a_queued_job_is_shown_and_cancelled_before_it_begins(mudanza: Program, engine: Engine) -> None:
    Jobs(engine).put_down(NewJob("move", "u-1", "db", "h1", "", {"to": None}, "ana@laptop"))
    listed = json.loads(mudanza("jobs", "-o", "json").stdout)
    assert [job["state"] for job in listed] == ["queued"]
    assert "from h1 to the best host" in mudanza("job", "show", "1").stdout
    assert mudanza("job", "cancel", "1").returncode == 0
    job = Jobs(engine).get(1)
    assert (job.state, job.exit_code) == ("failed", 4)
    assert "before it began" in job.outcome
    Jobs(engine).begin(NEW)


def test_jobs_are_chosen(mudanza: Program, engine: Engine) -> None:
    jobs = Jobs(engine)
    jobs.begin(NEW).finish("done", "moved", 0)
    jobs.begin(NEW)
    jobs.put_down(NewJob("move", "u-2", "web", "h1", "h2", {}, "ana@laptop"))
    with engine.begin() as connection:
        connection.execute(update(schema.job).where(schema.job.c.id == 1).values(started_at=1.0))

    def shown(*words: str) -> list[int]:
        return [int(line) for line in mudanza("jobs", "-o", "name", *words).stdout.split()]

    assert shown() == [3, 2, 1]
    assert shown("--vm", "db") == shown("--vm", "u-1") == [2, 1]
    assert shown("--state", "done") == [1]
    assert shown("--state", "queued") == [3]
    assert shown("--state", "unfinished") == [3, 2]
    assert shown("--since", "1h") == [3, 2]
    assert shown("--limit", "1", "--vm", "db") == [2]
    assert shown("--state", "abandoned") == []
    abandon(engine)
    assert shown("--state", "abandoned") == [2]
    assert mudanza("jobs", "--vm", "nobody").stderr == "no such job\n"


def test_a_job_tells_its_whole_story(mudanza: Program, engine: Engine, handle: JobHandle) -> None:
    handle.done(handle.intend("decide", {"tls": True}), {"done": True})
    handle.enter("transferring")
    Jobs(engine).ask_to_cancel(1, "bo@desk")
    abandon(engine)
    other = Jobs(engine).take_over(1)
    other.enter("settling")
    other.finish("failed", "cancelled", 4, {"left": ["h2:/a"]})
    story = mudanza("job", "show", "1").stdout
    order = ["preparing", "decide", "transferring", "to be cancelled", "taken over", "settling", "failed: cancelled"]
    places = [story.index(word, story.index("  1 decide") - 200 if word == "decide" else 300) for word in order[2:]]
    assert places == sorted(places)
    assert "epoch 2" in story
    assert "left=['h2:/a']" in story
    events = json.loads(mudanza("job", "show", "1", "-o", "json").stdout)["events"]
    assert [event["state"] for event in events] == [word.partition(":")[0] for word in order if word != "decide"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)


def test_only_what_ended_long_ago_and_left_nothing_is_forgotten(database: str) -> None:
    engine = open_database(database)
    jobs = Jobs(engine)
    day = 86400.0

    def ended(report: dict[str, Any], age: float) -> int:
        handle = jobs.begin(NEW)
        handle.done(handle.intend("decide", {}), {})
        handle.finish("done", "moved", 0, report)
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE job SET ended_at = ended_at - {age} WHERE id = {handle.id}"))
        return handle.id

    old, new = ended({}, 91 * day), ended({}, 89 * day)
    left, stays = ended({"left": ["h2:/a"]}, 99 * day), ended({"stays": ["h2:/b"]}, 99 * day)
    open_one = jobs.begin(NEW).id
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE job SET started_at = 1 WHERE id = {open_one}"))
    assert jobs.forget(90 * day) == 1
    assert {job.id for job in jobs.latest(9)} == {new, left, stays, open_one}
    assert old not in {new, left, stays, open_one}
    with engine.begin() as connection:
        assert connection.scalar(text(f"SELECT count(*) FROM step WHERE job = {old}")) == 0
        assert connection.scalar(text(f"SELECT count(*) FROM event WHERE job = {old}")) == 0


def test_work_forgets_as_the_settings_say(mudanza: Program, engine: Engine, handle: JobHandle) -> None:
    handle.finish("done", "moved", 0)
    with engine.begin() as connection:
        connection.execute(update(schema.job).values(ended_at=1.0))
    settings = mudanza.config.read_text()
    mudanza.config.write_text(settings + "[history]\nkeep = 0\n")
    assert mudanza("work", "--once").returncode == 0
    assert mudanza("journal", "forget").returncode == 2
    assert len(Jobs(engine).latest(9)) == 1
    mudanza.config.write_text(settings + '[history]\nkeep = "2d"\n')
    assert "1 jobs that ended" in mudanza("work", "--once").stderr
    assert Jobs(engine).latest(9, Filter()) == ()
    assert mudanza("journal", "forget", "--older-than", "1d").returncode == 0


def test_a_journal_is_backed_up_and_restored(
    mudanza: Program, engine: Engine, handle: JobHandle, tmp_path: Path
) -> None:
    handle.intend("transfer", {})
    abandon(engine)
    file = str(tmp_path / "backup.db")
    assert "2 hosts and 1 jobs, 1 of them unfinished" in mudanza("journal", "backup", file).stderr
    assert mudanza("journal", "restore", file).returncode == 3
    done = mudanza("journal", "restore", file, "--force")
    assert done.returncode == 0
    assert "mudanza job resume 1 asks both hosts" in done.stderr


def test_who_asked_for_what_is_kept(mudanza: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ana")
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 5000 192.0.2.1 22")
    mudanza("import", "-", stdin=HOSTS)
    mudanza("host", "remove", "h9")
    mudanza("host", "edit", "h1", "--uri", "qemu+ssh://root:opensesame@h1/system")
    mudanza("hosts-that-there-are-not")
    mudanza("jobs")
    asked = json.loads(mudanza("audit", "-o", "json").stdout)
    assert [entry["command"] for entry in asked] == [
        ["import", "-"],
        ["host", "remove", "h9"],
        ["host", "edit", "h1", "--uri", "qemu+ssh://root:*****@h1/system"],
    ]
    assert [entry["exit_code"] for entry in asked] == [0, 2, 2]
    assert "no host 'h9'" in asked[1]["outcome"]
    assert "password" in asked[2]["outcome"]
    assert {entry["who"]["sudo_user"] for entry in asked} == {"ana"}
    assert {entry["who"]["address"] for entry in asked} == {"192.0.2.7"}
    assert {"user", "uid", "host", "pid"} <= set(asked[0]["who"])
    assert all(entry["ended_at"] >= entry["at"] for entry in asked)
    assert "ana as" in mudanza("audit").stdout
    assert "opensesame" not in mudanza("audit").stdout + mudanza("export").stdout


def test_a_command_that_was_killed_has_no_end_in_the_audit(mudanza: Program, engine: Engine) -> None:
    audit_module.Audit(engine).asked({"user": "ana"}, ["migrate", "db"])
    assert "no end was written" in mudanza("audit").stdout


def test_what_ctrl_c_leaves_in_the_middle_is_said(mudanza: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Here, *_: object, **__: object) -> None:
        self._means.jobs.begin(NewJob("failover", "u-1", "db", "h1", "h2", {}, "ana"))
        self._means.jobs.begin(NewJob("failover", "u-2", "web", "h1", "h2", {}, "ana")).let_go(NEEDS_PERSON)
        Jobs(self._means.database).begin(NewJob("failover", "u-3", "another's", "h1", "h2", {}, "bea"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Here, "fail_over", interrupted)
    done = mudanza("failover", "db", "--source-is-dead")
    assert done.returncode == 130
    assert re.findall(r"job \d+ \(.*\)", done.stderr) == ["job 1 (failover of db)"]
    assert "mudanza job resume 1" in done.stderr
    told = json.loads(mudanza("audit", "-o", "json").stdout)[-1]
    assert (told["exit_code"], told["outcome"]) == (130, "interrupted")


def test_what_was_asked_long_ago_is_not_among_the_recent(mudanza: Program, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(schema.audit).values(at=1.0, who="{}", command='["old"]', outcome=""))
    assert "old" in mudanza("audit").stdout
    assert "old" not in mudanza("audit", "--since", "1d").stdout


def test_the_audit_is_never_changed_by_the_code() -> None:
    source = Path(audit_module.__file__).parents[1]
    changes = re.compile(r"(update|delete)\(\s*(schema\.)?audit\b|audit\.(update|delete)\(|(UPDATE|DELETE FROM) audit")
    assert not [path for path in source.rglob("*.py") if changes.search(path.read_text())]
    assert changes.search("connection.execute(delete(audit))")
