"""Who may act for a job, and until when: nobody acts on a lease that may be over, and nobody takes over too early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from mudanza.hypervisor import block_jobs, connection, domains, volumes
from mudanza.hypervisor.own import carrier, tpm_carrier
from mudanza.journal import handle as handles
from mudanza.journal.database import open_database
from mudanza.journal.handle import LEASE, LONG_LOOK, LONGEST_CALL, MARGIN, JobHandle
from mudanza.journal.jobs import Jobs, JournalLostError, LeaseLostError, NewJob
from mudanza.journal.schema import job
from mudanza.migration.claim import renewing
from mudanza.model.errors import BlockedError, HypervisorError
from tests.timekeeping import SetClock, set_clock

NEW = NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop")


@pytest.fixture
def time() -> Iterator[SetClock]:
    with set_clock() as own:
        yield own


@pytest.fixture
def engine(tmp_path: Path, time: SetClock) -> Engine:
    """A database whose clock is the test's."""
    return open_database(str(tmp_path / "m.db"))


class World:
    """What a controller does to hosts."""

    def __init__(self) -> None:
        self.acts: list[str] = []

    def act(self, what: str) -> Callable[[], None]:
        return lambda: self.acts.append(what)


@pytest.fixture
def world() -> World:
    return World()


def test_no_call_lasts_longer_than_others_stay_away() -> None:
    ordinary = (
        connection.CALL_TIMEOUT,
        domains.START_TIMEOUT,
        volumes.VOLUME_TIMEOUT,
        block_jobs.PIVOT_TIMEOUT,
        carrier.END_TIMEOUT,
    )
    assert max(ordinary) < LONGEST_CALL
    assert tpm_carrier.TPM_TIMEOUT < tpm_carrier.CARRYING_LIMIT
    assert volumes.REFRESH_TIMEOUT < LONG_LOOK
    assert MARGIN < LEASE / 3


def test_a_holder_acts_as_long_as_it_renews(engine: Engine, time: SetClock, world: World) -> None:
    mine = Jobs(engine).begin(NEW)
    for _ in range(20):
        time.pass_time(LEASE / 3)
        mine.keep()
        mine.perform("delete volume", {}, world.act("delete"))
    assert len(world.acts) == 20


@pytest.mark.parametrize("slept", [LEASE - MARGIN, LEASE, 10 * LEASE])
def test_a_holder_that_slept_does_nothing_though_nobody_took_its_job(
    engine: Engine, time: SetClock, world: World, slept: float
) -> None:
    mine = Jobs(engine).begin(NEW)
    time.pass_time(slept)
    with pytest.raises(LeaseLostError, match="was not renewed in time") as lost:
        mine.perform("delete volume", {"path": "/a"}, world.act("delete"))
    assert world.acts == []
    assert "nothing was under way" in lost.value.vm_state
    mine.renew()  # nobody took it: once it has looked again it may go on
    mine.perform("delete volume", {"path": "/a"}, world.act("delete"))
    assert world.acts == ["delete"]


def test_the_lease_counts_from_before_it_was_asked_for(engine: Engine, time: SetClock, world: World) -> None:
    mine = Jobs(engine).begin(NEW)

    class Slow:
        """A database that takes its time to answer."""

        def get_execution_options(self) -> dict[str, Any]:
            return {}

        def begin(self) -> Any:
            time.pass_time(LEASE - MARGIN)
            return engine.begin()

    mine._engine = Slow()  # type: ignore[assignment]
    mine.renew()
    with pytest.raises(LeaseLostError):
        mine.assert_held()


def test_a_pause_between_the_intent_and_the_act_is_noticed(
    engine: Engine, time: SetClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Jobs(engine).begin(NEW)
    intend = JobHandle.intend

    def and_sleep(self: JobHandle, *args: Any) -> int:
        n = intend(self, *args)
        time.pass_time(10 * LEASE)
        return n

    monkeypatch.setattr(JobHandle, "intend", and_sleep)
    with pytest.raises(LeaseLostError) as lost:
        mine.perform("delete volume", {"path": "/a"}, world.act("delete"))
    assert world.acts == []
    assert "step 1 delete volume (path=/a)" in lost.value.vm_state


def test_a_controller_that_wakes_after_a_takeover_does_nothing_any_more(
    engine: Engine, time: SetClock, world: World
) -> None:
    paused = Jobs(engine).begin(NEW)
    step = paused.intend("create volume", {"path": "/a"})
    time.pass_time(LEASE + LONGEST_CALL + 1)
    other = Jobs(engine).take_over(paused.id)
    other.perform("settle", {"act": "resume"}, world.act("other resumes"))
    keep = renewing(paused)
    wakings: list[Callable[[], object]] = [
        lambda: paused.perform("delete volume", {"path": "/a"}, world.act("paused deletes")),
        paused.renew,
        keep,
        lambda: paused.done(step, {"made": "/a"}),
        lambda: paused.enter("cleaning up"),
        lambda: paused.finish("done", "moved", 0),
        lambda: paused.let_go("needs a person"),
    ]
    for wake in wakings:
        with pytest.raises(LeaseLostError) as lost:
            wake()
        assert "create volume (path=/a)" in lost.value.vm_state, "what is left is said"
    assert world.acts == ["other resumes"]
    assert [entry.outcome for entry in Jobs(engine).get(paused.id).steps] == [None, {"done": True}]


def test_nobody_takes_over_while_a_call_of_the_last_moment_may_be_under_way(
    engine: Engine, time: SetClock, world: World
) -> None:
    mine = Jobs(engine).begin(NEW)
    last_moment = LEASE - MARGIN - 0.01

    def long_call() -> None:
        time.pass_time(last_moment)
        mine.assert_held()
        time.pass_time(LONGEST_CALL - 1)
        with pytest.raises(BlockedError, match="lives"):
            Jobs(engine).take_over(mine.id)
        world.acts.append("ended")

    mine.perform("delete volume", {}, long_call)
    assert world.acts == ["ended"]
    time.pass_time(LEASE + 1)  # it said how the call ended: nothing is under way any more
    Jobs(engine).take_over(mine.id)


def test_an_error_of_the_host_is_written_down_and_passed_on(engine: Engine) -> None:
    mine = Jobs(engine).begin(NEW)

    def refuse() -> None:
        raise HypervisorError("h1", "no")

    with pytest.raises(HypervisorError):
        mine.perform("delete volume", {}, refuse)
    [step] = Jobs(engine).get(mine.id).steps
    assert step.outcome == {"error": "host h1: no"}


class Gone:
    """A database that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self.url, self.dialect = engine.url, engine.dialect

    def get_execution_options(self) -> dict[str, Any]:
        return {}

    def execution_options(self, **_options: object) -> Gone:
        return self

    def begin(self) -> Any:
        from sqlalchemy.exc import OperationalError

        raise OperationalError("select", {}, Exception("connection refused"))


def test_without_its_journal_a_controller_watches_until_its_lease_is_over_and_does_nothing(
    engine: Engine, time: SetClock, world: World
) -> None:
    mine = Jobs(engine).begin(NEW)
    keep = renewing(mine, cancel=world.acts.append)
    mine._engine = Gone(engine)  # type: ignore[assignment]
    with pytest.raises(JournalLostError, match="connection refused"):
        mine.perform("delete volume", {}, world.act("delete"))
    for _ in range(int(LEASE - MARGIN) - 1):
        time.pass_time(1.0)
        keep()
    time.pass_time(1.0)
    with pytest.raises(JournalLostError) as lost:
        keep()
    assert world.acts == []
    assert lost.value.exit_code == 5
    assert "job resume 1" in lost.value.remedy


def test_a_journal_that_answers_again_in_time_stops_nobody(engine: Engine, time: SetClock, world: World) -> None:
    mine = Jobs(engine).begin(NEW)
    mine._engine = Gone(engine)  # type: ignore[assignment]
    time.pass_time(LEASE / 3)
    mine.keep()
    mine._engine = engine
    time.pass_time(handles.TRY_AGAIN)
    mine.keep()
    time.pass_time(LEASE - MARGIN - 1)
    mine.perform("delete volume", {}, world.act("delete"))
    assert world.acts == ["delete"]


def test_what_takes_long_to_look_at_may_be_held_longer(engine: Engine, time: SetClock, world: World) -> None:
    mine = Jobs(engine).begin(NEW)
    mine.hold_on(LONG_LOOK)
    time.pass_time(LONG_LOOK)
    with pytest.raises(BlockedError):
        Jobs(engine).take_over(mine.id)
    mine.perform("delete volume", {}, world.act("delete"))
    time.pass_time(LEASE)
    with pytest.raises(LeaseLostError):
        mine.hold_on(LONG_LOOK)  # what was looked at before a pause counts no more
    assert world.acts == ["delete"]


def test_the_lease_is_measured_by_the_clock_of_the_database(database: str) -> None:
    engine = open_database(database)
    with set_clock() as own:
        mine = Jobs(engine).begin(NEW)
        own.pass_time(10 * LEASE)
        found = Jobs(engine).get(mine.id)
    # SQLite has no other clock than its program's; PostgreSQL's does not run faster because a controller's does.
    assert found.abandoned is (engine.dialect.name == "sqlite")
    with engine.begin() as connection_:
        connection_.execute(update(job).values(lease_until=0.0))
    assert Jobs(engine).get(mine.id).abandoned
