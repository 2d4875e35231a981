"""What stands between the VMs of a plan: scripts that are run once, questions that people answer; and who dies when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine, update

from mudanza.journal.answers import answer, open_question
from mudanza.journal.database import open_database
from mudanza.journal.jobs import Job, JobHandle, Jobs
from mudanza.journal.protections import Protections
from mudanza.journal.schema import job as job_table
from mudanza.model.errors import MigrationFailedError, NeedsPersonError
from mudanza.model.hook import Hook, When
from mudanza.model.recovery import Await, Group, RecoveryPlan, Wait
from mudanza.protection import between
from tests.lab.conftest import await_true
from tests.test_recovery_plans import Runs, plan, protected, recovery

LOG = """#!/bin/sh
echo "$MUDANZA_GROUP $MUDANZA_MOMENT $MUDANZA_RUN $MUDANZA_VMS" >>"$0.log"
cat "$0.says"
exit "$(cat "$0.code")"
"""
NOW = Wait(Await.ASK, "Is the storage up?", 20.0)


class Killed(BaseException):
    """SIGKILL to the controller, as far as one test's process goes."""


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


@pytest.fixture
def store(engine: Engine) -> Protections:
    made = Protections(engine)
    for name in ("db", "app"):
        protected(made, name)
    return made


class Script:
    """A hook of the settings, what it says and how it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dns"
        self.path.write_text(LOG)
        self.path.chmod(0o755)
        self.is_to(0)

    def is_to(self, code: int, says: str = "switched") -> None:
        self.path.with_name("dns.code").write_text(str(code))
        self.path.with_name("dns.says").write_text(says)

    def hooks(self, *when: When) -> Mapping[str, Hook]:
        return {"dns": Hook("dns", (str(self.path),), frozenset(when or (When.RECOVERY,)), 20.0)}

    @property
    def ran(self) -> list[str]:
        log = self.path.with_name("dns.log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def scripted() -> RecoveryPlan:
    step = Wait(Await.SCRIPT, "dns", 20.0)
    return plan(Group("a", ("db",), before=(step,)), Group("b", ("app",), waits=(step,)))


def asking(**values: Any) -> RecoveryPlan:
    question = Wait(**{"kind": Await.ASK, "what": NOW.what, "limit": NOW.limit, **values})
    return plan(Group("a", ("db",), waits=(question,)), Group("b", ("app",)))


def abandon(engine: Engine) -> None:
    """Let the lease of a dead controller be over."""
    with engine.begin() as connection:
        connection.execute(update(job_table).values(lease_until=0.0))


def unfinished(engine: Engine) -> Job:
    [found] = Jobs(engine).unfinished()
    return found


def test_scripts_are_run_where_the_plan_has_them_and_what_they_say_is_kept(
    engine: Engine, store: Protections, script: Script
) -> None:
    recovery(engine, Runs(store), hooks=script.hooks()).run(scripted(), {}, "ana")
    assert script.ran == ["a before recovery db", "b after recovery app"]
    [done] = Jobs(engine).latest(9)
    assert [(step.outcome or {}) for step in done.steps_named(between.SCRIPT)] == [
        {"exit": 0, "output": "switched"}
    ] * 2


def test_one_that_fails_is_where_it_stops_and_is_run_again(engine: Engine, store: Protections, script: Script) -> None:
    script.is_to(3, "no such zone")
    runs = Runs(store)
    with pytest.raises(NeedsPersonError, match=r"script 'dns' failed \(exit 3\): no such zone"):
        recovery(engine, runs, hooks=script.hooks()).run(scripted(), {}, "ana")
    assert runs.asked == [], "it stands before the first VM"
    script.is_to(0)
    recovery(engine, runs, hooks=script.hooks()).carry_out(Jobs(engine).take_over(unfinished(engine).id), scripted())
    assert runs.asked == ["db", "app"]
    assert len(script.ran) == 3


def test_one_that_ended_well_is_not_run_again(engine: Engine, store: Protections, script: Script) -> None:
    runs = Runs(store, fails="app")
    with pytest.raises(NeedsPersonError):
        recovery(engine, runs, hooks=script.hooks()).run(scripted(), {}, "ana")
    runs.fails = ""
    recovery(engine, runs, hooks=script.hooks()).carry_out(Jobs(engine).take_over(unfinished(engine).id), scripted())
    assert script.ran == ["a before recovery db", "b after recovery app"]


@pytest.mark.parametrize("hooks", [{}, "for moves only"])
def test_a_plan_runs_nothing_but_hooks_that_are_for_plans(
    engine: Engine, store: Protections, script: Script, hooks: Any
) -> None:
    known = script.hooks(When.BEFORE) if hooks else {}
    with pytest.raises(NeedsPersonError, match="not in this controller's settings as one for plans"):
        recovery(engine, Runs(store), hooks=known).run(scripted(), {}, "ana")
    assert script.ran == []


def test_a_script_whose_controller_died_over_it_is_run_again(
    engine: Engine, store: Protections, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise Killed

    runs = Runs(store)
    with monkeypatch.context() as patched:
        patched.setattr(between, "run", dying)
        with pytest.raises(Killed):
            recovery(engine, runs, hooks=script.hooks()).run(scripted(), {}, "ana")
    assert unfinished(engine).steps_named(between.SCRIPT)[0].outcome is None
    abandon(engine)
    recovery(engine, runs, hooks=script.hooks()).carry_out(Jobs(engine).take_over(unfinished(engine).id), scripted())
    assert len(script.ran) == 2
    assert runs.asked == ["db", "app"]


def answered(engine: Engine, word: str, begin: Callable[[], object]) -> BaseException | None:
    """Begin a run in a thread, answer what it asks, and return what it raised."""
    failures: list[BaseException] = []

    def running() -> None:
        try:
            begin()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=running)
    thread.start()
    asked = threading.Event()
    while not (open_ones := [(job, step) for job in Jobs(engine).unfinished() if (step := open_question(job))]):
        assert thread.is_alive(), failures
        asked.wait(0.02)
    [(job, step)] = open_ones
    counts = answer(engine, job.id, step.n, word, "eva")
    assert counts is not None
    assert counts.word == word
    second = answer(engine, job.id, step.n, "yes" if word == "no" else "no", "bo")
    assert second is None or second == counts, "the first answer counts"
    thread.join(20.0)
    assert not thread.is_alive()
    return failures[0] if failures else None


def test_who_answers_need_not_be_where_it_runs(engine: Engine, store: Protections) -> None:
    said: list[str] = []
    runs = Runs(store)
    assert answered(engine, "yes", lambda: recovery(engine, runs, said.append).run(asking(), {}, "ana")) is None
    assert runs.asked == ["db", "app"]
    [told] = [each for each in said if each.startswith("?")]
    assert "Is the storage up? (yes or no, within 20.0 s, else no) mudanza recovery answer 1 yes|no" in told
    [done] = Jobs(engine).latest(9)
    assert done.steps_named("ask")[0].outcome == {"answer": "yes", "by": "eva"}


def test_no_is_where_it_stops_and_it_is_asked_again(engine: Engine, store: Protections) -> None:
    runs = Runs(store)
    stopped = answered(engine, "no", lambda: recovery(engine, runs).run(asking(), {}, "ana"))
    assert "eva has answered no to: Is the storage up?" in str(stopped)
    assert runs.asked == ["db"]
    job = unfinished(engine)
    assert open_question(job) is None

    def go_on() -> object:
        return recovery(engine, runs).carry_out(Jobs(engine).take_over(job.id), asking())

    assert answered(engine, "yes", go_on) is None
    assert runs.asked == ["db", "app"]


@pytest.mark.parametrize(("default", "up"), [("no", ["db"]), ("yes", ["db", "app"])])
def test_where_nobody_answers_in_time_the_default_counts(
    engine: Engine, store: Protections, default: str, up: list[str]
) -> None:
    runs = Runs(store)
    silent = asking(limit=0.0, default=default)
    if default == "no":
        with pytest.raises(NeedsPersonError, match="nobody, within 0 ms, has answered no"):
            recovery(engine, runs).run(silent, {}, "ana")
    else:
        recovery(engine, runs).run(silent, {}, "ana")
    assert runs.asked == up


def test_an_answer_that_is_given_while_its_controller_is_dead_counts(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise Killed

    runs = Runs(store)
    with monkeypatch.context() as patched:
        patched.setattr(between, "answer_to", dying)
        with pytest.raises(Killed):
            recovery(engine, runs).run(asking(), {}, "ana")
    job = unfinished(engine)
    step = open_question(job)
    assert step is not None
    answer(engine, job.id, step.n, "yes", "eva")
    abandon(engine)
    recovery(engine, runs).carry_out(Jobs(engine).take_over(job.id), asking())
    assert len(Jobs(engine).get(job.id).steps_named("ask")) == 1, "it was not asked again"
    assert runs.asked == ["db", "app"]


SLOW = """#!/bin/sh
echo begun
exec sleep 1000
"""
ENDLESS = {
    "await": Wait(Await.TIME, "", 1000.0),
    "ask": Wait(Await.ASK, NOW.what, 1000.0),
    between.SCRIPT: Wait(Await.SCRIPT, "dns", 1000.0),
}


@pytest.mark.parametrize("moment", ["before", "waits"])
@pytest.mark.parametrize("step", ENDLESS)
def test_whoever_cancels_it_need_not_wait_for_what_stands_between(
    engine: Engine, store: Protections, script: Script, step: str, moment: str
) -> None:
    script.path.write_text(SLOW)
    runs, failures = Runs(store), []
    slow = plan(replace(Group("a", ("db",)), **cast("Any", {moment: (ENDLESS[step],)})), Group("b", ("app",)))

    def running() -> None:
        hooks = {"dns": replace(script.hooks()["dns"], limit=1000.0)}
        with pytest.raises(MigrationFailedError) as failed:
            recovery(engine, runs, hooks=hooks).run(slow, {}, "ana")
        failures.append(str(failed.value))

    thread = threading.Thread(target=running)
    thread.start()
    await_true(lambda: any(job.steps_named(step) for job in Jobs(engine).unfinished()), "it waits")
    number = unfinished(engine).id
    Jobs(engine).ask_to_cancel(number, "bea")
    thread.join(60.0)
    ended = Jobs(engine).get(number)
    assert failures == [ended.outcome] == ["plan 'site' was given up: cancelled on request of bea"]
    assert (ended.state, ended.exit_code) == ("failed", 4)
    assert runs.asked == ([] if moment == "before" else ["db"]), "what is up is up"
    if step == between.SCRIPT:
        assert ended.steps_named(step)[0].outcome == {"fault": "was ended: cancelled on request of bea"}


def test_when_a_group_was_through_is_kept_for_whoever_goes_on(engine: Engine, store: Protections) -> None:
    runs = Runs(store, fails="app")
    with pytest.raises(NeedsPersonError):
        recovery(engine, runs).run(plan(), {}, "ana")
    [first] = unfinished(engine).steps_named("through")
    runs.fails = ""
    done = recovery(engine, runs).carry_out(Jobs(engine).take_over(unfinished(engine).id), plan())
    assert done[0].up_after == (first.outcome or {})["seconds"] <= done[1].up_after


WRITES = ("intend", "done", "note", "finish")


class Dying:
    """Has a controller die before or after the n-th time that it writes something down."""

    def __init__(self, patched: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        for name in WRITES:
            patched.setattr(JobHandle, name, self._with(getattr(JobHandle, name)))

    def _with(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def writing(*arguments: Any, **named: Any) -> Any:
            self._point()
            result = write(*arguments, **named)
            self._point()
            return result

        return writing

    def _point(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def test_killed_anywhere_it_goes_on_and_nothing_is_done_twice_that_is_known_to_be_done(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Wait(Await.SCRIPT, "dns", 20.0)
    whole = plan(
        Group("a", ("db",), before=(step, Wait(Await.ASK, "Now?", 0.0, "yes"))),
        Group("b", ("app",), waits=(Wait(Await.TIME, "", 0.001),)),
    )
    died, at = True, 0
    while died:
        at += 1
        engine = open_database(str(tmp_path / f"{at}.db"))
        store = Protections(engine)
        for name in ("db", "app"):
            protected(store, name)
        runs, died = Runs(store), False
        with monkeypatch.context() as patched:
            Dying(patched, at)
            try:
                recovery(engine, runs, hooks=script.hooks()).run(whole, {}, "ana")
            except Killed:
                died = True
        abandon(engine)
        for job in Jobs(engine).unfinished():
            recovery(engine, runs, hooks=script.hooks()).carry_out(Jobs(engine).take_over(job.id), whole)
        assert runs.asked == ["db", "app"], at
        [done] = Jobs(engine).latest(9)
        ended = [step for step in done.steps_named(between.SCRIPT) if step.outcome is not None]
        assert (len(ended), done.exit_code) == (1, 0), at
        engine.dispose()
    assert at > 20, "every write was an instant of it"
