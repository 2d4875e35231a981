"""The hooks of a job: which are run when, how often, and what becomes of those that fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from mudanza.cli.settings import load_settings
from mudanza.journal.database import Database, open_database, transaction
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.journal.schema import job
from mudanza.migration.hooks import HookFailedError, Hooks, runnable
from mudanza.model.errors import MigrationFailedError, UsageError
from mudanza.model.hook import Hook, When, hooks_for
from mudanza.model.migration import Answer, Progress

EVIL = "a;reboot $(id) --help"


@dataclass(frozen=True)
class Moving:
    hooks: tuple[str, ...]
    uuid: str = "u-1"
    name: str = EVIL
    source: str = "h1"
    target: str = "h2"


class Scene:
    """A job, and hooks that write down that they were run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine: Database = open_database(str(directory / "journal.db"))
        self.jobs = Jobs(self.engine)
        self.handle: JobHandle = self.jobs.begin(NewJob("live", "u-1", EVIL, "h1", "h2", {}, "ana@laptop"))
        self.known: dict[str, Hook] = {}
        self.seen: list[Progress] = []

    def hook(self, name: str, *when: When, script: str = "", limit: float = 20.0, **about: Any) -> None:
        path = self.directory / name
        log = self.directory / "log"
        told = '"$MUDANZA_HOOK $MUDANZA_WHEN $MUDANZA_OUTCOME|$MUDANZA_VM|$MUDANZA_REASON"'
        path.write_text(f"#!/bin/sh\necho {told} >> {log}\n{script}\n")
        path.chmod(0o755)
        self.known[name] = Hook(name, (str(path),), frozenset(when), limit, **about)

    def of(self, *names: str) -> Hooks:
        return Hooks(self.known, self.jobs, self.handle, Moving(names), "live", self.seen.append)

    @property
    def log(self) -> list[str]:
        path = self.directory / "log"
        return [line.partition("|")[0].strip() for line in path.read_text().splitlines()] if path.exists() else []

    def steps(self) -> list[tuple[Any, Any]]:
        return [(step.intent["hook"], step.outcome) for step in self.jobs.get(self.handle.id).steps_named("hook")]


def wanted() -> None:
    """It is."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path)
    yield found
    found.engine.dispose()


def test_each_is_run_at_its_moments_and_told_what_came_of_it(scene: Scene) -> None:
    scene.hook("dns", When.AFTER, When.FAILURE)
    scene.hook("pool", When.BEFORE, When.AFTER)
    hooks = scene.of("pool", "dns")
    hooks.before(wanted, None, 0.0)
    assert scene.log == ["pool before"]
    assert hooks.after(When.AFTER, "moved") == ()
    assert scene.log == ["pool before", "pool after moved", "dns after moved"]
    assert [words.partition(",")[0] for words in hooks.done()] == ["pool (before)", "pool (after)", "dns (after)"]
    assert f"|{EVIL}|" in (scene.directory / "log").read_text()
    assert scene.steps() == [("pool", {"exit": 0}), ("pool", {"exit": 0}), ("dns", {"exit": 0})]
    assert {each.phase for each in scene.seen} <= {"hook pool", "hook dns"}


def test_one_that_fails_before_a_move_stops_it_and_those_after_it(scene: Scene) -> None:
    scene.hook("first", When.BEFORE, script="echo 'no room' >&2; exit 2")
    scene.hook("second", When.BEFORE)
    with pytest.raises(HookFailedError, match=r"'first', which is run before a move, failed \(exit 2\): no room"):
        scene.of("first", "second").before(wanted, None, 0.0)
    assert scene.log == ["first before"]
    assert scene.steps() == [("first", {"fault": "failed (exit 2): no room"})]


def test_one_that_takes_too_long_stops_it_too(scene: Scene) -> None:
    scene.hook("slow", When.BEFORE, script="exec sleep 100", limit=0.3)
    with pytest.raises(HookFailedError, match="took too long"):
        scene.of("slow").before(wanted, None, 0.0)


def test_those_after_it_change_nothing(scene: Scene) -> None:
    scene.hook("bad", When.AFTER, script="exit 1")
    scene.hook("good", When.AFTER)
    scene.known["lost"] = Hook("lost", (str(scene.directory / "nowhere"),), frozenset({When.AFTER}), 1.0)
    warnings = scene.of("bad", "lost", "gone", "good").after(When.AFTER, "moved")
    assert scene.log == ["bad after moved", "good after moved"]
    expected = ("failed (exit 1)", "could not be run: No such file", "is not in this controller's settings")
    assert len(warnings) == len(expected)
    assert all(words in warning for words, warning in zip(expected, warnings, strict=True))


def test_it_is_ended_when_the_move_is_cancelled_or_too_late(scene: Scene) -> None:
    scene.hook("slow", When.BEFORE, script="exec sleep 100")

    def unwanted() -> None:
        if scene.log:
            raise MigrationFailedError("cancelled on request")

    with pytest.raises(MigrationFailedError, match="cancelled on request") as cancelled:
        scene.of("slow").before(unwanted, None, 0.0)
    assert not isinstance(cancelled.value, HookFailedError)
    with pytest.raises(MigrationFailedError, match="not done within the deadline of 10 ms"):
        scene.of("slow").before(wanted, 0.01, 0.0)
    assert scene.steps()[0] == ("slow", {"ended": "cancelled on request"})


def test_whoever_goes_on_runs_again_only_what_nobody_knows_the_end_of(scene: Scene) -> None:
    for name in ("one", "two", "three"):
        scene.hook(name, When.AFTER, script="exit 1" if name == "two" else "")
    scene.of("one", "two").after(When.AFTER, "moved")
    scene.handle.intend("hook", {"hook": "three", "when": "after"})  # and then its controller died
    with transaction(scene.engine) as connection:
        connection.execute(update(job).values(lease_until=0.0))
    scene.handle = scene.jobs.take_over(scene.handle.id)
    assert scene.of("one", "two", "three").after(When.AFTER, "moved") == ()
    assert scene.log == ["one after moved", "two after moved", "three after moved"]


def test_a_later_try_of_the_same_job_runs_them_all_again(scene: Scene) -> None:
    scene.hook("pool", When.BEFORE)
    scene.of("pool").before(wanted, None, 0.0)
    scene.of("pool").before(wanted, None, 0.0)  # within one try it is known to have ended well
    assert scene.log == ["pool before"]
    scene.handle.finish("failed", "something else", 4, {"left": ["h2:/x"]})
    scene.handle = scene.jobs.reopen(scene.handle.id)
    scene.of("pool").before(wanted, None, 0.0)
    assert scene.log == ["pool before", "pool before"]


def test_others_stay_away_for_as_long_as_a_hook_may_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mudanza.migration.hooks.RENEW_EVERY", 0.0)
    scene.hook("long", When.AFTER, script="sleep 0.3", limit=1000.0)
    leases = []

    def look(_: Progress) -> None:
        found = scene.jobs.get(scene.handle.id)
        leases.append(found.lease_until - found.read_at)

    Hooks(scene.known, scene.jobs, scene.handle, Moving(("long",)), "live", look).after(When.AFTER, "moved")
    assert leases
    assert min(leases) > 900


def test_those_for_all_come_first_and_each_is_run_once(scene: Scene) -> None:
    scene.hook("mine", When.AFTER)
    scene.hook("everybody", When.AFTER, for_all=True)
    assert hooks_for(("mine", "everybody", "unknown"), scene.known) == ("everybody", "mine", "unknown")
    assert runnable(scene.known["mine"]).answer is Answer.YES
    (scene.directory / "mine").chmod(0o644)
    assert runnable(scene.known["mine"]).answer is Answer.NO
    assert runnable(None).answer is Answer.UNKNOWN


def settings(directory: Path, text: str) -> Any:
    path = directory / "settings.toml"
    path.write_text(text)
    return load_settings(path).settings


def test_they_are_written_into_the_settings(tmp_path: Path) -> None:
    text = '[hooks.dns]\ncommand = ["/usr/bin/dns", "move"]\nwhen = "after"\n[hooks.pool]\ncommand = ["/bin/pool"]\n'
    found = settings(tmp_path, text + 'when = ["before", "failure"]\ntimeout = "5s"\nfor_all = true').hooks
    assert found["dns"].as_hook("dns") == Hook("dns", ("/usr/bin/dns", "move"), frozenset({When.AFTER}), 60.0)
    pool = Hook("pool", ("/bin/pool",), frozenset({When.BEFORE, When.FAILURE}), 5.0, for_all=True)
    assert found["pool"].as_hook("pool") == pool


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[hooks.dns]\ncommand = "dns move"\nwhen = "after"', "hooks.dns.command"),
        ('[hooks.dns]\ncommand = ["dns"]\nwhen = "after"', "whole path"),
        ('[hooks.dns]\ncommand = []\nwhen = "after"', "hooks.dns.command"),
        ('[hooks.dns]\ncommand = ["/bin/dns"]', "hooks.dns.when"),
        ('[hooks.dns]\ncommand = ["/bin/dns"]\nwhen = []', "hooks.dns.when"),
        ('[hooks.dns]\ncommand = ["/bin/dns"]\nwhen = "soon"', "hooks.dns.when"),
        ('[hooks.dns]\ncommand = ["/bin/dns"]\nwhen = "after"\ntimeout = "2h"', "hooks.dns.timeout"),
        ('[hooks."a b"]\ncommand = ["/bin/dns"]\nwhen = "after"', "hooks"),
    ],
)
def test_what_is_wrong_with_one_is_said(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        settings(tmp_path, text)
