"""Jobs that wait for a controller: who takes what, and that each one is done once, whoever dies or sleeps over it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, update

from mudanza import clock
from mudanza.journal.claimed import ClaimedJobs
from mudanza.journal.database import open_database
from mudanza.journal.jobs import NEEDS_PERSON, QUEUED, Job, Jobs, JournalLostError, NewJob
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.journal.schema import job
from mudanza.migration.worker import Worker, to_take
from mudanza.model.errors import BlockedError, MigrationFailedError
from tests.queue_worker import ACTS

JOBS = 50
LIMIT = 120.0
"""Seconds the controllers may take for all of them."""


def new(number: int) -> NewJob:
    return NewJob(QUEUED_MOVE, f"u-{number}", f"vm{number}", "h1", "h2", {"to": "h2"}, "ana@laptop")


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


def test_a_queued_job_belongs_to_nobody_and_keeps_others_from_its_vm(engine: Engine) -> None:
    jobs = Jobs(engine)
    number = jobs.put_down(new(1))
    found = jobs.get(number)
    assert (found.state, found.owner, found.abandoned, found.is_queued) == (QUEUED, "", False, True)
    for again in (jobs.put_down, jobs.begin):
        with pytest.raises(BlockedError, match="unfinished job") as refused:
            again(new(1))
        assert "mudanza work" in refused.value.remedy


def test_one_of_several_gets_a_job(engine: Engine) -> None:
    numbers = [Jobs(engine).put_down(new(number)) for number in range(8)]
    controllers = [Jobs(engine) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda jobs: [jobs.claim([number]) for number in numbers], controllers))
    owned = Counter(handle.id for handles in taken for handle in handles if handle is not None)
    assert owned == Counter(numbers)
    assert Jobs(engine).claim(numbers) is None


def test_a_job_whose_controller_died_before_it_decided_anything_waits_again(engine: Engine) -> None:
    jobs = Jobs(engine)
    number = jobs.put_down(new(1))
    first = jobs.claim([number])
    assert first is not None
    assert not jobs.get(number).is_queued
    with engine.begin() as connection:
        connection.execute(update(job).values(lease_until=0.0))
    assert jobs.get(number).is_queued
    second = Jobs(engine).claim([number])
    assert second is not None
    second.intend("decide", {})
    with engine.begin() as connection:
        connection.execute(update(job).values(lease_until=0.0))
    assert not jobs.get(number).is_queued, "something may have been done: it is to be taken over"
    assert jobs.get(number).abandoned


def claimed(engine: Engine, number: int) -> ClaimedJobs:
    jobs = Jobs(engine)
    handle = jobs.claim([jobs.put_down(new(number))])
    assert handle is not None
    return ClaimedJobs(engine, jobs.owner, handle, f"u-{number}")


def test_what_a_mover_begins_is_the_job_that_was_claimed(engine: Engine) -> None:
    jobs = claimed(engine, 1)
    assert jobs.unfinished_of("u-1") is None, "it stands in nobody's way but others'"
    handle = jobs.begin(NewJob("cold", "u-1", "vm1", "h1", "h3", {"mode": "cold"}, "bo@desk"))
    found = Jobs(engine).get(handle.id)
    assert (found.kind, found.target, found.asked_by, found.asked) == ("cold", "h3", "ana@laptop", {"mode": "cold"})
    assert found.queued_at is not None
    assert len(Jobs(engine).latest(9)) == 1


def test_a_claimed_job_goes_on_as_the_earlier_one_that_left_something(engine: Engine) -> None:
    earlier = Jobs(engine).begin(replace(new(1), kind="cold"))
    earlier.finish("failed", "cut off", 4, {"left": ["h2:/srv/a"]})
    jobs = claimed(engine, 1)
    left = jobs.left_by("u-1")
    assert left is not None
    assert left.id == earlier.id
    jobs.reopen(left.id).finish("done", "moved", 0)
    assert [each.state for each in Jobs(engine).latest(9)] == ["merged", "done"]


def test_a_claimed_job_that_never_began_says_why(engine: Engine) -> None:
    jobs = claimed(engine, 1)
    jobs.end_undone(BlockedError("h2 has no room"))
    [found] = Jobs(engine).latest(9)
    assert (found.state, found.outcome, found.exit_code) == ("refused", "h2 has no room", 3)
    begun = claimed(engine, 1)
    handle = begun.begin(replace(new(1), kind="live"))
    handle.intend("decide", {})
    begun.end_undone(MigrationFailedError("it says so itself"))
    assert Jobs(engine).get(handle.id).ended_at is None


LIVING = Job(
    id=1,
    kind="live",
    vm_uuid="u",
    vm_name="vm",
    source="h1",
    target="h2",
    asked={},
    asked_by="ana",
    state="transferring",
    epoch=1,
    owner="o",
    lease_until=9,
    started_at=1,
    ended_at=None,
    outcome="",
    exit_code=None,
    report={},
    cancel_asked_by=None,
    cancel_asked_at=None,
    steps=(),
    abandoned=False,
    read_at=5,
)
KINDS: dict[str, Callable[[int], Job]] = {
    "living": lambda n: replace(LIVING, id=n),
    "abandoned": lambda n: replace(LIVING, id=n, abandoned=True),
    "person": lambda n: replace(LIVING, id=n, abandoned=True, state=NEEDS_PERSON),
    "queued": lambda n: replace(LIVING, id=n, state=QUEUED, queued_at=float(n)),
}


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=12), st.integers(0, 6), st.sets(st.integers(0, 11)))
def test_what_was_left_behind_is_taken_first_and_what_is_not_free_never(
    kinds: list[str], places: int, left_alone: set[int]
) -> None:
    taken = to_take([KINDS[kind](n) for n, kind in enumerate(kinds)], places, left_alone)
    numbers = [each.id for each in taken]
    assert len(numbers) == len(set(numbers)) <= places
    assert not set(numbers) & left_alone
    order = [kinds[number] for number in numbers]
    assert set(order) <= {"abandoned", "queued"}
    assert order == sorted(order), "abandoned before queued"
    free = [n for n, kind in enumerate(kinds) if kind in ("abandoned", "queued") and n not in left_alone]
    assert len(numbers) == min(places, len(free))


def test_a_worker_ends_when_there_is_nothing_to_do(engine: Engine) -> None:
    Worker(Jobs(engine), lambda _: None, 2, clock.new_event()).run(once=True)


def test_a_worker_tries_a_job_that_it_cannot_end_one_time_only(engine: Engine) -> None:
    Jobs(engine).put_down(new(1))
    tried: list[int] = []
    Worker(Jobs(engine), lambda found: tried.append(found.id), 2, clock.new_event()).run(once=True)
    assert len(tried) == 1


def test_a_worker_that_is_stopped_takes_nothing_more_and_ends_what_it_has(engine: Engine) -> None:
    jobs, stop = Jobs(engine), clock.new_event()
    for number in range(5):
        jobs.put_down(new(number))

    def carry_out(found: Job) -> None:
        handle = jobs.claim([found.id])
        assert handle is not None
        stop.set()
        handle.finish("done", "moved", 0)

    Worker(jobs, carry_out, 1, stop).run(once=False)
    assert Counter(each.state for each in jobs.latest(9)) == {"done": 1, QUEUED: 4}


class Controllers:
    """Controllers as processes of their own, on one journal and one ledger."""

    def __init__(self, database: str, ledger: Path) -> None:
        self._database, self.ledger = database, ledger
        self._all: list[subprocess.Popen[str]] = []

    def start(self, *, awake_for: int | None = None) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "tests.queue_worker", self._database, str(self.ledger)]
        argv += [] if awake_for is None else [str(awake_for)]
        self._all.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        return self._all[-1]

    def has_begun_a_job(self, pid: int) -> bool:
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        acts = Counter(number for number, _, _, who in lines if who == str(pid))
        return any(count < ACTS for count in acts.values())

    def end(self) -> None:
        for process in self._all:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def controllers(database: str, tmp_path: Path) -> Controllers:
    ledger = tmp_path / "ledger"
    ledger.touch()
    return Controllers(database, ledger)


def await_true(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def is_stopped(process: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def owned_by(found: Job, process: subprocess.Popen[str]) -> bool:
    return f":{process.pid}:" in found.owner


def taken_over(jobs: Jobs, pid: int) -> list[int]:
    """Return the jobs that a process had begun and another one took over."""
    return [
        each.id
        for each in jobs.latest(JOBS)
        if any(f":{pid}:" in event.owner for event in each.events)
        and any(event.state == "taken over" and f":{pid}:" not in event.owner for event in each.events)
    ]


def test_each_of_fifty_jobs_is_done_once_though_a_controller_dies_and_another_sleeps(
    engine: Engine, controllers: Controllers
) -> None:
    jobs = Jobs(engine)
    numbers = [jobs.put_down(new(number)) for number in range(JOBS)]
    try:
        killed, sleeping = controllers.start(), controllers.start(awake_for=2)
        await_true(lambda: controllers.has_begun_a_job(killed.pid), "it works")
        killed.kill()
        await_true(lambda: is_stopped(sleeping), "it sleeps")
        await_true(
            lambda: any(each.abandoned for each in jobs.unfinished() if owned_by(each, sleeping)), "its lease is over"
        )
        finisher = controllers.start()
        await_true(lambda: bool(taken_over(jobs, sleeping.pid)), "what the sleeper had is taken over")
        sleeping.send_signal(signal.SIGCONT)
        said = {process: process.communicate(timeout=LIMIT)[0] for process in (sleeping, finisher)}
    finally:
        controllers.end()
    found = {each.id: each for each in jobs.latest(2 * JOBS)}
    assert {each.state for each in found.values()} == {"done"}, [
        each for each in found.values() if each.ended_at is None
    ]
    ends = Counter(each.id for each in found.values() for event in each.events if event.state == "done")
    assert ends == Counter(numbers), "each ran to its end once"
    acts = [line.split() for line in controllers.ledger.read_text().splitlines()]
    assert Counter((number, act) for number, act, _, _ in acts) == Counter(
        (str(number), str(act)) for number in numbers for act in range(ACTS)
    ), "each act was done once"
    for number in numbers:
        epochs = [int(epoch) for job_id, _, epoch, _ in acts if job_id == str(number)]
        assert epochs == sorted(epochs), "nothing was done under an epoch that was over"
    assert "lost " in said[sleeping], "it woke up, and did nothing more for what had been taken from it"
    assert len({who for *_, who in acts}) >= 3, "they shared the work"


def test_a_worker_waits_for_a_journal_that_does_not_answer(engine: Engine) -> None:
    stop, told = clock.new_event(), list[str]()

    class Gone(Jobs):
        """A journal that comes back after a while."""

        asked = 0

        def unfinished(self, *, brief: bool = False) -> tuple[Job, ...]:
            self.asked += 1
            if self.asked < 3:
                raise JournalLostError("it does not answer")
            stop.set()
            return super().unfinished(brief=brief)

    Worker(Gone(engine), lambda _: None, 2, stop, told.append).run(once=False)
    assert told == ["it does not answer"]
    with pytest.raises(JournalLostError):
        Worker(Gone(engine), lambda _: None, 2, clock.new_event()).run(once=True)
