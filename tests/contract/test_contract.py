"""The twin and the lab keep one contract: a twin kinder than libvirt proves nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.twin.world import Twin
from mudanza.lab import faults
from mudanza.lab.lab import Lab
from mudanza.model.host import HostEntry
from tests.contract.terms import TERMS, Scene, Term
from tests.lab.conftest import needs_lab
from tests.twin.scene import scene

__all__ = ["needs_lab"]

terms = pytest.mark.parametrize("term", TERMS, ids=[each.__name__ for each in TERMS])


class TwinWorld:
    """Simulated hosts."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        self.entries = tuple(twin.entries())

    def kill_qemu(self, host: str, name: str) -> None:
        found = self._twin.hosts[host]
        found.qemu_died(next(each for each in found.domains.values() if each.name == name))

    def kill_libvirtd(self, host: str) -> None:
        self._twin.hosts[host].stop_libvirtd()

    def start_libvirtd(self, host: str) -> None:
        self._twin.hosts[host].start_libvirtd()


class LabWorld:
    """Real hosts."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.entries = tuple(
            HostEntry(name, lab.uri(name), peer_uri=lab.peer_uri(name), migration_address=name) for name in ("h1", "h2")
        )

    def kill_qemu(self, host: str, name: str) -> None:
        faults.kill_qemu(self._lab, host, name)

    def kill_libvirtd(self, host: str) -> None:
        faults.kill_daemon(self._lab, host)

    def start_libvirtd(self, host: str) -> None:
        faults.start_daemon(self._lab, host)


@terms
@pytest.mark.parametrize("seed", range(3))
def test_on_the_twin(tmp_path: Path, term: Term, seed: int) -> None:
    with scene(Random(seed).randrange, tmp_path) as the:
        world = TwinWorld(the.twin)

        def hold() -> None:
            with Connections(world.entries) as connections:
                term(Scene(world, connections))

        the.do(hold)


@pytest.fixture(scope="module")
def real(needs_lab: None) -> Iterator[Scene]:
    lab = Lab.up(f"c{os.getpid()}", hosts=2, tied=True)
    try:
        world = LabWorld(lab)
        with Connections(world.entries) as connections:
            yield Scene(world, connections)
    finally:
        lab.down()


@terms
@pytest.mark.lab
def test_on_real_hosts(real: Scene, term: Term) -> None:
    term(real)
