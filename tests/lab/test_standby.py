"""The main site is gone, its controller included: another one carries its journal on, and the old one comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.hypervisor.shell import HostShell
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.protections import Protections
from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.host import HostFiles
from mudanza.lab.lab import Lab
from mudanza.model.errors import HypervisorError
from mudanza.model.units import MIB
from mudanza.protection.replica import Replica
from tests.lab.command import Mudanza
from tests.lab.conftest import REPLICAS, await_true, know_by_ssh

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

COPIES = "/var/lib/mudanza/standby/copies"
SLOW = "[limits]\nconnect = 60\nread = 120\n"


@pytest.fixture(scope="module")
def main(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    """The controller of the main site."""
    mudanza = know_by_ssh(lab, tmp_path_factory.mktemp("main"))
    with mudanza.config.open("a") as config:
        config.write(SLOW)
    return mudanza


@pytest.fixture(scope="module")
def other(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    """A controller at the other site, with an empty database."""
    seat = tmp_path_factory.mktemp("other")
    config = seat / "config.toml"
    config.write_text(f'database = "{seat}/mudanza.db"\n{SLOW}')
    return Mudanza(lab, config)


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("bereft", memory=128 * MIB, beat=0.05, disk=64 * MIB, disk_write_rate=MIB))
    yield made
    made.remove()
    for host in lab.hosts:
        lab.cell(host).run(["rm", "-rf", "--", REPLICAS, "/var/lib/mudanza"])


def sweep_as(mudanza: Mudanza, guest: Guest) -> None:
    """Delete all images of a replica, as a controller's round would that knows of none of them."""
    [database] = mudanza.config.parent.glob("*.db")
    engine = open_database(str(database))
    protection = Protections(engine).of(guest.uuid)
    with HostShell(Inventory(engine).host(protection.target)) as shell:
        Replica(protection, shell).sweep(())


@pytest.mark.soak
def test_from_a_lost_site_with_its_controller_to_running_vms(
    lab: Lab, main: Mudanza, other: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    plan = tmp_path / "site.toml"
    plan.write_text(f'[[group]]\nname = "all"\nvms = ["{guest.name}"]\n')
    main("protect", guest.uuid, "--to", "h2", "--keep", "2")
    main("recovery", "import", str(plan))
    main("standby", "add", "h2", "--directory", COPIES)
    main("protection", "sync", guest.uuid)
    assert "generation 2 is there" in main("standby", "send", "h2").err
    [place] = main("standby", "show", "-o", "json").data["places"]
    assert (place["state"], place["generation"]) == ("on", 2)

    faults.kill_host(lab, "h1")
    try:
        copies = HostFiles(lab.directory, "h2").root / COPIES.lstrip("/")
        taken = other("standby", "take", str(copies), "--main-is-gone", "-o", "json").data
        assert (taken["generation"], taken["reign"], list(taken["unmarked"])) == (2, 1, ["h1"])
        [up] = other("failover", "plan", "site", "--source-is-dead", "-o", "json").data["vms"]
        assert (up["name"], up["host"]) == (guest.name, "h2")
        guest.await_answer()
    finally:
        faults.boot_host(lab, "h1")
    await_true(lambda: guest.states() == {"h1": "shut off", "h2": "running"}, "its old host is back", 120)

    for words in (
        ("start", guest.uuid),
        ("protection", "sync", guest.uuid),
        ("failover", guest.uuid, "--source-is-dead"),
        ("standby", "send", "h2"),
    ):
        assert "carried on elsewhere" in main(*words, expect=3).err or "taken over" in main(*words, expect=3).err, words
    assert "carried on elsewhere" in main("standby", "show").err
    assert guest.states() == {"h1": "shut off", "h2": "running"}
    with pytest.raises(HypervisorError, match="this controller is replaced"):
        sweep_as(main, guest)  # as one does that looked a moment before it was replaced
    other("standby", "mark")
    first, last = guest.verify()
    assert first < last
    other("reprotect", guest.uuid)
    assert guest.states() == {"h2": "running"}
    other("unprotect", guest.uuid)
