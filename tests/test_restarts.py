"""VMs from their replicas, by themselves; and what restarts took, until the guest answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from mudanza.availability.answering import Answering
from mudanza.availability.deciding import due, loss_of
from mudanza.hypervisor.connections import Connections
from mudanza.journal.database import open_database, transaction
from mudanza.journal.fences import Fences
from mudanza.journal.job import NewJob
from mudanza.journal.jobs import Jobs
from mudanza.journal.kept import KeptUps
from mudanza.journal.restarts import Restarts
from mudanza.journal.schema import answered, job
from mudanza.model.errors import UsageError
from mudanza.model.fencing import By
from mudanza.model.kept import Care, KeptUp, OnHang
from mudanza.model.probe import parse_probe
from tests import factories as make
from tests.program import Program
from tests.test_keeping_up import CLUSTER, after, kept


def from_replica(who: dict[str, KeptUp], *names: str) -> dict[str, KeptUp]:
    care = Care(from_replica=True)
    return {uuid: replace(each, care=care) if each.name in names else each for uuid, each in who.items()}


def test_a_replica_is_used_only_where_somebody_has_said_so() -> None:
    who = from_replica(kept("db", "web"), "db")
    found = due(who, CLUSTER, ["h1"], {}, ["u-db", "u-web"])
    assert (dict(found.replicas), dict(found.hosts)) == ({"h1": ("u-db",)}, {"h1": ("u-web",)})
    without = due(who, CLUSTER, ["h1"], {})
    assert (dict(without.replicas), dict(without.hosts)) == ({}, {"h1": ("u-db", "u-web")}), "there is none"
    assert due(who, CLUSTER, [], {}, ["u-db"]).replicas == {}, "nothing proves that its host is off"
    runs = replace(CLUSTER, vms=(make.vm(name="db", uuid="u-db", host="h2"),))
    assert due(who, runs, ["h1"], {}, ["u-db"]).replicas == {}


def test_those_from_replicas_come_up_in_their_order_and_others_wait_for_them() -> None:
    who = from_replica(after(kept("a", "b", "c"), a="b", c="a"), "a", "b")
    who["u-b"] = replace(who["u-b"], priority=9)
    found = due(who, CLUSTER, ["h1"], {}, ["u-a", "u-b"])
    assert dict(found.replicas) == {"h1": ("u-b", "u-a")}
    assert found.hosts == {}
    assert found.told == ("c waits for a",)


def test_what_is_lost_is_what_was_done_until_the_host_was_off() -> None:
    assert loss_of(100.0, 160.0) == 60.0
    assert loss_of(100.0, 99.0) == 0.0, "the clock was set"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(str(tmp_path / "m.db"))


def test_how_one_is_kept_up_is_kept(engine: Engine) -> None:
    care = Care(True, 90.0, OnHang.RESTART, 60.0, "tcp:db:5432")
    KeptUps(engine).put("u-1", "db", 5, 3, "ana", autostart=False, care=care)
    assert KeptUps(engine).all()["u-1"].care == care
    assert care.in_words == "from its replica, if no more than 90 s are lost; restarted if it hangs for 60 s; " + (
        "answers by tcp:db:5432"
    )


def test_a_failover_that_was_made_by_itself_counts_as_a_restart(engine: Engine) -> None:
    jobs = Jobs(engine)
    jobs.begin(NewJob("failover", "u-1", "db", "h1", "h3", {}, "ha")).finish("done", "", 0)
    jobs.begin(NewJob("failover", "u-2", "web", "", "h3", {}, "ana")).finish("done", "", 0)
    past = KeptUps(engine).past(["u-1", "u-2"])
    assert (past["u-1"].within_a_day, past["u-2"].within_a_day) == (1, 0)


def restarted(engine: Engine, name: str = "db", probe: str = "agent", *, ago: float = 0.0) -> int:
    """Have a host fenced and a VM started elsewhere."""
    fences = Fences(engine)
    number = fences.begin("h1", By.DEVICES, "ha", 15.0)
    fences.ended(number, "off", proven=True)
    KeptUps(engine).put(f"u-{name}", name, 5, 3, "ana", autostart=False, care=Care(answers=probe))
    handle = Jobs(engine).begin(NewJob("restart", f"u-{name}", name, "h1", "h2", {}, "ha"))
    handle.note("prove", {"host": "h1"}, {"fencing": number})
    handle.finish("done", "", 0)
    with transaction(engine) as connection:
        connection.execute(update(job).where(job.c.id == handle.id).values(ended_at=job.c.ended_at - ago))
    return handle.id


def test_what_a_restart_took_is_told_part_by_part(engine: Engine) -> None:
    number = restarted(engine)
    [each] = Restarts(engine).latest(5)
    assert (each.job, each.silent, each.answering, each.whole) == (number, 15.0, None, None)
    assert each.fencing is not None
    assert each.starting is not None
    Restarts(engine).answered(number, "agent", in_time=True)
    [each] = Restarts(engine).latest(5)
    assert each.whole is not None
    assert each.whole >= 15.0
    assert each.in_words.startswith("silent for 15.0 s, proven off after ")
    Restarts(engine).answered(number, "another controller", in_time=False)
    assert Restarts(engine).latest(5) == (each,), "the first word counts"


def test_one_that_was_restarted_where_it_was_has_no_host_that_was_fenced(engine: Engine) -> None:
    Jobs(engine).begin(NewJob("restart", "u-1", "db", "h1", "h1", {}, "ha")).finish("done", "", 0)
    Jobs(engine).begin(NewJob("restart", "u-1", "db", "h1", "h1", {}, "ha")).finish("failed", "", 4)
    [each] = Restarts(engine).latest(5)
    assert (each.silent, each.fencing, each.starting, each.in_words) == (None, None, None, "")


@pytest.fixture
def door() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def settle(engine: Engine, limit: float = 60.0) -> tuple[list[str], list[tuple[bool, str]]]:
    said: list[str] = []
    answering = Answering(Restarts(engine), limit, said.append)
    with Connections([]) as connections:
        answering.turn(connections)
        if answering.under_way is not None:
            answering.under_way.wait(30.0)
    with transaction(engine) as connection:
        rows = connection.execute(select(answered).order_by(answered.c.job)).all()
    return said, [(row.at is not None, row.said) for row in rows]


def test_a_guest_is_asked_until_it_answers(engine: Engine, door: socket.socket) -> None:
    probe = f"tcp:127.0.0.1:{door.getsockname()[1]}"
    restarted(engine, probe=probe)
    assert settle(engine) == ([f"db on h2 answers ({probe})"], [(True, probe)])
    assert Restarts(engine).awaited(60.0) == ()


def test_one_that_does_not_answer_in_time_is_told_of_once(engine: Engine) -> None:
    restarted(engine, probe="agent", ago=90.0)
    said, rows = settle(engine)
    assert said == ["! db on h2 does not answer: agent did not answer within 1 min 0 s"]
    assert rows == [(False, "agent did not answer within 1 min 0 s")]
    assert settle(engine)[0] == []


def test_one_whose_time_is_not_over_is_asked_again(engine: Engine) -> None:
    restarted(engine, probe="agent")
    assert settle(engine) == ([], [])
    assert len(Restarts(engine).awaited(60.0)) == 1


@pytest.mark.parametrize(
    "text", ["agent", "tcp:10.0.0.5:22", "tcp:[fe80::1]:22", "tcp:db.lan:65535", "ping:10.0.0.5", "ping:fe80::1"]
)
def test_a_probe_is_read(text: str) -> None:
    assert str(parse_probe(text)).replace("[", "").replace("]", "") == text.replace("[", "").replace("]", "")


@pytest.mark.parametrize(
    "text", ["", "tcp:x", "tcp:x:0", "tcp:x:65536", "tcp:-x:1", "ping:-c9", "ping:", "agent:x", "tcp:x:1\n"]
)
def test_what_is_no_probe_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_probe(text)


def test_nothing_was_restarted(mudanza: Program) -> None:
    assert "nothing was restarted" in mudanza("ha", "restarts").stderr + mudanza("ha", "restarts").stdout
    assert mudanza("ha", "restarts", "-o", "json").stdout.strip() == "[]"
