"""The daemon does what is asked of it by HTTP, and another one goes on where it was killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza, Running
from tests.lab.conftest import await_true
from tests.lab.test_migrate import MakeGuest, expire_leases, make_guest, slow
from tests.postgres import Server

__all__ = ["make_guest"]
pytestmark = pytest.mark.lab

ENOUGH = 150.0
"""Seconds that a move may take here."""


@contextmanager
def serving(mudanza: Mudanza, place: Path) -> Iterator[tuple[Running, httpx.Client]]:
    """Have a daemon that answers."""
    running = mudanza.start("serve", "--socket", str(place), "--no-balance")
    try:
        transport = httpx.HTTPTransport(uds=str(place))
        with httpx.Client(transport=transport, base_url="http://local/api/v1", timeout=ENOUGH) as client:
            await_true(lambda: has_seen_hosts(client), "the daemon has seen the hosts", limit=ENOUGH)
            yield running, client
    finally:
        running.abandon()


def has_seen_hosts(client: httpx.Client) -> bool:
    """Whether it answers, and has looked at the hosts; the socket may be one that another one has left."""
    try:
        return client.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def story(client: httpx.Client, job: int, *, until: str) -> list[dict[str, Any]]:
    """Follow a job until it is in that state."""
    told = []
    with client.stream("GET", f"/jobs/{job}/events") as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: ")))
                if told[-1]["state"] == until:
                    return told
    raise AssertionError(f"it never was {until}: {[each['state'] for each in told]}")


def test_a_move_is_asked_for_and_followed(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest, tmp_path: Path) -> None:
    guest = make_guest("served")
    with serving(mudanza, tmp_path / "mudanza.sock") as (running, client):
        await_true(lambda: client.get(f"/vms/{guest.uuid}").status_code == 200, "the VM is seen")
        job = client.post(f"/vms/{guest.uuid}/moves", json={"to": "h2"}).json()
        told = story(client, job["id"], until="done")
        assert {"preparing", "transferring"} <= {each["state"] for each in told[-1]["events"]}
        assert told[-1]["report"]["target"] == "h2"
        await_true(lambda: client.get(f"/vms/{guest.uuid}").json().get("host") == "h2", "it is seen where it is")
        running.send(signal.SIGTERM)
        running.end(0)
    assert guest.states() == {"h2": "running"}


@pytest.mark.soak
def test_a_move_is_typed_cancelled_and_typed_again(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest, place = make_guest("typed", memory=256 * MIB, working_set=96 * MIB), tmp_path / "mudanza.sock"
    through = ("--server", str(place), "migrate", "typed", "--to", "h2", "-o", "json")
    with serving(mudanza, place) as (running, client):
        await_true(lambda: client.get(f"/vms/{guest.uuid}").status_code == 200, "the VM is seen")
        with slow(lab, "h1", 8 * MIB):
            moving = mudanza.start(*through)
            moving.until("copying memory")
            moving.send(signal.SIGINT)
            ended = moving.end(4)
        assert "cancelled on request of" in ended.events[-1]["message"]
        assert "h1" in ended.events[-1]["vm_state"]
        assert guest.states() == {"h1": "running"}
        there = mudanza(*through)
        assert guest.states() == {"h2": "running"}
        running.send(signal.SIGTERM)
        running.end(0)
    back = mudanza("migrate", "typed", "--to", "h1", "-o", "json")
    assert forms(there.events) == forms(back.events)
    guest.await_answer()


def forms(events: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Return what each kind of event tells of."""
    return {event["event"]: set(event) for event in events}


@pytest.mark.soak
def test_what_a_killed_daemon_had_begun_is_brought_to_its_end_by_the_next(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest = make_guest("handed-on", memory=256 * MIB, working_set=96 * MIB)
    place = tmp_path / "mudanza.sock"
    with slow(lab, "h1", 8 * MIB):
        with serving(mudanza, place) as (running, client):
            await_true(lambda: client.get(f"/vms/{guest.uuid}").status_code == 200, "the VM is seen")
            job = client.post(f"/vms/{guest.uuid}/moves", json={"to": "h2"}).json()["id"]
            story(client, job, until="transferring")
            running.send(signal.SIGKILL)
            running.end(-signal.SIGKILL)
        expire_leases(mudanza)
        with serving(mudanza, place) as (running, client):
            assert story(client, job, until="done")[-1]["report"]["target"] == "h2"
            running.send(signal.SIGTERM)
            running.end(0)
    assert guest.states() == {"h2": "running"}
    guest.await_answer()


@pytest.fixture
def shared(lab: Lab, mudanza: Mudanza, postgresql: Server, tmp_path: Path) -> Mudanza:
    """The command, knowing the lab's hosts by a PostgreSQL database that several controllers share."""
    database = postgresql.new_database()
    known = Inventory(open_database(str(lab.directory / "mudanza.db"))).hosts()
    Inventory(open_database(database)).put_hosts(known)
    config = tmp_path / "shared.toml"
    config.write_text(f'database = "{database}"\n')
    return Mudanza(lab, config)


@pytest.mark.soak
def test_another_controller_finishes_the_drain_whose_leader_was_killed(
    lab: Lab, shared: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guests = [make_guest(f"shared{n}", memory=256 * MIB, working_set=64 * MIB) for n in range(3)]
    with (
        serving(shared, tmp_path / "one.sock") as (one, asking_one),
        serving(shared, tmp_path / "two.sock") as (two, asking_two),
    ):
        clients = {one.pid: asking_one, two.pid: asking_two}
        daemons = {one.pid: one, two.pid: two}
        with slow(lab, "h1", 8 * MIB):
            shared("drain", "h1", "--detach", "--cannot-go-live", "refuse", "--out", "1")
            await_true(lambda: state_of_jobs(asking_one) == {"transferring"}, "a VM is on its way", limit=ENOUGH)
            leader = daemon_of(asking_one.get("/plans/1").json()["owner"])
            left = clients[next(pid for pid in clients if pid != leader)]
            daemons[leader].send(signal.SIGKILL)
            daemons[leader].end(-signal.SIGKILL)
        await_true(lambda: left.get("/plans/1").json()["ended_at"] is not None, "it is done", limit=2 * ENOUGH)
        run = left.get("/plans/1").json()
        heir = daemon_of(run["owner"])
        jobs = left.get("/jobs").json()["jobs"]
    assert (run["state"], run["exit_code"]) == ("done", 0), run
    assert heir in daemons.keys() - {leader}
    assert sorted(job["vm_name"] for job in jobs) == ["shared0", "shared1", "shared2"], "each VM is moved once"
    assert {job["state"] for job in jobs} == {"done"}
    for guest in guests:
        (place,) = guest.states()
        assert place != "h1"
        guest.await_answer()


def daemon_of(owner: str) -> int:
    """Return the daemon that the process belongs to which carries something out."""
    process = int(owner.split(":")[1])
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def processes_of(daemon: Running) -> list[int]:
    """Return its process that answers, and the one that works."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text()
    return [int(process) for process in children.split()]


def test_a_move_whose_process_was_killed_is_finished_by_the_one_in_its_place(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest = make_guest("taken-up", memory=256 * MIB, working_set=96 * MIB)
    place = tmp_path / "mudanza.sock"
    with serving(mudanza, place) as (running, client):
        await_true(lambda: client.get(f"/vms/{guest.uuid}").status_code == 200, "the VM is seen")
        with slow(lab, "h1", 8 * MIB):
            job = client.post(f"/vms/{guest.uuid}/moves", json={"to": "h2"}).json()["id"]
            story(client, job, until="transferring")
            answering, working = processes_of(running)
            os.kill(working, signal.SIGKILL)
            assert client.get(f"/jobs/{job}").json()["state"] == "transferring", "it is answered all the while"
            await_true(lambda: len({working} ^ {*processes_of(running)}) == 3, "another one works")
            assert answering in processes_of(running)
            os.kill(answering, signal.SIGKILL)
            # Whoever asks now is answered by the next one.
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(place)), timeout=ENOUGH) as anew:
                assert anew.get(f"http://local/api/v1/jobs/{job}").is_success
        expire_leases(mudanza)
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(place)), base_url="http://local/api/v1", timeout=ENOUGH
        ) as anew:
            ended = story(anew, job, until="done")[-1]
        assert ended["report"]["target"] == "h2"
        assert [event["state"] for event in ended["events"]].count("taken over") == 1
        running.send(signal.SIGTERM)
        running.end(0)
    assert guest.states() == {"h2": "running"}
    guest.await_answer()


def state_of_jobs(client: httpx.Client) -> set[str]:
    answer = client.get("/jobs", params={"state": "unfinished"})
    assert answer.is_success, answer.text
    return {job["state"] for job in answer.json()["jobs"]}
