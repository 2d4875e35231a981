"""What is only read of the journal waits for nobody who writes, whatever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from mudanza.journal.audit import Audit
from mudanza.journal.balance import Balances
from mudanza.journal.database import clock_offset, open_database, transaction
from mudanza.journal.fences import Fences
from mudanza.journal.host_power import HostPowers
from mudanza.journal.identity import journal_id
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.kept import KeptUps
from mudanza.journal.load import LoadKeeper
from mudanza.journal.plans import Plans
from mudanza.journal.protections import Protections
from mudanza.journal.recovery_plans import RecoveryPlans
from mudanza.journal.rollings import Rollings
from mudanza.journal.sightings import Sightings
from mudanza.journal.tokens import Tokens

READS: dict[str, Callable[[Engine], object]] = {
    "audit": lambda engine: (Audit(engine).since(60.0), Audit(engine).get(1)),
    "balance": lambda engine: (Balances(engine).rounds(9), Balances(engine).on_duty()),
    "clock": clock_offset,
    "fences": lambda engine: (Fences(engine).tests(), Fences(engine).proofs()),
    "hosts": lambda engine: (Inventory(engine).hosts(), Inventory(engine).rules()),
    "host power": lambda engine: HostPowers(engine).last(),
    "identity": journal_id,
    "jobs": lambda engine: (Jobs(engine).latest(9), Jobs(engine).unfinished(), Jobs(engine).mark(1)),
    "kept up": lambda engine: KeptUps(engine).all(),
    "links": lambda engine: (Inventory(engine).link_between("a", "b"), Inventory(engine).tls_between("a", "b")),
    "loads": lambda engine: (LoadKeeper(engine).loads(60.0), LoadKeeper(engine).names(60.0)),
    "plans": lambda engine: (Plans(engine).latest(9), Plans(engine).unfinished()),
    "protections": lambda engine: (
        Protections(engine).all(),
        Protections(engine).replicas("u"),
        Protections(engine).instant(),
    ),
    "recovery plans": lambda engine: RecoveryPlans(engine).all(),
    "rollings": lambda engine: Rollings(engine).latest(9),
    "sightings": lambda engine: Sightings(engine).last(),
    "tokens": lambda engine: (Tokens(engine).all(), Tokens(engine).whose("mudanza_none")),
}


@pytest.mark.parametrize("what", READS)
def test_it_is_read_while_somebody_writes(database: str, what: str) -> None:
    engine = open_database(database)
    with transaction(engine):
        READS[what](engine)


def test_a_job_has_another_mark_whenever_something_was_written_of_it(database: str) -> None:
    jobs = Jobs(open_database(database))
    assert jobs.mark(1) is None
    handle = jobs.begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana"))
    marks = [jobs.mark(1)]
    for write in (
        lambda: handle.enter("transferring"),
        lambda: handle.intend("define", {}),
        lambda: handle.done(1, {"done": True}),
        lambda: handle.note("seen", {}, {}),
        lambda: jobs.ask_to_cancel(1, "bob"),
        lambda: handle.finish("done", "moved", 0),
    ):
        write()
        marks.append(jobs.mark(1))
    assert len(set(marks)) == 7
    assert jobs.mark(1) == marks[-1]
