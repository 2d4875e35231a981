"""A controller as a process of its own, that works on the queue with a stand-in for hosts: a ledger of what was done.

    python -m tests.queue_worker DATABASE LEDGER [JOBS]

With JOBS it works on one at a time, and stops itself (SIGSTOP) within the next one after so many, between two acts.
Each job takes three acts. Who goes on with one that was left behind looks into the ledger, as it would ask hosts, and
does what is missing. Leases are short here, so that a test can wait for their end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event

from mudanza import clock
from mudanza.journal import handle, jobs
from mudanza.journal.claimed import ClaimedJobs
from mudanza.journal.database import Database, open_database
from mudanza.journal.jobs import Job, JobHandle, Jobs, LeaseLostError, NewJob
from mudanza.migration import worker
from mudanza.model.errors import BlockedError

LEASE, LONGEST_CALL = 3.0, 1.0
ACTS = 3
ACT_TAKES = 0.05
PARALLEL = 3


def with_short_leases() -> None:
    """Have leases of this process end soon."""
    handle.LEASE = jobs.LEASE = LEASE
    handle.MARGIN, handle.LONGEST_CALL = LEASE / 4, LONGEST_CALL
    handle.JobHandle.intend.__defaults__ = (LONGEST_CALL,)
    handle.JobHandle.perform.__defaults__ = (*(handle.JobHandle.perform.__defaults__ or ())[:1], LONGEST_CALL)
    worker.LOOK_EVERY = 0.1


class Controller:
    """Carries jobs out."""

    def __init__(self, engine: Database, ledger: Path, awake_for: int | None) -> None:
        self.jobs = Jobs(engine)
        self._engine = engine
        self._ledger = ledger
        self._awake_for = awake_for
        self._begun = 0

    def carry_out(self, job: Job) -> None:
        """Do a job, or go on with one that was left behind; say where it was lost to another controller."""
        try:
            if job.is_queued:
                if (claimed := self.jobs.claim([job.id])) is None:
                    return
                about = NewJob("live", job.vm_uuid, job.vm_name, job.source, job.target, job.asked, job.asked_by)
                mine = ClaimedJobs(self._engine, self.jobs.owner, claimed, job.vm_uuid).begin(about)
            else:
                mine = self.jobs.take_over(job.id)
            self._work(mine)
        except LeaseLostError as lost:
            print(f"lost {job.id}: {lost}", flush=True)
        except BlockedError:
            return  # another one was quicker

    def _work(self, mine: JobHandle) -> None:
        mine.enter("working")
        self._begun += 1
        done = {line.split()[1] for line in self._ledger.read_text().splitlines() if line.split()[0] == str(mine.id)}
        for number in range(ACTS):
            if str(number) not in done:
                mine.perform("settle", {"act": number}, lambda number=number: self._act(mine, number))  # type: ignore[misc]
            if number == 0 and self._awake_for is not None and self._begun == self._awake_for + 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            clock.sleep(ACT_TAKES)
        mine.finish("done", "moved", 0)

    def _act(self, mine: JobHandle, number: int) -> None:
        with self._ledger.open("a") as ledger:
            ledger.write(f"{mine.id} {number} {mine.epoch} {os.getpid()}\n")


def main() -> None:
    """Work until everything is done."""
    with_short_leases()
    awake_for = int(sys.argv[3]) if len(sys.argv) > 3 else None
    engine = open_database(sys.argv[1])
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _quick(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA synchronous=OFF")  # no power fails here

        engine.dispose()
    controller = Controller(engine, Path(sys.argv[2]), awake_for)
    parallel = PARALLEL if awake_for is None else 1
    while controller.jobs.unfinished():  # what is left behind later is taken up, too
        worker.Worker(controller.jobs, controller.carry_out, parallel, clock.new_event()).run(once=True)
        clock.sleep(ACT_TAKES)


if __name__ == "__main__":
    main()
