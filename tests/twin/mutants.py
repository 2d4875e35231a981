"""Faults planted into the product on purpose, to see whether the model notices: ``python -m tests.twin.mutants``.

A model that finds nothing in a thousand sequences proves something only if it finds what is known to be there. Each
fault here is one that a hurried change might bring. It is to be seen by one of the cells of ``tests/twin/cells.py``,
or by random play within a bounded number of sequences.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, update

from mudanza.journal.database import transaction
from mudanza.journal.jobs import JobHandle, Jobs
from mudanza.journal.schema import job as job_table
from mudanza.migration.closing import Closing
from mudanza.migration.cold.handover import HandOver
from mudanza.migration.freight import room
from mudanza.migration.freight.room import Room
from mudanza.migration.live import migration as live
from mudanza.migration.live import settler
from mudanza.migration.live.settler import Settler
from mudanza.migration.settle import Act, Settlement, Verdict, settle
from mudanza.migration.sighting import sight
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import VmState
from tests.twin.cells import CELLS
from tests.twin.play import Step, play, replay

Plant = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Mutant:
    """What plants a fault while a block runs, and the cell in which it shows."""

    plant: Plant
    cell: str


MUTANTS: dict[str, Mutant] = {}
"""What is wrong, in words."""


def mutant(words: str, *, seen_in: str) -> Callable[[Plant], Plant]:
    """Have a function plant the fault that ``words`` tell of."""

    def add(plant: Plant) -> Plant:
        MUTANTS[words] = Mutant(plant, seen_in)
        return plant

    return add


def _nothing(*_: Any, **__: Any) -> None:
    return None


@contextmanager
def _everywhere(name: str, modules: Iterable[ModuleType], instead: object) -> Iterator[None]:
    """Plant something under a name wherever it is imported."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, name, instead))
        yield


# What is believed.


def _absent_if_unseen(look: Callable[..., Sighting]) -> Callable[..., Sighting]:
    def looking(*arguments: Any) -> Sighting:
        seen = look(*arguments)
        return Sighting(Side.ABSENT) if seen.side is Side.UNSEEN else seen

    return looking


@mutant(
    "live: a host that cannot be asked counts as one that does not have the VM",
    seen_in="h1 libvirtd killed and h2 isolated at phase FINISHING of web",
)
def unseen_is_absent() -> AbstractContextManager[object]:
    return patch.object(settler, "sight", _absent_if_unseen(sight))


@mutant(
    "cold: a host that cannot be asked counts as one that does not have the VM",
    seen_in="h2 isolated at after intend start, cold",
)
def unseen_is_absent_cold() -> AbstractContextManager[object]:
    return patch.object(HandOver, "sighting", _absent_if_unseen(HandOver.sighting))


@mutant(
    "a stopped source is resumed though the target cannot be asked",
    seen_in="h1 libvirtd killed and h2 isolated at phase FINISHING of web",
)
def stopped_source_is_resumed() -> AbstractContextManager[object]:
    def deciding(source: Sighting, target: Sighting, **known: bool) -> Settlement:
        is_stopped = source.state is VmState.PAUSED and source.reason == "migrating" and source.job is None
        if target.side is Side.UNSEEN and is_stopped:
            return Settlement(Verdict.STAYED, "it stands still at the source", (Act.RESUME_SOURCE,))
        return settle(source, target, **known)

    return patch.object(settler, "settle", deciding)


@mutant(
    "the source's stopped copy is resumed where it is to be ended",
    seen_in="h1 libvirtd killed at phase FINISHING of web",
)
def stopped_copy_is_resumed() -> AbstractContextManager[object]:
    doing = Settler._doing

    def wrongly(self: Settler, act: Act) -> Callable[[], None]:
        return doing(self, Act.RESUME_SOURCE if act is Act.DROP_SOURCE_COPY else act)

    return patch.object(Settler, "_doing", wrongly)


@mutant(
    "what the call returned is believed, and no host is asked", seen_in="h1 libvirtd killed at phase FINISHING of web"
)
def return_code_is_trusted() -> AbstractContextManager[object]:
    def believing(self: Settler, _limit: float, _keep: Callable[[], None]) -> Settlement:
        transfers = self._jobs.get(self._handle.id).steps_named("transfer")
        outcome = (transfers[-1].outcome if transfers else None) or {"error": "not begun"}
        if outcome.get("error") or outcome.get("stopped"):
            return Settlement(Verdict.STAYED, "libvirt reported an error")
        return Settlement(Verdict.MOVED, "libvirt reported success")

    return patch.object(Settler, "settle", believing)


@mutant(
    "cold: the source is not looked at once more before the VM starts at the target",
    seen_in="a stranger starts it at the source while autostart is about to be switched off there",
)
def no_last_look() -> AbstractContextManager[object]:
    return patch.object(HandOver, "last_look", _nothing)


# In which order things are done.


def _closing_of(settler: Settler) -> Closing:
    found = getattr(settler._define_at_target, "__self__", None)
    assert isinstance(found, Closing)
    return found


@mutant("the source's disks are deleted before both hosts were asked", seen_in="h2 dead at phase DISKS of web")
def deleted_before_settled() -> AbstractContextManager[object]:
    settling = Settler.settle

    def too_early(self: Settler, limit: float, keep: Callable[[], None]) -> Settlement:
        record = self._record
        for disk in () if record.keep_source else record.disks:
            if disk.source_pool and disk.source_volume:
                _closing_of(self)._delete(record.source, disk.source_pool, disk.source_volume, disk.source_path)
        return settling(self, limit, keep)

    return patch.object(Settler, "settle", too_early)


@mutant("a volume is made before that is written down", seen_in="controller killed at before intend create volume")
def made_before_written() -> AbstractContextManager[object]:
    def making(handle: JobHandle, intent: Mapping[str, object], make: Callable[[], str]) -> None:
        handle.assert_held()
        made = make()
        handle.done(handle.intend("create volume", intent), {"made": made})

    return _everywhere("make_volume", (live, room), making)


@mutant(
    "autostart stays on at the source over the move",
    seen_in="the source's host dies when the target runs it, and comes back with autostart",
)
def never_disarmed() -> AbstractContextManager[object]:
    return patch.object(Closing, "disarm", _nothing)


@mutant(
    "autostart is switched on at the source again before both hosts were asked",
    seen_in="h1 libvirtd killed and h2 isolated at phase FINISHING of web",
)
def rearmed_too_early() -> AbstractContextManager[object]:
    settling = Settler.settle

    def too_early(self: Settler, limit: float, keep: Callable[[], None]) -> Settlement:
        _closing_of(self).rearm(self._jobs.get(self._handle.id))
        return settling(self, limit, keep)

    return patch.object(Settler, "settle", too_early)


# Who may act.


@mutant("nobody looks whether the lease lasts before an act", seen_in="a controller that slept starts the VM")
@contextmanager
def lease_is_not_looked_at() -> Iterator[None]:
    with patch.object(JobHandle, "assert_held", _nothing), patch.object(JobHandle, "assert_may_act", _nothing):
        yield


@mutant("the journal takes from anybody what is written", seen_in="controller sleeps at phase DISKS of web")
def epoch_is_not_looked_at() -> AbstractContextManager[object]:
    def writing(self: JobHandle, connection: Connection, values: Mapping[str, Any]) -> None:
        connection.execute(update(job_table).where(job_table.c.id == self.id).values(**values))

    return patch.object(JobHandle, "_guarded", writing)


@mutant("a job is taken over before its lease is over", seen_in="taken over too early at after intend start")
def taken_over_at_once() -> AbstractContextManager[object]:
    taking = Jobs.take_over

    def at_once(self: Jobs, job_id: int) -> JobHandle:
        with transaction(self._engine) as connection:
            connection.execute(update(job_table).where(job_table.c.id == job_id).values(lease_until=0.0))
        return taking(self, job_id)

    return patch.object(Jobs, "take_over", at_once)


# What is cleaned up.


@mutant(
    "what a controller died over is never looked for",
    seen_in="controller killed at answer create volume web-0.qcow2, cold",
)
def half_made_is_forgotten() -> AbstractContextManager[object]:
    return patch.object(Room, "make_sure", _nothing)


def caught(plant: Plant, sequences: int, seed: int, cells: Mapping[str, list[Step]] = CELLS) -> str:
    """Return in words how the model noticed a fault; empty if it did not."""
    with plant():
        for name, steps in cells.items():
            if replay(steps) is not None:
                return f"cell: {name}"
        for number in range(seed, seed + sequences):
            steps, broken, _ = play(number, Counter())
            if broken is not None:
                return f"random sequence {number - seed + 1}: {'; '.join(map(str, steps))}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=300, help="Of random play, for each fault.")
    parser.add_argument("--seed", type=int, default=0, help="The number of the first one.")
    parser.add_argument("--only", default="", help="Faults with these words in their names.")
    parser.add_argument("--random", action="store_true", help="By random play alone.")
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    missed = 0
    for name, planted in MUTANTS.items():
        if wanted.only in name:
            found = caught(planted.plant, wanted.sequences, wanted.seed, {} if wanted.random else CELLS)
            missed += not found
            sys.stdout.write(f"{'caught' if found else 'MISSED'}  {name}\n        {found}\n")
            sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
