"""VMs of a plan that come up side by side: in order, never too many at once, and each failure with its own result."""

from __future__ import annotations

import itertools
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from mudanza.journal.database import open_database
from mudanza.journal.errors import LeaseLostError
from mudanza.journal.jobs import JobHandle, Jobs
from mudanza.journal.protections import Protections
from mudanza.model.errors import MigrationFailedError, MudanzaError, NeedsPersonError
from mudanza.model.recovery import Group, RecoveryPlan, Room, Turn, recovery_plan
from mudanza.operations.recovery_file import read_plan
from mudanza.protection.recovery import Recovered, Recovery
from mudanza.protection.side_by_side import INTERRUPTED, next_turns, take_turns
from tests.test_between import Dying, Killed, abandon
from tests.test_recovery_plans import Runs, protected, recovery

HOSTS = st.sampled_from(["h1", "h2", "h3", ""])
ROOMS = st.builds(Room, st.integers(1, 5), st.integers(1, 3))
NUMBERS = itertools.count()
LONG = 30.0
"""Seconds that a test waits for what comes at once."""


def turns(hosts: Sequence[str]) -> list[Turn]:
    return [Turn(f"vm{n}", host) for n, host in enumerate(hosts)]


def assert_fits(busy: Sequence[Turn], room: Room) -> None:
    assert len(busy) <= room.at_once
    there = Counter(turn.host for turn in busy if turn.host)
    assert all(number <= room.per_host for number in there.values())


@given(st.lists(HOSTS, max_size=12), ROOMS, st.randoms(use_true_random=False))
def test_all_are_begun_in_order_and_there_are_never_too_many(hosts: list[str], room: Room, chance: Random) -> None:
    waiting, under_way, begun = turns(hosts), list[Turn](), list[Turn]()
    while waiting or under_way:
        chosen = next_turns(waiting, under_way, room)
        assert chosen or under_way, "somebody who waits is begun, or one of those under way gives room"
        under_way += chosen
        begun += chosen
        waiting = [turn for turn in waiting if turn not in chosen]
        assert_fits(under_way, room)
        for turn in waiting:
            full = [each for each in under_way if each.host == turn.host]
            assert len(under_way) == room.at_once or (turn.host and len(full) == room.per_host), "room is used"
        under_way.pop(chance.randrange(len(under_way)))
    assert sorted(begun, key=lambda turn: int(turn.vm[2:])) == turns(hosts)
    for host in set(hosts):
        mine = [turn for turn in begun if turn.host == host]
        assert mine == sorted(mine, key=lambda turn: int(turn.vm[2:])), "at one host, in their order"


def test_two_are_under_way_at_once_where_two_may_be() -> None:
    both = threading.Barrier(2, timeout=LONG)
    assert take_turns(turns(["h1", "h2"]), Room(2, 1), lambda turn: both.wait() >= 0 and turn.vm) == ["vm0", "vm1"]


def test_a_failure_stands_in_its_place_and_keeps_nobody_back() -> None:
    def act(turn: Turn) -> str:
        if turn.vm == "vm1":
            raise MigrationFailedError("no")
        return turn.vm

    [first, failed, last] = take_turns(turns(["h1"] * 3), Room(1, 1), act)
    assert (first, str(failed), last) == ("vm0", "no", "vm2")


@pytest.mark.parametrize("failure", [KeyError("a fault of ours"), LeaseLostError("taken over")])
def test_who_may_not_act_any_more_begins_nothing(failure: Exception) -> None:
    begun = list[str]()

    def act(turn: Turn) -> None:
        begun.append(turn.vm)
        raise failure

    with pytest.raises(type(failure)):
        take_turns(turns(["h1"] * 3), Room(1, 1), act)
    assert begun == ["vm0"]


def test_a_plan_says_how_many_at_once() -> None:
    def room(text: str) -> Room:
        plan = read_plan("site", text + '[[group]]\nname = "a"\nvms = ["x", "y"]\n')
        return plan.room_of(plan.groups[0], Room(6, 3))

    assert room("") == Room(6, 3)
    assert room("at_once = 9\nat_once_per_host = 9\n") == Room(9, 9)
    assert room("at_once = 2\n") == Room(2, 3)
    one = read_plan("site", 'at_once = 4\n[[group]]\nname = "a"\nvms = ["x", "y"]\nat_once = 1\n')
    assert one.room_of(one.groups[0], Room()) == Room(1, 3), "one after the other"
    with pytest.raises(Exception, match="wrong at at_once"):
        room("at_once = 0\n")


# Whole plans.


@dataclass
class Way:
    """Brings VMs up on hosts, or not, and looks whether that was their turn."""

    plan: RecoveryPlan
    hosts: dict[str, str]
    fails: set[str]
    room: Room
    begun: list[str] = field(default_factory=list)
    up: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    _now: list[Turn] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    kind = "recovery"

    def make_ready(self, _handle: JobHandle, _plan: RecoveryPlan) -> None:
        """Nothing is half done."""

    def turns(self, _plan: RecoveryPlan, group: Group) -> tuple[Turn, ...]:
        return tuple(Turn(vm, self.hosts[vm]) for vm in group.vms)

    def bring_up(self, _handle: JobHandle, plan: RecoveryPlan, group: Group, vm: str) -> Recovered:
        turn = Turn(vm, self.hosts[vm])
        with self._lock:
            self.begun.append(vm)
            self._now.append(turn)
            self._look(plan, group, vm)
        with self._lock:
            self._now.remove(turn)
            if vm in self.fails:
                raise MigrationFailedError(f"{vm} does not start", remedy="mend that")
            self.up.add(vm)
        return Recovered(vm, self.hosts[vm], group.name, None, 0.0)

    def _look(self, plan: RecoveryPlan, group: Group, vm: str) -> None:
        before = [vm for each in plan.groups if each.name in group.after for vm in each.vms]
        self.faults += [f"{vm} before {other}" for other in before if other not in self.up]
        self.faults += [f"{vm} beside {turn.vm}" for turn in self._now if turn.vm not in group.vms]
        try:
            assert_fits(self._now, plan.room_of(group, self.room))
        except AssertionError:
            self.faults.append(f"too many at once: {self._now}")

    def agent_answers(self, _vm: str) -> bool:
        return True


@st.composite
def plans(draw: st.DrawFn) -> RecoveryPlan:
    number = draw(st.integers(1, 5))
    groups = []
    for n in range(number):
        vms = tuple(f"vm{n}-{each}" for each in range(draw(st.integers(1, 4))))
        after = draw(st.sets(st.integers(0, n - 1))) if n else set()
        at_once = draw(st.none() | st.integers(1, 2))
        groups.append(Group(f"g{n}", vms, tuple(f"g{each}" for each in sorted(after)), at_once=at_once))
    shuffled = draw(st.permutations(groups))
    return recovery_plan("site", shuffled, at_once=draw(st.none() | st.integers(1, 4)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_database(str(tmp_path_factory.mktemp("journal") / "mudanza.db"))


def kept_back(plan: RecoveryPlan, fails: set[str]) -> set[str]:
    """The VMs of groups that come after one in which one fails, directly or not."""
    lost = {group.name for group in plan.groups if fails.intersection(group.vms)}
    found: set[str] = set()
    for group in plan.groups:
        if lost.intersection(group.after):
            lost.add(group.name)
            found.update(group.vms)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans(), ROOMS, st.data())
def test_no_order_is_broken_and_only_what_depends_on_it_is_kept_back(
    engine: Engine, plan: RecoveryPlan, room: Room, data: st.DataObject
) -> None:
    plan = replace(plan, name=f"site-{next(NUMBERS)}")
    hosts = {vm: data.draw(HOSTS) for vm in plan.vms}
    fails = data.draw(st.sets(st.sampled_from(plan.vms), max_size=2))
    way, jobs = Way(plan, hosts, fails, room), Jobs(engine)
    recovery = Recovery(engine, jobs, way, {}, lambda _: None, room)
    unreached = kept_back(plan, fails)
    if fails - unreached:
        with pytest.raises(NeedsPersonError) as stopped:
            recovery.run(plan, {}, "ana")
        assert all(f"{vm} does not start" in str(stopped.value) for vm in fails - unreached)
        assert way.up == set(plan.vms) - fails - unreached
        assert not unreached.intersection(way.begun)
        [job] = [each for each in jobs.unfinished() if each.vm_name == plan.name]
        way.fails, way.begun = set(), []
        done = recovery.carry_out(jobs.take_over(job.id), plan)
    else:
        done = recovery.run(plan, {}, "ana")
    assert way.faults == []
    assert tuple(each.vm for each in done) == plan.vms, "each has its result, in the plan's order"
    assert way.up == set(plan.vms)
    through = {each.group: each.up_after for each in done}
    assert all(through[group.name] >= through[other] for group in plan.groups for other in group.after)
    assert plan.name not in {each.vm_name for each in jobs.unfinished()}


def test_what_did_not_come_up_is_all_told(tmp_path: Path) -> None:
    plan = recovery_plan("site", [Group("a", ("x", "y")), Group("b", ("z",), after=("a",)), Group("c", ("w",))])
    engine = open_database(str(tmp_path / "mudanza.db"))
    way = Way(plan, dict.fromkeys(plan.vms, "h2"), {"x", "y"}, Room())
    said = list[str]()
    with pytest.raises(MudanzaError) as stopped:
        Recovery(engine, Jobs(engine), way, {}, said.append, Room()).run(plan, {}, "ana")
    assert str(stopped.value) == (
        "plan 'site' has come to a stop: x does not start; y does not start; not begun, for they come after that: b"
    )
    assert stopped.value.remedy.startswith("mend that; then: mudanza job resume")
    assert way.up == {"w"}
    assert sorted(said) == ["! x is not up: x does not start", "! y is not up: y does not start"]


class DyingBesides(Dying):
    """Has one of several threads die."""

    def __init__(self, patched: pytest.MonkeyPatch, at: int) -> None:
        self._lock = threading.Lock()
        super().__init__(patched, at)

    def _point(self) -> None:
        with self._lock:
            super()._point()


def test_killed_anywhere_over_several_at_once_each_is_brought_up_just_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = recovery_plan("site", [Group("a", ("db", "app"))])
    died, at = True, 0
    while died:
        at += 1
        journal = open_database(str(tmp_path / f"{at}.db"))
        store = Protections(journal)
        for name in ("db", "app"):
            protected(store, name)
        runs, died = Runs(store), False
        with monkeypatch.context() as patched:
            DyingBesides(patched, at)
            try:
                recovery(journal, runs).run(both, {}, "ana")
            except Killed:
                died = True
        abandon(journal)
        for job in Jobs(journal).unfinished():
            done = recovery(journal, runs).carry_out(Jobs(journal).take_over(job.id), both)
            assert [each.vm for each in done] == ["db", "app"]
        assert sorted(runs.asked) == ["app", "db"], at
        [ended] = Jobs(journal).latest(9)
        assert ended.exit_code == 0
        journal.dispose()
    assert at > 10, "every write was an instant of it"


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_waits_for_nobody() -> None:
    over = threading.Event()

    def press(_: object = None) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        over.wait(LONG)

    def press_again(_: str) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as ended:
        take_turns(turns(["h1"]), Room(), press, press_again)
    over.set()
    assert ended.value.code == INTERRUPTED
