"""The controller dies in the middle of a move and its journal is lost with it: a new one finds out, and finishes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab import cold, domains
from tests.lab.checking import another_controller, claimed
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.test_claims import doomed
from tests.lab.test_cold_faults import NAME, carriers, files, victim
from tests.lab.test_migrate import MakeGuest, assert_untouched, make_guest, slow, volumes

__all__ = ["make_guest"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture
def lost(mudanza: Mudanza, tmp_path: Path) -> Mudanza:
    """A controller whose journal nobody will have any more."""
    (tmp_path / "lost").mkdir()
    return another_controller(mudanza, tmp_path / "lost", {})


@pytest.fixture
def new(mudanza: Mudanza, tmp_path: Path) -> Mudanza:
    """One with an empty journal, that knows the hosts."""
    (tmp_path / "new").mkdir()
    return another_controller(mudanza, tmp_path / "new", {})


def orphans(of: Mudanza) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = of("rebuild", "-o", "json", expect=None).data["orphans"]
    return found


def adopted(by: Mudanza, vm: str) -> str:
    """Adopt the one job that is left of a VM, and return its number."""
    (one,) = (each for each in orphans(by) if vm in each["what"])
    assert (one["kind"], one["adoptable"]) == ("job", True)
    by("rebuild", "--adopt", one["name"], expect=2)  # nobody can be asked
    by("rebuild", "--adopt", one["name"], "--yes", expect=None)
    (job,) = (job for job in by("jobs", "--state", "adopted", "-o", "json").data if job["vm_uuid"] == one["uuid"])
    return str(job["id"])


@pytest.mark.soak
def test_a_live_move_that_went_on_without_its_controller(
    lab: Lab, lost: Mudanza, new: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("bereft")
    with slow(lab, "h1", 2 * MIB):
        running = lost.start("migrate", "bereft", "--to", "h2", "-o", "json")
        running.until("copying memory")
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        (one,) = (each for each in orphans(new) if "bereft" in each["what"])
        refused = new("rebuild", "--adopt", one["name"], "--yes", expect=5)
        assert "seems to live: libvirt works on it" in refused.err
    await_true(lambda: guest.states() == {"h2": "running"}, "libvirt has carried it over")
    assert "bereft.qcow2" in volumes(lab, "h1")
    job = adopted(new, "bereft")
    new("job", "resume", job)
    assert guest.states() == {"h2": "running"}
    assert "bereft.qcow2" not in volumes(lab, "h1")
    assert not claimed(lab, "h2", "bereft")
    guest.verify()
    assert not [each for each in orphans(new) if "bereft" in each["what"]]


@pytest.mark.soak
@pytest.mark.parametrize(("when", "step"), [("before", "create volume"), ("after", "create volume")])
def test_a_live_move_that_had_not_begun(
    lab: Lab, lost: Mudanza, new: Mudanza, make_guest: MakeGuest, when: str, step: str
) -> None:
    guest = make_guest("unbegun")
    doomed(lost, when, step, "migrate", "unbegun", "--to", "h2", how="KILL").end(-signal.SIGKILL)
    assert "unbegun.qcow2" in volumes(lab, "h2")
    (one,) = (each for each in orphans(new) if "unbegun" in each["what"])
    new("rebuild", "--remove", one["name"], "--yes", expect=None)
    assert_untouched(lab, guest)
    assert not claimed(lab, "h1", "unbegun")


@pytest.mark.soak
def test_a_cold_move_that_was_being_carried(lab: Lab, lost: Mudanza, new: Mudanza) -> None:
    with victim(lab, lost) as vm:
        with slow(lab, "h1", 8 * MIB):
            running = vm.begin()
            running.send(signal.SIGKILL)
            running.end(-signal.SIGKILL)
            assert carriers(lab, "h1")
            job = adopted(new, NAME)
            new("job", "resume", job, expect=4)
        vm.is_at_source()
        assert files(lab, "h2") == set()
        assert carriers(lab, "h1") == carriers(lab, "h2") == []
        assert not claimed(lab, "h1", vm.uuid)
        new("migrate", vm.uuid, "--to", "h2")
        vm.has_moved()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("define", marks=pytest.mark.soak),
        pytest.param("release source", marks=pytest.mark.soak),
        "start",
    ],
)
def test_a_cold_move_of_a_running_vm_that_was_being_handed_over(
    lab: Lab, lost: Mudanza, new: Mudanza, step: str
) -> None:
    with victim(lab, lost, mib=4, running=True) as vm:
        off = ("--mode", "cold", "--shutdown-limit", "1s", "--force-off")
        doomed(lost, "after", step, "migrate", NAME, "--to", "h2", *off, how="KILL").end(-signal.SIGKILL)
        job = adopted(new, NAME)
        new("job", "resume", job, expect=4 if step == "define" else 0)
        if step == "define":
            assert vm.states == {"h1": "running"}
            assert files(lab, "h2") == set()
        else:
            assert vm.states == {"h2": "running"}
            assert not files(lab, "h1")
        (place,) = vm.states
        assert not claimed(lab, place, vm.uuid)
        assert not [each for each in orphans(new) if NAME in each["what"]]


@pytest.mark.soak
def test_disks_on_their_way_within_a_host(lab: Lab, lost: Mudanza, new: Mudanza) -> None:
    path = f"{cold.IMAGES}/inner.qcow2"
    cold.image(lab, path, "64M", "write -q -P 0x71 0 4M")
    with cold.off(lab, "inner", domains.disk(path, "vda"), start=True) as uuid:
        where = ("--to", "h1", "--map-storage", "default=fast")
        doomed(lost, "after", "copy", "migrate", uuid, *where, how="KILL").end(-signal.SIGKILL)
        job = adopted(new, "inner")
        new("job", "resume", job)
        assert f"{cold.FAST}/inner.qcow2" in virsh(lab.cell("h1"), "domblklist", uuid)
        assert not cold.exists(lab, "h1", path)
        assert not claimed(lab, "h1", uuid)


def test_throw_away_things_whose_owner_is_gone(lab: Lab, new: Mudanza) -> None:
    cell = lab.cell("h3")
    name = f"mudanza-marker-{1:08x}-{2:08x}-3-{4:016x}"
    virsh(cell, "vol-create-as", "default", name, "1024")
    (one,) = (each for each in orphans(new) if each["name"] == name)
    assert (one["kind"], one["removable"]) == ("tool", True)
    assert name in volumes(lab, "h3")
    new("rebuild", "--remove", name, "--yes", expect=None)
    assert name not in volumes(lab, "h3")
