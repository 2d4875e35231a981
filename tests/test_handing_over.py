"""A VM changes over by plan: what a controller has left behind of it is finished first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mudanza.model.errors import BlockedError, MigrationFailedError
from mudanza.operations.rescuing import refuse_unfinished
from mudanza.protection import left_behind
from mudanza.protection.left_behind import KIND

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


def means(kind: str | None, *, abandoned: bool) -> Any:
    job = SimpleNamespace(id=7, kind=kind, abandoned=abandoned, way_out="wait for it", target="h2", vm_name="db")
    jobs = SimpleNamespace(unfinished_of=lambda _uuid: job if kind is not None else None)
    return cast("Any", SimpleNamespace(jobs=jobs))
