"""What all lab tests share: one lab for the session, and waiting for a condition instead of for a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from mudanza.cli.lab import tell_mudanza
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.lab import layout, requirements
from mudanza.lab.lab import Lab, Via
from mudanza.model.errors import UsageError
from mudanza.model.host import HostEntry
from tests.lab.checking import Checker, sound_vm
from tests.lab.command import Mudanza

REPLICAS = "/var/lib/libvirt/images/mudanza-replicas"
AWAIT_LIMIT = 30.0
"""Seconds a condition may take to come true."""
_AWAIT_INTERVAL = 0.05


SECONDS = {
    "test_availability.py": 145,
    "test_recovery.py": 130,
    "test_dashboard.py": 110,
    "test_postcopy.py": 110,
    "test_balance.py": 100,
    "test_cold.py": 95,
    "test_restore_points.py": 95,
    "test_migrate.py": 80,
    "test_protection.py": 80,
    "test_uplink.py": 75,
    "test_fleet.py": 70,
    "test_second_lock.py": 70,
    "test_targets.py": 70,
    "test_rolling.py": 70,
    "test_deb.py": 60,
    "test_displays.py": 60,
    "test_cold_disks.py": 60,
    "test_failback.py": 55,
    "test_cold_faults.py": 55,
    "test_check_states.py": 55,
    "test_claims.py": 45,
    "test_lease.py": 40,
    "test_aside.py": 40,
    "test_tutorial.py": 40,
    "test_trial.py": 40,
    "test_rebuild.py": 40,
    "test_snapshots.py": 35,
    "test_squashed.py": 35,
    "test_kinds.py": 35,
    "test_link_cut.py": 35,
    "test_lab_core.py": 35,
    "test_contract.py": 35,
    "test_protection_endures.py": 30,
    "test_serve.py": 30,
    "test_matrix.py": 30,
    "test_formats.py": 25,
    "test_relocate.py": 25,
    "test_probes.py": 20,
}
"""About how long the longest files take where another lab is beside them, on two cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: so several workers end at about the same time."""
    items.sort(key=lambda item: -SECONDS.get(item.path.name, 0))


@pytest.fixture(scope="session")
def needs_lab() -> None:
    """Skip where no lab can be built, saying why."""
    try:
        requirements.check()
    except UsageError as error:
        pytest.skip(f"{error} ({error.remedy})")


@pytest.fixture(scope="session")
def lab(needs_lab: None) -> Iterator[Lab]:
    """Three hosts with TLS. Whoever breaks something in it mends it; it dies with the test run, however that ends."""
    built = Lab.up(f"t{os.getpid()}", hosts=3, tied=True)
    os.environ["XDG_CACHE_HOME"] = str(built.directory / "cache")  # of whatever works from outside of it
    yield built
    built.down()


@pytest.fixture(scope="session")
def mudanza(lab: Lab) -> Mudanza:
    """The command, knowing the lab's hosts."""
    tell_mudanza(lab)
    return Mudanza(lab)


@pytest.fixture(scope="session")
def by_ssh(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    """The command as from the controller's seat, by ssh, where it can log in at the hosts."""
    return know_by_ssh(lab, tmp_path_factory.mktemp("seat"))


@pytest.fixture(scope="module")
def patient(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mudanza]:
    """The same, with a database of the module's own, and time for hosts that share their CPUs with others."""
    mudanza = know_by_ssh(lab, tmp_path_factory.mktemp("patient"))
    with mudanza.config.open("a") as config:
        config.write("[limits]\nconnect = 60\nread = 120\n")
    yield mudanza
    for host in lab.hosts:  # what failovers left belongs to guests that are gone
        lab.cell(host).run(["rm", "-rf", "--", REPLICAS])


def replica_of(lab: Lab, uuid: str, host: str = "h2") -> str:
    """Return the directory of a VM's replica at a host: the journal that keeps it is a part of its name."""
    [found] = lab.cell(host).run(["sh", "-c", f"ls -d {REPLICAS}/{uuid}-*"]).stdout.split()
    return found


def know_by_ssh(lab: Lab, seat: Path) -> Mudanza:
    """Return the command with a database of its own, in that directory, in which hosts are reached by ssh."""
    config, database = seat / "config.toml", str(seat / "mudanza.db")
    config.write_text(f'database = "{database}"\n')
    Inventory(open_database(database)).put_hosts(
        replace(
            ssh_entry(lab, host, seat),
            peer_uri=lab.peer_uri(host),
            migration_address=host if lab.tls else layout.address(host),
        )
        for host in lab.hosts
    )
    return Mudanza(lab, config)


def ssh_entry(lab: Lab, host: str, directory: Path) -> HostEntry:
    """The host as the controller's seat reaches it by ssh, from outside the seat."""
    program = directory / "ssh of the seat"
    enter = f"nsenter --target {lab.cell('controller').pid} --mount --net --uts --pid --"
    program.write_text(f'#!/bin/sh\nexec {enter} setpriv --pdeathsig KILL -- ssh "$@"\n')
    program.chmod(0o755)
    return HostEntry(host, f"{lab.uri(host, Via.SSH)}?command={quote(str(program))}")


@pytest.fixture(scope="session")
def check(lab: Lab, mudanza: Mudanza) -> Checker:
    """Checks moves and holds what is found against what is expected."""
    return Checker(lab, mudanza)


@pytest.fixture(scope="module")
def sound(lab: Lab) -> Iterator[str]:
    """A running VM at h1 that nothing is the matter with."""
    with sound_vm(lab) as name:
        yield name


def await_true(condition: Callable[[], bool], what: str, limit: float = AWAIT_LIMIT) -> None:
    """Wait until a condition holds; fail after ``limit`` seconds, naming it. One that takes long to look is looked at
    for half of the time: what it waits for, and other labs, need the CPU as well."""
    deadline = time.monotonic() + limit
    while True:
        begun = time.monotonic()
        if condition():
            return
        looked = time.monotonic()
        assert looked < deadline, f"still not so after {limit:g} s: {what}"
        time.sleep(max(_AWAIT_INTERVAL, looked - begun))
