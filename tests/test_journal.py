"""The journal: one job per VM, nothing done before it is written, and who lost a job writes no more."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.pool import QueuePool

from mudanza.journal.database import open_database, reading, transaction
from mudanza.journal.early import hosts_at_first_glance
from mudanza.journal.handle import LEASE
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import NEEDS_PERSON, Jobs, LeaseLostError, NewJob
from mudanza.journal.schema import job
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Answer, Probe

NEW = NewJob("live", "u-1", "db", "h1", "h2", {"bandwidth": None}, "ana@laptop")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.db"


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


def test_a_vm_has_one_unfinished_job(engine: Engine) -> None:
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)
    with pytest.raises(BlockedError, match="unfinished job: number 1"):
        Jobs(engine).begin(NEW)
    handle.finish("done", "moved", 0)
    assert jobs.begin(NEW).id > handle.id


def test_whoever_reads_does_not_wait_for_whoever_writes_and_sees_what_was_before(engine: Engine) -> None:
    jobs = Jobs(engine)
    number = jobs.begin(NEW).id
    with transaction(engine) as writer:
        writer.execute(update(job).values(state="half written"))
        assert jobs.get(number).state == "preparing"
        assert jobs.latest(9)[0].state == "preparing"
    assert jobs.get(number).state == "half written"


def test_what_is_read_is_of_one_instant(engine: Engine) -> None:
    number = Jobs(engine).begin(NEW).id
    with reading(engine) as reader:
        assert reader.scalar(select(job.c.state)) == "preparing"
        with transaction(engine) as writer:
            writer.execute(update(job).values(state="another"))
        assert reader.scalar(select(job.c.state)) == "preparing"
    assert Jobs(engine).get(number).state == "another"


def test_a_request_to_cancel_is_about_one_try(engine: Engine) -> None:
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)
    jobs.ask_to_cancel(handle.id, "ana@laptop")
    assert handle.cancel_asked() == "ana@laptop"
    handle.finish("failed", "cancelled", 4, {"left": ["h2:/srv/db.qcow2"]})
    assert jobs.reopen(handle.id).cancel_asked() is None


def test_an_intent_without_outcome_is_told_from_a_done_step(engine: Engine) -> None:
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)
    handle.done(handle.intend("create volume", {"volume": "a"}), {"made": True})
    handle.intend("create volume", {"volume": "b"})
    first, second = jobs.get(handle.id).steps_named("create volume")
    assert first.outcome == {"made": True}
    assert second.outcome is None
    assert (first.n, second.n) == (1, 2)


def test_what_is_known_at_once_is_written_down_at_once(engine: Engine) -> None:
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)
    handle.done(handle.intend("claim", {}), {})
    handle.note("decide", {"to": "h2"}, {"tls": True})
    step = jobs.get(handle.id).steps[-1]
    assert (step.n, step.name, step.intent, step.outcome) == (2, "decide", {"to": "h2"}, {"tls": True})
    assert handle.intend("transfer", {}) == 3


def test_what_was_written_survives_another_process(path: Path) -> None:
    Jobs(open_database(str(path))).begin(NEW).intend("transfer", {"flags": ["LIVE"]})
    raw = sqlite3.connect(path)
    assert raw.execute("select name, outcome from step").fetchall() == [("transfer", None)]
    assert raw.execute("pragma journal_mode").fetchone() == ("wal",)


def test_a_living_controller_keeps_its_job(engine: Engine) -> None:
    handle = Jobs(engine).begin(NEW)
    with pytest.raises(BlockedError, match="lives"):
        Jobs(engine).take_over(handle.id)


def test_an_abandoned_job_is_taken_over_and_its_old_owner_writes_no_more(engine: Engine) -> None:
    jobs = Jobs(engine)
    old = jobs.begin(NEW)
    step = old.intend("transfer", {})
    with engine.begin() as connection:
        connection.execute(update(job).values(lease_until=0))
    assert jobs.get(old.id).abandoned
    new = Jobs(engine).take_over(old.id)
    writes: list[Callable[[], object]] = [
        old.renew,
        lambda: old.done(step, {}),
        lambda: old.note("decide", {}, {}),
        lambda: old.finish("done", "", 0),
        lambda: old.enter("x"),
    ]
    for write in writes:
        with pytest.raises(LeaseLostError):
            write()
    new.finish("done", "settled", 0)
    assert jobs.get(old.id).outcome == "settled"


def test_a_job_left_to_a_person_is_taken_over_at_once_and_keeps_others_away(engine: Engine) -> None:
    jobs = Jobs(engine)
    jobs.begin(NEW).let_go("needs a person")
    with pytest.raises(BlockedError, match="needs a person") as refused:
        jobs.begin(NEW)
    assert "job resume 1" in refused.value.remedy
    jobs.take_over(1).finish("done", "settled", 0)


def test_only_its_owner_reads_the_database(path: Path) -> None:
    open_database(str(path))
    assert path.stat().st_mode & 0o077 == 0


def test_an_ended_job_is_not_taken_over(engine: Engine) -> None:
    jobs = Jobs(engine)
    jobs.begin(NEW).finish("done", "moved", 0)
    with pytest.raises(UsageError, match="has ended: moved"):
        jobs.take_over(1)
    with pytest.raises(UsageError, match="no job 7"):
        jobs.get(7)


def test_hosts_are_kept_as_told(engine: Engine) -> None:
    inventory = Inventory(engine)
    entry = HostEntry("h1", "qemu:///system", tls_name="h1.example", tags=("rack a",))
    inventory.add_host(entry)
    assert inventory.hosts() == (entry,)
    with pytest.raises(UsageError, match="already"):
        inventory.add_host(entry)
    assert inventory.put_hosts([entry]) == ()
    assert inventory.put_hosts([HostEntry("h1", "qemu:///session")]) == ("h1",)
    inventory.remove_host("h1")
    with pytest.raises(UsageError, match="no host 'h1'"):
        inventory.remove_host("h1")


def test_what_was_learnt_of_a_pair_goes_with_a_changed_host(engine: Engine) -> None:
    inventory = Inventory(engine)
    inventory.put_hosts([HostEntry("h1", "a:///"), HostEntry("h2", "b:///")])
    inventory.learn_tls("h1", "h2", Probe(Answer.YES))
    inventory.learn_tls("h1", "h2", Probe(Answer.NO, "no certificate"))
    assert inventory.tls_between("h1", "h2") == Probe(Answer.NO, "no certificate")
    assert inventory.tls_between("h2", "h1").answer is Answer.UNKNOWN
    inventory.put_hosts([HostEntry("h2", "c:///")])
    assert inventory.tls_between("h1", "h2").answer is Answer.UNKNOWN


def test_a_database_named_by_url_is_as_durable_as_one_named_by_path(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'm.db'}").begin() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("pragma synchronous").scalar() == 2


@pytest.mark.parametrize("name", ["what?.db", "a#b.db", "100%41.db", "a b&c=d.db"])
def test_a_path_is_taken_as_it_is_written(tmp_path: Path, name: str) -> None:
    Inventory(open_database(str(tmp_path / name))).put_hosts([HostEntry("h1", "a:///")])
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".db"] == [name]
    assert [entry.name for entry in hosts_at_first_glance(str(tmp_path / name))] == ["h1"]


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("dear reader " * 100)
    with pytest.raises(UsageError, match="cannot be opened"):
        open_database(str(path))
    assert path.read_text().startswith("dear reader")


def test_a_brief_look_leaves_steps_and_events_out_but_knows_whether_there_are_steps(engine: Engine) -> None:
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)
    for read in (jobs.unfinished, lambda **how: jobs.latest(9, **how)):
        assert [(each.has_begun, each.steps, each.events) for each in read(brief=True)] == [(False, (), ())]
    handle.intend("decide", {"much": "x" * 1000})
    whole, brief = jobs.latest(9)[0], jobs.latest(9, brief=True)[0]
    assert [step.name for step in whole.steps] == ["decide"]
    assert whole.events
    assert brief.has_begun
    assert replace(whole, steps=(), events=(), read_at=0.0) == replace(brief, read_at=0.0)


def test_threads_that_wait_for_their_turn_to_write_keep_nobody_from_reading(path: Path) -> None:
    engine = open_database(str(path))
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)
    held: list[int] = []
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    sqlalchemy_event.listen(engine, "checkout", lambda *_: held.append(pool.checkedout()))
    writers = 20
    begun, go_on = threading.Barrier(writers + 1), threading.Event()

    def write(number: int) -> None:
        begun.wait()
        jobs.begin(replace(NEW, vm_uuid=f"w-{number}"))

    def keep_writing() -> None:
        with transaction(engine):
            begun.wait()
            go_on.wait(60)

    with ThreadPoolExecutor(writers + 1) as threads:
        waiting = [threads.submit(keep_writing), *(threads.submit(write, number) for number in range(writers))]
        assert handle.wishes() == (None, NEW.asked)
        go_on.set()
        for each in waiting:
            each.result(60)
    assert len(jobs.unfinished()) == writers + 1
    assert max(held) <= 2, "one writes, one reads"


def test_a_living_job_is_told_that_somebody_wants_it_cancelled(engine: Engine) -> None:
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)
    assert handle.cancel_asked() is None
    for who in ("ana@laptop", "bo@desk"):
        Jobs(engine).ask_to_cancel(handle.id, who)
    assert handle.cancel_asked() == "ana@laptop"
    asked = jobs.get(handle.id)
    assert asked.cancel_asked_at is not None
    assert asked.started_at <= asked.cancel_asked_at <= asked.read_at
    handle.finish("failed", "cancelled", 4)
    other = jobs.begin(NEW)
    jobs.ask_to_cancel(handle.id, "ana@laptop")
    assert other.cancel_asked() is None


def test_an_ended_job_is_not_asked_to_cancel(engine: Engine) -> None:
    jobs = Jobs(engine)
    jobs.begin(NEW).finish("done", "moved", 0)
    jobs.ask_to_cancel(1, "ana@laptop")
    assert jobs.get(1).cancel_asked_by is None


def test_a_host_of_an_unfinished_job_is_neither_removed_nor_led_elsewhere(engine: Engine) -> None:
    inventory = Inventory(engine)
    hosts = [HostEntry(name, f"qemu+ssh://{name}/system") for name in ("h1", "h2", "h3")]
    inventory.put_hosts(hosts)
    handle = Jobs(engine).begin(NEW)
    for name in ("h1", "h2"):
        with pytest.raises(BlockedError, match="job 1 is unfinished") as refused:
            inventory.remove_host(name)
        assert "mudanza job cancel 1" in refused.value.remedy
        with pytest.raises(BlockedError, match="not changed"):
            inventory.put_hosts([HostEntry("h3", "a:///"), HostEntry(name, "b:///")])
    assert inventory.hosts() == tuple(hosts), "all or none"
    assert inventory.put_hosts([replace(hosts[0], tags=("rack a",))]) == ("h1",)
    inventory.remove_host("h3")
    handle.let_go(NEEDS_PERSON)
    with pytest.raises(BlockedError, match="needs a person") as refused:
        inventory.remove_host("h1")
    assert "mudanza job close 1" in refused.value.remedy
    Jobs(engine).take_over(1).finish("failed", "as before", 4)
    inventory.remove_host("h1")


def test_a_follower_hears_what_was_written_and_when_a_job_is_kept(engine: Engine) -> None:
    heard: list[object] = []

    class Follower:
        def renewed(self) -> None:
            heard.append("renewed")

        def done(self, name: str, intent: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
            heard.append((name, intent, outcome))

    handle = Jobs(engine).begin(NEW)
    unheard = handle.intend("create volume", {"path": "/a"})
    handle.follower = Follower()
    handle.done(unheard, {"made": "/a"})
    handle.renew()
    handle.note("decide", {"to": "h2"}, {"tls": True})
    assert heard == [
        ("create volume", {"path": "/a"}, {"made": "/a"}),
        "renewed",
        ("decide", {"to": "h2"}, {"tls": True}),
    ]


def test_a_lease_that_is_renewed_still_lasts_as_long_as_any_call_under_way(engine: Engine) -> None:
    jobs = Jobs(engine)
    handle = jobs.begin(NEW)

    def left() -> float:
        found = jobs.get(handle.id)
        return found.lease_until - found.read_at

    slow = handle.intend("start", {}, lasts=1000.0)
    quick = handle.intend("transfer", {}, lasts=0.0)
    handle.renew()
    assert left() > 1000.0, "its call may go on for so long, whatever becomes of us"
    handle.done(quick, {})
    assert left() > 1000.0
    handle.done(slow, {})
    assert left() <= LEASE, "others need not stay away any longer"
    handle.renew(50.0)
    assert LEASE < left() <= LEASE + 50.0


def test_an_adopted_job_waits_for_who_goes_on_with_it(engine: Engine) -> None:
    jobs = Jobs(engine)
    number = jobs.adopt(
        NEW, [("decide", {"uuid": "u-1"}, {"from": "a claim"}), ("create volume", {"path": "/a"}, None)]
    )
    found = jobs.get(number)
    assert (found.state, found.abandoned, [step.outcome for step in found.steps]) == (
        "adopted",
        True,
        [{"from": "a claim"}, None],
    )
    assert jobs.take_over(number).epoch == 2
    with pytest.raises(BlockedError, match="unfinished job"):
        jobs.adopt(NEW, [])
