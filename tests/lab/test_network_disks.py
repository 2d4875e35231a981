"""Disks that are served over the network, by NBD or iSCSI: the VM moves, live or cold, and nothing of them does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from tests.lab import kinds
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.test_cold_disks import move

pytestmark = pytest.mark.lab

Serve = Callable[[Lab], AbstractContextManager[str]]
SERVED: dict[str, tuple[Serve, str]] = {
    "nbd": (kinds.nbd, f"nbd://10.77.0.4:{kinds.NBD_PORT}/disk"),
    "iscsi": (kinds.iscsi, f"iscsi://10.77.0.4:{kinds.ISCSI_PORT}/{kinds.ISCSI_NAME}/1"),
}


@pytest.fixture(params=["nbd", pytest.param("iscsi", marks=pytest.mark.soak)])
def served(lab: Lab, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The ``<source>`` of a disk that is served, and its URL."""
    serve, url = SERVED[request.param]
    with serve(lab) as source:
        yield source, url


def test_a_guest_moves_live_and_cold_and_its_disk_stays_where_it_is(
    lab: Lab, mudanza: Mudanza, served: tuple[str, str]
) -> None:
    source, url = served
    guest = create_guest(lab, GuestSpec("roamer", disk=0, devices=kinds.network_disk(source, "vda")), on="h1")
    try:
        _, written = guest.verify()
        report = move(mudanza, "roamer")
        assert (report["mode"], report["disk_bytes"], report["removed"], report["kept"]) == ("live", 0, [], [])
        assert guest.states() == {"h2": "running"}
        assert _first_and_later(guest, written)
        assert guest.stats()["boot"] == 1
        report = move(mudanza, "roamer", "--mode", "cold", to="h1")
        assert (report["mode"], report["disk_bytes"], report["removed"], report["kept"]) == ("cold", 0, [], [])
        assert guest.states() == {"h1": "running"}
        guest.await_answer()
        assert _first_and_later(guest, written)
        assert guest.stats()["boot"] == 2
        guest.command("poweroff")
        await_true(lambda: guest.states() == {"h1": "shut off"}, "it is off")
        # Another host finds on it what both guests wrote: what went through them is on the storage.
        ring = read_ring(lab.cell("h3"), url, "raw")
        assert ring.whole
        assert ring.boots == 2
        assert ring.last > written
    finally:
        guest.remove()


def _first_and_later(guest: Guest, written: int) -> bool:
    """Whether all that the guest ever wrote is there, and more of it than at that time."""
    first, last = guest.verify()
    return first == 1 and last > written
