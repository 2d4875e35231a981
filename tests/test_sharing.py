"""What the daemon's processes tell each other."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import pytest

from mudanza import clock
from mudanza.model.cluster import Cluster
from mudanza.model.migration import Progress
from mudanza.service.parcels import UNTOLD
from mudanza.service.picture import Picture
from mudanza.service.sharing import Publisher, Subscriber, new_address
from tests import factories as make
from tests.lab.conftest import await_true

FIGURES = Progress("copying memory", 3.0, memory_total=100, memory_remaining=40)


@dataclass
class Told:
    """Somebody who tells, and what somebody else is told of moves."""

    address: str
    listening: socket.socket
    picture: Picture | None = None
    moves: list[tuple[int, str, Progress | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = Publisher(lambda: self.picture)
        self.publisher.start(self.listening)

    def hear(self, number: int, way: str, progress: Progress | None) -> None:
        self.moves.append((number, way, progress))


@pytest.fixture
def told() -> Iterator[Told]:
    address, listening = new_address()
    with closing(listening):
        yield Told(address, listening)


def picture(*names: str, at: float = 100.0) -> Picture:
    hosts = tuple(map(make.host, names))
    return Picture(Cluster(hosts, tuple(make.vm(host=name) for name in names)), at, 1.0, 0.25, clock.monotonic())


def test_who_asks_is_told_the_picture_and_then_what_is_new(told: Told) -> None:
    asking = Subscriber(told.address)
    asking.ask()
    assert (asking.newest, asking.known()) == (None, None), "there is none yet"
    told.picture = picture("h1", "h2")
    asking.ask()
    first = asking.newest
    assert first is not None
    assert [host.name for host in first.cluster.hosts] == ["h1", "h2"]
    assert (first.taken_at, first.took, first.late, first.begun) == (100.0, 1.0, 0.25, told.picture.begun)
    assert {vm.xml for vm in first.cluster.vms} == {UNTOLD}
    asking.ask()
    assert asking.newest is first, "nothing is new"
    told.picture = replace(told.picture, cluster=Cluster(told.picture.cluster.hosts[1:], ()), taken_at=110.0)
    asking.ask()
    assert asking.newest is not None
    assert ([host.name for host in asking.newest.cluster.hosts], asking.newest.taken_at) == (["h2"], 110.0)
    known = asking.known_now()
    assert known is not None
    assert known.cluster is asking.newest.cluster


def test_moves_are_heard_of_as_long_as_they_are_carried_out_and_each_sample_once(told: Told) -> None:
    asking = Subscriber(told.address, told.hear)
    told.publisher.hear(7, "h1 → h2", FIGURES)
    for _ in range(3):
        asking.ask()
    further = replace(FIGURES, memory_remaining=10)
    told.publisher.hear(7, "h1 → h2", further)
    asking.ask()
    told.publisher.hear(7, "", None)
    asking.ask()
    assert told.moves == [(7, "h1 → h2", FIGURES), (7, "h1 → h2", further), (7, "", None)]


def test_of_one_that_is_gone_no_move_is_heard_and_its_picture_grows_old() -> None:
    address, listening = new_address()
    pid = os.fork()
    if pid == 0:  # as a process of the daemon that is killed: its connections go with it
        Told(address, listening, picture("h1")).publisher.hear(7, "h1 → h2", FIGURES)
        clock.sleep(600)
        os._exit(0)
    moves: list[tuple[int, str, Progress | None]] = []
    asking = Subscriber(address, lambda *move: moves.append(move))

    def is_told() -> bool:
        asking.ask()
        return bool(moves)

    await_true(is_told, "it is told")
    known = asking.newest
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    asking.ask()
    assert asking.newest is known
    assert moves == [(7, "h1 → h2", FIGURES), (7, "", None)]
    with closing(listening):
        assert Told(address, listening, picture("h1", "h2", "h3", at=200.0))
        asking.ask()
    assert asking.newest is not None
    assert len(asking.newest.cluster.hosts) == 3, "the next one is asked, and tells the whole"


def test_nobody_is_asked_where_nobody_listens() -> None:
    address, listening = new_address()
    listening.close()
    asking = Subscriber(address)
    asking.ask()
    assert asking.known_now() is None
