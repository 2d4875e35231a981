"""A VM changes over by plan: what a controller has left of it is finished first; Ctrl-C leaves nobody guessing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mudanza.journal.database import open_database
from mudanza.journal.jobs import Jobs
from mudanza.journal.protections import Protections
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, MigrationFailedError
from mudanza.model.protection import Standing
from mudanza.model.vm import VmState
from mudanza.operations import power
from mudanza.operations.handing_over import hand_over
from mudanza.operations.rescuing import refuse_unfinished
from mudanza.protection import left_behind
from mudanza.protection.left_behind import KIND
from mudanza.protection.rounds import Rounds
from tests import factories as make
from tests.test_protection import VALUES, point

NOBODY: Any = None


@pytest.mark.parametrize(
    ("kind", "abandoned", "found"),
    [(None, False, False), ("live", True, False), (KIND, True, True)],
)
def test_a_round_that_was_left_with_the_vm_held_is_ended_before_it_is_taken_for_paused(
    kind: str | None, abandoned: bool, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []

    def break_off(_connections: object, _jobs: object, job: int) -> None:
        ended.append(job)
        raise MigrationFailedError("the round was broken off with its controller")

    monkeypatch.setattr(left_behind, "break_off", break_off)
    assert left_behind.finish_left(NOBODY, means(kind, abandoned=abandoned).jobs, "u") is found
    assert ended == [7] * found


def test_nobody_is_told_to_let_a_guest_go_on_that_a_living_controller_holds() -> None:
    with pytest.raises(BlockedError, match="unfinished job: number 7") as refused:
        left_behind.finish_left(NOBODY, means(KIND, abandoned=False).jobs, "u")
    assert "wait" in (refused.value.remedy or "")


def test_a_failover_that_was_begun_is_finished_before_another_is() -> None:
    """Else it would be told that the VM has no replica, or is up already."""
    protection = cast("Any", SimpleNamespace(vm_uuid="u", vm_name="db"))
    refuse_unfinished(means(None, abandoned=False), protection)
    refuse_unfinished(means(KIND, abandoned=True), protection)
    with pytest.raises(BlockedError, match="unfinished failover to h2: job 7") as refused:
        refuse_unfinished(means("failover", abandoned=True), protection)
    assert refused.value.remedy == "wait for it"


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_the_guest_shuts_down_says_so_and_how_to_go_on(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_database(database)
    store = Protections(engine)
    vm = make.vm()
    protection = store.make({**VALUES, "vm_uuid": vm.uuid, "vm_name": vm.name})
    monkeypatch.setattr(Rounds, "sync", lambda *_: point(1, whole=True))
    monkeypatch.setattr(power, "shut_down", interrupt)
    app = SimpleNamespace(database=engine, jobs=Jobs(engine), read_cluster=lambda _: Cluster((), (vm,)))
    with pytest.raises(MigrationFailedError, match="'web' was not handed over: it was interrupted") as failed:
        hand_over(cast("Any", app), cast("Any", SimpleNamespace(entries={})), protection, {}, "ana", lambda _: None)
    assert "may be off on h1 soon" in failed.value.vm_state
    assert "mudanza start web" in failed.value.remedy
    assert Jobs(engine).unfinished() == ()


def test_a_transient_vm_is_not_shut_down_for_what_it_wrote_last_would_be_lost() -> None:
    vm = make.vm(uuid="u", name="db", host="h1", state=VmState.RUNNING, persistent=False)
    seen = means(None, abandoned=False)
    seen.database, seen.read_cluster = NOBODY, lambda _connections: make.cluster(vms=[vm])
    protection = cast("Any", SimpleNamespace(vm_uuid="u", vm_name="db", target="h2", epoch=0, standing=Standing.ON))
    connections = cast("Any", SimpleNamespace(entries=()))
    with pytest.raises(BlockedError, match="transient on h1") as refused:
        hand_over(seen, connections, protection, {}, "ana", lambda _text: None)
    assert "virsh define" in (refused.value.remedy or "")


def test_one_that_has_come_up_there_already_is_not_said_to_have_no_host() -> None:
    up = cast("Any", SimpleNamespace(vm_uuid="u", vm_name="db", target="h2", standing=Standing.FAILED_OVER))
    with pytest.raises(BlockedError, match="'db' is failed over already, at h2"):
        hand_over(NOBODY, NOBODY, up, {}, "ana", print)


def means(kind: str | None, *, abandoned: bool) -> Any:
    job = SimpleNamespace(id=7, kind=kind, abandoned=abandoned, way_out="wait for it", target="h2", vm_name="db")
    jobs = SimpleNamespace(unfinished_of=lambda _uuid: job if kind is not None else None)
    return cast("Any", SimpleNamespace(jobs=jobs))
