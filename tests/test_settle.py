"""Where is the VM after a transfer? Every combination of what two hosts can say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from mudanza.migration.settle import Act, Verdict, settle, waits_in_vain
from mudanza.model.migration import Qemu, Side, Sighting
from mudanza.model.vm import VmState


def seen(state: VmState, reason: str = "", job: str | None = None) -> Sighting:
    return Sighting(Side.PRESENT, state, reason, persistent=True, job=job)


ABSENT = Sighting(Side.ABSENT)
UNSEEN = Sighting(Side.UNSEEN)
RUNNING = seen(VmState.RUNNING, "booted")
SWITCHING = seen(VmState.PAUSED, "migrating")
USER_PAUSED = seen(VmState.PAUSED, "user")
OFF = seen(VmState.SHUTOFF, "shutdown")
ARRIVED = seen(VmState.RUNNING, "migrated")
STARTED_THERE = seen(VmState.RUNNING, "booted")
MIGRATED = seen(VmState.SHUTOFF, "migrated")
INCOMING = seen(VmState.PAUSED, "migrating")

SILENT = {qemu: Sighting(Side.UNSEEN, qemu=qemu) for qemu in Qemu}
AGAIN = seen(VmState.RUNNING, "migration canceled")

EVERYTHING = [ABSENT, UNSEEN, *SILENT.values(), replace(AGAIN, kept=True)] + [
    seen(state, reason, job)
    for state in VmState
    for reason in (
        "",
        "booted",
        "user",
        "migrating",
        "migrated",
        "migration canceled",
        "starting up",
        "I/O error",
        "post-copy",
        "post-copy failed",
    )
    for job in (None, "migration out")
]


@pytest.mark.parametrize(
    ("source", "target", "verdict", "acts"),
    [
        (ABSENT, seen(VmState.RUNNING, "migrated"), Verdict.MOVED, ()),
        (MIGRATED, seen(VmState.RUNNING, "migrated"), Verdict.MOVED, ()),
        (SWITCHING, seen(VmState.RUNNING, "migrated"), Verdict.MOVED, (Act.DROP_SOURCE_COPY,)),
        (RUNNING, ABSENT, Verdict.STAYED, ()),
        (RUNNING, UNSEEN, Verdict.STAYED, ()),
        (AGAIN, UNSEEN, Verdict.PERSON, ()),
        (replace(AGAIN, kept=True), UNSEEN, Verdict.STAYED, ()),
        (AGAIN, SILENT[Qemu.GONE], Verdict.STAYED, ()),
        (AGAIN, SILENT[Qemu.NEVER_RAN], Verdict.STAYED, (Act.END_TARGET_QEMU,)),
        (AGAIN, SILENT[Qemu.RAN], Verdict.PERSON, ()),
        (SWITCHING, ABSENT, Verdict.STAYED, (Act.RESUME_SOURCE,)),
        (RUNNING, INCOMING, Verdict.STAYED, (Act.END_TARGET_COPY,)),
        (SWITCHING, INCOMING, Verdict.STAYED, (Act.END_TARGET_COPY, Act.RESUME_SOURCE)),
        (MIGRATED, INCOMING, Verdict.MOVED, (Act.RESUME_TARGET,)),
        (ABSENT, seen(VmState.PAUSED, "migrating"), Verdict.MOVED, (Act.RESUME_TARGET,)),
        (seen(VmState.PAUSED, "I/O error"), ABSENT, Verdict.STAYED, ()),
        (OFF, ABSENT, Verdict.DOWN, ()),
        (seen(VmState.CRASHED, "crashed"), ABSENT, Verdict.DOWN, ()),
        # It died after it had arrived: libvirt lets go of it at the source only when it runs at the target.
        (ABSENT, OFF, Verdict.MOVED, ()),
        (ABSENT, seen(VmState.SHUTOFF, "destroyed"), Verdict.DOWN_THERE, ()),
        (MIGRATED, seen(VmState.CRASHED, "crashed"), Verdict.DOWN_THERE, ()),
        (OFF, OFF, Verdict.PERSON, ()),
        (SWITCHING, OFF, Verdict.PERSON, ()),
        (UNSEEN, OFF, Verdict.PERSON, ()),
        (RUNNING, RUNNING, Verdict.PERSON, ()),
        (SWITCHING, UNSEEN, Verdict.PERSON, ()),
        (UNSEEN, RUNNING, Verdict.PERSON, ()),
        (UNSEEN, ABSENT, Verdict.PERSON, ()),
        (UNSEEN, UNSEEN, Verdict.PERSON, ()),
        (ABSENT, ABSENT, Verdict.PERSON, ()),
        (MIGRATED, ABSENT, Verdict.PERSON, ()),
        # It arrived and was stopped there afterwards: letting it run again is not ours to decide.
        (MIGRATED, USER_PAUSED, Verdict.MOVED, ()),
        (ABSENT, seen(VmState.PAUSED, "I/O error"), Verdict.MOVED, ()),
        # What runs at the target has not the memory that the source still holds.
        (SWITCHING, STARTED_THERE, Verdict.PERSON, ()),
        (USER_PAUSED, STARTED_THERE, Verdict.PERSON, ()),
        (USER_PAUSED, ARRIVED, Verdict.MOVED, (Act.DROP_SOURCE_COPY,)),
        (OFF, INCOMING, Verdict.PERSON, ()),
        # Pages may still be on their way: a copy that holds them is never dropped.
        (SWITCHING, seen(VmState.RUNNING, "post-copy"), Verdict.PERSON, ()),
        (seen(VmState.PAUSED, "post-copy"), seen(VmState.RUNNING, "post-copy"), Verdict.PERSON, ()),
        (
            seen(VmState.PAUSED, "post-copy failed"),
            seen(VmState.PAUSED, "post-copy failed"),
            Verdict.PERSON,
            (),
        ),
        (seen(VmState.RUNNING, "booted", "migration out"), INCOMING, Verdict.WAIT, ()),
    ],
)
def test_one_answer(source: Sighting, target: Sighting, verdict: Verdict, acts: tuple[Act, ...]) -> None:
    found = settle(source, target)
    assert (found.verdict, found.acts) == (verdict, acts)


def test_the_disks_of_the_source_are_old_only_when_the_migration_brought_it_over() -> None:
    assert settle(MIGRATED, ARRIVED).arrived
    started = settle(OFF, STARTED_THERE)
    assert (started.verdict, started.arrived) == (Verdict.MOVED, False)
    assert "kept at the source" in started.remark


def test_a_copy_is_ended_before_its_time_only_where_the_other_one_runs_for_certain() -> None:
    waiting = [(source, target) for source, target in product(EVERYTHING, EVERYTHING) if waits_in_vain(source, target)]
    assert (seen(VmState.PAUSED, "migrating", "migration out"), ARRIVED) in waiting
    assert (seen(VmState.PAUSED, "migrating", "migration out"), SILENT[Qemu.RAN]) in waiting
    for source, target in waiting:
        assert (target.running and target.reason == "migrated") or target.qemu is Qemu.RAN
        assert (source.state, source.reason) == (VmState.PAUSED, "migrating")


def test_a_vm_that_arrived_and_stands_still_is_told_of() -> None:
    assert "I/O error" in settle(ABSENT, seen(VmState.PAUSED, "I/O error")).remark


@pytest.mark.parametrize("job", ["backup", "dump", "snapshot"])
def test_another_tools_job_is_not_waited_for(job: str) -> None:
    assert settle(seen(VmState.RUNNING, "booted", job), ABSENT).verdict is Verdict.STAYED
    assert settle(MIGRATED, seen(VmState.RUNNING, "migrated", job)).verdict is Verdict.MOVED
    for ours in ("migration out", "migration in", "unknown"):
        assert settle(seen(VmState.RUNNING, "booted", ours), ABSENT).verdict is Verdict.WAIT


def test_a_vm_paused_on_purpose_stays_paused() -> None:
    assert settle(USER_PAUSED, ABSENT, was_paused=True).acts == ()
    assert settle(ABSENT, USER_PAUSED, was_paused=True).verdict is Verdict.MOVED
    assert settle(ABSENT, USER_PAUSED, was_paused=True).acts == ()
    assert settle(USER_PAUSED, INCOMING, was_paused=True).acts == (Act.END_TARGET_COPY,)


def test_no_combination_leads_to_two_copies_or_none() -> None:
    for source, target, was_paused in product(EVERYTHING, EVERYTHING, (False, True)):
        found = settle(source, target, was_paused=was_paused)
        assert found.why
        assert not (found.verdict is Verdict.DOWN_THERE and {Act.RESUME_SOURCE, Act.RESUME_TARGET} & {*found.acts})
        if found.verdict in (Verdict.PERSON, Verdict.WAIT, Verdict.DOWN):
            assert not found.acts, (source, target)
        if Act.RESUME_SOURCE in found.acts:
            assert target.side is Side.ABSENT or not target.state.active or Act.END_TARGET_COPY in found.acts
            assert not target.running
        if Act.RESUME_TARGET in found.acts or Act.DROP_SOURCE_COPY in found.acts:
            assert target.side is Side.PRESENT or source.reason.startswith("post-copy")
            assert not source.running
        if Act.DROP_SOURCE_COPY in found.acts:
            assert not (target.running and target.reason == "booted"), "its memory is another one"
        if Act.END_TARGET_COPY in found.acts:
            assert not target.running
            assert source.side is Side.PRESENT
            assert source.state.active
        if found.verdict is Verdict.MOVED:
            assert target.side is Side.PRESENT
            assert not source.running
        if Side.UNSEEN in (source.side, target.side):
            again = source.running and source.reason == AGAIN.reason and source.job is None and not source.kept
            proven = again and target.qemu is Qemu.NEVER_RAN
            assert found.acts == ((Act.END_TARGET_QEMU,) if proven else ()), "it proves nothing"


@pytest.mark.parametrize("side", [UNSEEN])
def test_not_seen_is_never_read_as_not_there(side: Sighting) -> None:
    assert settle(side, RUNNING).verdict is Verdict.PERSON
    assert settle(SWITCHING, side).verdict is Verdict.PERSON
