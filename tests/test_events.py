"""Hearing of what becomes of domains, by libvirt's own test driver, and looking again at the hosts that told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import libvirt
import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.events import Listener
from mudanza.model.cluster import Cluster
from mudanza.model.host import HostEntry
from mudanza.model.vm import VmState
from mudanza.service import picture
from mudanza.service.picture import Photographer, Picture
from tests import factories as make
from tests.lab.conftest import await_true

DRIVER = "test:///default"
ENTRIES = (HostEntry("t1", DRIVER), HostEntry("t2", DRIVER))


class Heard:
    """Which hosts told of something."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def has(self, name: str) -> bool:
        return name in self.names


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def listener(heard: Heard) -> Iterator[Listener]:
    made = Listener(heard.names.append)
    yield made
    made.close()


@pytest.fixture
def connections() -> Iterator[Connections]:
    with Connections(ENTRIES) as found:
        yield found


def stop_and_start() -> None:
    """Have the test driver's domain do something."""
    line = libvirt.open(DRIVER)
    domain = line.lookupByName("test")
    domain.destroy()
    domain.create()
    line.close()


def test_a_host_tells_of_its_domains(listener: Listener, heard: Heard, connections: Connections) -> None:
    listener.listen(connections, ["t1", "t2"])
    assert listener.hosts == {"t1", "t2"}
    stop_and_start()
    await_true(lambda: heard.has("t1") and heard.has("t2"), "both tell")


def test_a_host_that_is_none_of_ours_any_more_is_not_listened_to(
    listener: Listener, heard: Heard, connections: Connections
) -> None:
    listener.listen(connections, ["t1", "t2"])
    listener.listen(connections, ["t2"])
    assert listener.hosts == {"t2"}
    stop_and_start()
    await_true(lambda: heard.has("t2"), "it tells")
    assert not heard.has("t1")


def test_a_host_that_cannot_be_reached_is_asked_again(heard: Heard, listener: Listener) -> None:
    with Connections([HostEntry("t1", "test:///nowhere.xml")]) as nowhere:
        listener.listen(nowhere, ["t1"])
    assert listener.hosts == frozenset()
    with Connections(ENTRIES) as found:
        listener.listen(found, ["t1"])
    assert listener.hosts == {"t1"}


def test_a_lost_connection_is_made_anew(
    listener: Listener, heard: Heard, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.listen(connections, ["t1"])
    first, _ = listener._lines["t1"]
    monkeypatch.setattr(first, "isAlive", lambda: 0)
    assert listener.hosts == frozenset()
    listener.listen(connections, ["t1"])
    assert listener.hosts == {"t1"}
    assert listener._lines["t1"][0] is not first


def test_what_comes_too_late_is_hung_up(listener: Listener, connections: Connections) -> None:
    listener.close()
    listener.listen(connections, ["t1"])
    assert listener.hosts == frozenset()


# The picture.


class Ears:
    """Stands in for the listener."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self.heard = heard
        Ears.newest = self
        self.listens_to: list[str] = []

    newest: Ears

    def listen(self, _connections: Connections, hosts: Iterable[str]) -> None:
        self.listens_to = list(hosts)

    def close(self) -> None:
        self.listens_to = []


def test_hosts_are_as_they_were_seen_last() -> None:
    web, mail = make.vm(), make.vm(name="mail", uuid=make.OTHER_UUID, host="h2")
    before = make.cluster([make.host("h1"), make.host("h2")], [web, mail])
    off = replace(web, state=VmState.SHUTOFF)
    after = before.with_hosts(Cluster((make.host("h1", error="gone"),), ()))
    assert [(host.name, host.error) for host in after.hosts] == [("h1", "gone"), ("h2", None)]
    assert after.vms == (mail,)
    again = before.with_hosts(Cluster((make.host("h1"),), (off,)))
    assert {vm.name: vm.state for vm in again.vms} == {"web": VmState.SHUTOFF, "mail": VmState.RUNNING}


def test_a_host_that_tells_of_something_is_looked_at_again_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[list[str]] = []
    web, mail = make.vm(), make.vm(name="mail", uuid=make.OTHER_UUID, host="h2")

    def read(entries: Iterable[HostEntry], **_how: Any) -> Cluster:
        names = [entry.name for entry in entries]
        looks.append(names)
        state = VmState.RUNNING if len(looks) == 1 else VmState.SHUTOFF
        vms = tuple(replace(vm, state=state) for vm in (web, mail) if vm.host in names)
        return Cluster(tuple(make.host(name) for name in names), vms)

    monkeypatch.setattr(picture, "read_cluster", read)
    monkeypatch.setattr(picture, "Listener", Ears)
    monkeypatch.setattr(picture, "LOOK_EVERY", 0.01)
    entries = (HostEntry("h1", DRIVER), HostEntry("h2", DRIVER))
    said: list[str] = []
    taken = Photographer(lambda: entries, connect=5, read=5, say=said.append, remember=lambda _: None)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: taken.run(3600, stop))
    thread.start()

    def shown() -> dict[str, VmState]:
        newest: Picture | None = taken.newest
        return {vm.name: vm.state for vm in newest.cluster.vms} if newest is not None else {}

    try:
        await_true(lambda: "web" in shown() and Ears.newest.listens_to == ["h1", "h2"], "the first picture")
        whole = taken.newest
        Ears.newest.heard("h1")
        await_true(lambda: shown()["web"] is VmState.SHUTOFF, "it is looked at again")
        assert shown()["mail"] is VmState.RUNNING
        assert looks == [["h1", "h2"], ["h1"]]
        assert whole is not None
        assert taken.newest is not None
        assert taken.newest.taken_at == whole.taken_at, "the whole picture is as old as it was"
    finally:
        stop.set()
        thread.join(60)
    assert Ears.newest.listens_to == []
