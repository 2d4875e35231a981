"""Of several VMs in one command the next is checked while another moves, and moves when there is a place for it."""

from __future__ import annotations

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def test_the_next_is_checked_while_another_moves(lab: Lab, mudanza: Mudanza) -> None:
    names = ["first", "second"]
    guests = [create_guest(lab, GuestSpec(name, memory=96 * MIB, disk=0, beat=0.1), on="h1") for name in names]
    try:
        events = mudanza("migrate", *names, "--to", "h2", "--parallel", "1", "-o", "json").events
        seen = [(event["vm"], event.get("phase") or event["event"]) for event in events]
        first = next(vm for vm, what in seen if what == "start")
        (second,) = {*names} - {first}
        waited = seen.index((second, "waiting for its turn"))
        assert waited < seen.index((first, "end")) < seen.index((second, "start"))
        assert (first, "waiting for its turn") not in seen
        assert all(guest.states()["h2"] == "running" for guest in guests)
    finally:
        for guest in guests:
            guest.remove()
