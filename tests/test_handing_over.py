"""A planned failover that comes to a stop: what is told of the VM, and that its guest runs again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs
from mudanza.journal.protections import Protections
from mudanza.model.cluster import Cluster
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import Vm, VmState
from mudanza.operations.handing_over import _start_again
from mudanza.operations.means import Means
from mudanza.protection.telling import left_as
from tests.test_protection import UUID, VALUES

DOMAIN = f"<domain type='kvm'><name>db</name><uuid>{UUID}</uuid><os><type>hvm</type></os></domain>"


def vm(state: VmState) -> Vm:
    return replace(parse_vm(DOMAIN, host="h1", state=state), xml=DOMAIN)


@pytest.mark.parametrize(
    ("was", "seen", "said"),
    [
        (VmState.SHUTOFF, Sighting(Side.PRESENT, VmState.SHUTOFF), "it is shut off on h1 as before"),
        (VmState.RUNNING, Sighting(Side.PRESENT, VmState.RUNNING), "it is running on h1 as before"),
        (VmState.SHUTOFF, Sighting(Side.PRESENT, VmState.PAUSED), "it is held on h1, and its guest has not run"),
        (VmState.RUNNING, Sighting(Side.PRESENT, VmState.SHUTOFF), "it is shut off on h1, and was running before"),
        (VmState.SHUTOFF, Sighting(Side.UNSEEN, reason="no answer"), "is not known: no answer"),
    ],
)
def test_what_is_told_of_the_vm_is_what_its_host_says_now(was: VmState, seen: Sighting, said: str) -> None:
    assert said in left_as(vm(was), seen)


class Domains:
    """What is asked of a host."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def resume(self, _uuid: str) -> None:
        self.asked.append("resume")

    def start(self, _uuid: str) -> None:
        self.asked.append("start")


@pytest.mark.parametrize(("state", "asked"), [(VmState.PAUSED, "resume"), (VmState.SHUTOFF, "start")])
def test_a_guest_whose_qemu_is_held_still_goes_on_in_it(database: str, state: VmState, asked: str) -> None:
    engine = open_database(database)
    made = Protections(engine).make(VALUES)
    domains = Domains()
    said: list[str] = []
    means = SimpleNamespace(
        database=engine,
        jobs=Jobs(engine),
        inventory=Inventory(engine),
        read_cluster=lambda _: Cluster((), (vm(state),)),
    )
    connections = cast("Connections", SimpleNamespace(domains=lambda _: domains))
    _start_again(cast("Means", means), connections, made, said.append)
    assert domains.asked == [asked]
    assert len(said) == 1
