"""Several replicas of one VM: chains of their own beside each other, and coming up from any of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.lab import faults, fence_agent
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import REPLICAS, await_true, know_by_ssh, replica_of
from tests.lab.test_protection import IMAGES
from tests.lab.test_serve import serving
from tests.lab.tiny import volume

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SIZE, FILLED = 64 * MIB, 32 * MIB
"""Of the guest's disk, and what it writes there before anything is done with it; then its heartbeat alone goes on, with
less than 2 MiB a minute. So a round that brings more than ``LITTLE`` has brought all of it, however long that took."""
LITTLE = SIZE // 4
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def by_ssh(patient: Mudanza) -> Mudanza:
    return patient


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    # The journal of all these tests goes on knowing those of before, and a plan knows VMs by their names.
    spec = GuestSpec(f"twofold{next(NUMBERS)}", memory=128 * MIB, beat=0.05, disk=SIZE)
    made = create_guest(lab, spec)
    write(made, FILLED)
    yield made
    made.remove()
    virsh(lab.cell("h1"), "vol-delete", "--pool", "default", spec.volume, check=False)


def write(guest: Guest, amount: int) -> None:
    """Have a guest write to its disk, behind what it has written there before; it has stopped then."""
    end = guest.stats()["disk_written"] + amount
    guest.command(f"disk {64 * MIB}")
    await_true(lambda: guest.stats()["disk_written"] >= end, "it has written that", limit=180)
    guest.command("quiet")


def states(by_ssh: Mudanza, guest: Guest) -> dict[str, dict[str, Any]]:
    """What is told of each replica, by its host."""
    return {row["host"]: row for row in by_ssh("protections", "-o", "json").data if row["uuid"] == guest.uuid}


def images(lab: Lab, guest: Guest, host: str) -> list[str]:
    return lab.cell(host).run(["ls", replica_of(lab, guest.uuid, host)]).stdout.split()


def whole(lab: Lab, guest: Guest, host: str) -> list[str]:
    """The images at a host that are of a whole disk."""
    return [image for image in images(lab, guest, host) if "whole" in image]


def test_either_of_two_replicas_is_what_it_comes_up_from(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    by_ssh("protect", guest.uuid, "--to", "h3", "--every", "15m", "--keep", "20")
    for _ in range(2):
        write(guest, MIB)
        by_ssh("protection", "sync", guest.uuid, "--on", "h2")
    assert [states(by_ssh, guest)[host]["points"] for host in ("h2", "h3")] == [[2, 3], [1]]
    checkpoints = virsh(lab.cell("h1"), "checkpoint-list", guest.uuid, "--name").split()
    assert sorted(name.rpartition("-")[2] for name in checkpoints) == ["1", "3"], "each chain has one of its own"
    told = by_ssh("protection", "verify", guest.uuid).err
    assert f"{guest.name} at h2: restore point 4" in told
    assert f"{guest.name} at h3: restore point 2" in told
    assert whole(lab, guest, "h3") == ["vda.1.whole.qcow2"], "what has changed since its own point was brought"
    assert "h2 and h3" in by_ssh("unprotect", guest.uuid, expect=2).err

    before = read_ring(lab.cell("h1"), f"{IMAGES}/{guest.name}.qcow2", "qcow2")
    by_ssh("protection", "sync", guest.uuid, "--on", "h3")
    faults.kill_host(lab, "h1")
    try:
        assert "runs on h3 from restore point 3" in by_ssh("failover", guest.uuid, "--source-is-dead").err
        guest.await_answer()
        point = read_ring(lab.cell("h3"), f"{replica_of(lab, guest.uuid, 'h3')}/vda.3.qcow2", "qcow2")
    finally:
        faults.boot_host(lab, "h1")
    assert point.whole, "no record is torn or missing"
    assert point.last >= before.last
    first, last = guest.verify()
    assert first <= point.last < last, "it goes on from there"
    assert {host: row["state"] for host, row in states(by_ssh, guest).items()} == {"h2": "stale", "h3": "failed over"}
    assert "of before the VM came up elsewhere" in by_ssh("failover", guest.uuid, "--source-is-dead", expect=3).err
    await_true(lambda: guest.states() == {"h1": "shut off", "h3": "running"}, "its old host is back", limit=120)

    by_ssh("protection", "verify", guest.uuid)
    row = states(by_ssh, guest)["h2"]
    assert (row["state"], row["epoch"], row["point_epoch"]) == ("on", 1, 1)
    assert row["carried_bytes"] < LITTLE, "only what differs came over"
    assert whole(lab, guest, "h2") == ["vda.1.whole.qcow2"]


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_it_hands_over_from_one_to_the_other_and_goes_home(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    by_ssh("protect", guest.uuid, "--to", "h2", "--to", "h3", "--keep", "2")
    by_ssh("failover", guest.uuid, "--planned", "--from", "h2")
    by_ssh("protection", "sync", guest.uuid)
    by_ssh("failover", guest.uuid, "--planned")
    guest.await_answer()
    there = read_ring(lab.cell("h2"), virsh(lab.cell("h2"), "domblklist", guest.uuid).split()[-1], "qcow2")
    first, last = guest.verify()
    assert there.whole
    assert first <= there.last < last, "every record that was written when it went over"
    assert guest.states() == {"h1": "shut off", "h2": "shut off", "h3": "running"}
    assert {host: row["state"] for host, row in states(by_ssh, guest).items()} == {"h2": "left", "h3": "failed over"}
    assert "old copies on h1 and h2" in by_ssh("reprotect", guest.uuid, expect=3).err

    by_ssh("reprotect", guest.uuid, "--to", "h2")
    by_ssh("reprotect", guest.uuid, "--to", "h1")
    assert {host: row["state"] for host, row in states(by_ssh, guest).items()} == {"h1": "on", "h2": "on"}
    by_ssh("protection", "verify", guest.uuid)
    assert "which one is meant" in by_ssh("failback", guest.uuid, expect=2).err
    by_ssh("failback", guest.uuid, "--to", "h1")
    assert guest.states() == {"h1": "running", "h3": "shut off"}
    assert states(by_ssh, guest)["h2"]["state"] == "stale"
    by_ssh("protection", "verify", guest.uuid)
    by_ssh("reprotect", guest.uuid)
    by_ssh("protection", "verify", guest.uuid)
    assert {host: row["state"] for host, row in states(by_ssh, guest).items()} == {"h2": "on", "h3": "on"}
    for host in ("h2", "h3"):
        by_ssh("unprotect", guest.uuid, "--from", host)
    assert states(by_ssh, guest) == {}


@pytest.mark.soak
def test_it_moves_onto_the_host_of_one_of_its_replicas_and_back(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    by_ssh("protect", guest.uuid, "--to", "h2", "--to", "h3")
    by_ssh("migrate", guest.uuid, "--to", "h2")
    beside = by_ssh("protection", "verify", guest.uuid, expect=3).err
    assert "is on h2, where its replica is" in beside
    rows = states(by_ssh, guest)
    assert (rows["h2"]["points"], rows["h3"]["points"]) == ([1], [1, 2]), "the other one goes on"
    assert "no rounds are made of that" in rows["h2"]["said"]
    by_ssh("migrate", guest.uuid, "--to", "h1")
    by_ssh("protection", "verify", guest.uuid)
    assert [whole(lab, guest, host) for host in ("h2", "h3")] == [["vda.1.whole.qcow2"]] * 2, "both chains went on"
    for host in ("h2", "h3"):
        by_ssh("unprotect", guest.uuid, "--from", host)
    assert not virsh(lab.cell("h1"), "checkpoint-list", guest.uuid, "--name").split()


@pytest.mark.soak
def test_disks_that_come_grow_and_go(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    """What they are like at each restore point is what a failover would have."""
    here = lab.cell("h1")
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    with volume(lab, "second.qcow2", size=16 * MIB) as second:
        how = ("--subdriver", "qcow2", "--targetbus", "virtio", "--live", "--config")
        virsh(here, "attach-disk", guest.uuid, second, "vdb", *how)
        by_ssh("protection", "verify", guest.uuid)
        assert images(lab, guest, "h2") == ["vda.1.whole.qcow2", "vda.2.qcow2", "vdb.2.whole.qcow2"]
        assert "disk vdb is new" in states(by_ssh, guest)["h2"]["said"]
        assert states(by_ssh, guest)["h2"]["carried_bytes"] < LITTLE, "the chain of the other one goes on"

        virsh(here, "blockresize", guest.uuid, "vdb", "32MiB")
        by_ssh("protection", "verify", guest.uuid)
        assert "vdb had 16 MiB and has 32 MiB" in states(by_ssh, guest)["h2"]["said"]
        directory = replica_of(lab, guest.uuid)
        info = lab.cell("h2").run(["qemu-img", "info", f"{directory}/vdb.3.whole.qcow2"]).stdout
        assert "virtual size: 32 MiB" in info

        virsh(here, "detach-disk", guest.uuid, "vdb", "--live", "--config")
        await_true(lambda: "vdb" not in virsh(here, "domblklist", guest.uuid), "it is gone")
        by_ssh("protection", "verify", guest.uuid)
        assert "vdb is none of the VM's any more" in states(by_ssh, guest)["h2"]["said"]
        by_ssh("protection", "verify", guest.uuid)
        assert not [image for image in images(lab, guest, "h2") if image.startswith("vdb")], "it went with its points"
    assert whole(lab, guest, "h2") == ["vda.1.whole.qcow2"]
    by_ssh("failover", guest.uuid, "--planned")
    guest.await_answer()
    guest.verify()


@pytest.mark.soak
def test_two_disks_that_change_places_are_compared(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    """What tells of changes has the same name in both of their images."""
    here = lab.cell("h1")
    live = ("--live", "--config")
    with volume(lab, "one.qcow2", size=8 * MIB) as one, volume(lab, "other.qcow2", size=8 * MIB) as other:
        for image, byte in ((one, 0x51), (other, 0x52)):
            here.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {byte} 0 4M", image])
            target = "vdb" if image == one else "vdc"
            virsh(here, "attach-disk", guest.uuid, image, target, "--subdriver", "qcow2", *live)
        by_ssh("protect", guest.uuid, "--to", "h2")
        for target in ("vdb", "vdc"):
            virsh(here, "detach-disk", guest.uuid, target, *live)
        await_true(lambda: "vd" not in virsh(here, "domblklist", guest.uuid).replace("vda", ""), "they are gone")
        for image, target in ((one, "vdc"), (other, "vdb")):
            virsh(here, "attach-disk", guest.uuid, image, target, "--subdriver", "qcow2", *live)
        by_ssh("protection", "verify", guest.uuid)
        assert f"disk vdb was {one}, and is {other}" in states(by_ssh, guest)["h2"]["said"]
        by_ssh("unprotect", guest.uuid)
        for target in ("vdb", "vdc"):
            virsh(here, "detach-disk", guest.uuid, target, *live)


@contextmanager
def lost(lab: Lab, *hosts: str) -> Iterator[None]:
    """Have hosts be dead for as long as the block runs, if nobody has them come back sooner."""
    for host in hosts:
        faults.kill_host(lab, host)
    try:
        yield
    finally:
        for host in hosts:
            if not lab.cell(host).alive:
                faults.boot_host(lab, host)


@pytest.mark.soak
def test_a_plan_takes_the_better_one_or_the_one_that_it_names(
    lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    """With the other one's host lost as well, the one that is left; and back at home the plan's own host counts."""
    group = f'[[group]]\nname = "all"\nvms = ["{guest.name}"]\n'
    for name, more in (("any", ""), ("third", f'[vm.{guest.name}]\nhost = "h3"\n')):
        plan = tmp_path / f"{name}.toml"
        plan.write_text(group + more)
        by_ssh("recovery", "import", str(plan))
    by_ssh("protect", guest.uuid, "--to", "h3", "--to", "h2", "--keep", "2")
    with lost(lab, "h1", "h2"):
        told = by_ssh("failover", "plan", "any", "--source-is-dead").err
        assert "runs on h3 from restore point 1" in told, "h2 has the newer one, and does not answer"
        guest.await_answer()
    guest.verify()
    await_true(lambda: guest.states() == {"h1": "shut off", "h3": "running"}, "its old host is back", limit=120)
    by_ssh("reprotect", guest.uuid, "--to", "h1")
    by_ssh("protection", "sync", guest.uuid, "--on", "h2")
    by_ssh("failover", guest.uuid, "--planned", "--from", "h1")
    by_ssh("reprotect", guest.uuid, "--to", "h3")
    by_ssh("protection", "sync", guest.uuid, "--on", "h2")
    with lost(lab, "h1"):
        told = by_ssh("failover", "plan", "third", "--source-is-dead").err
        assert "runs on h3" in told, "h2 has the newer one, and the plan wants that at h3"
        guest.await_answer()
    assert {host: row["state"] for host, row in states(by_ssh, guest).items()} == {"h2": "stale", "h3": "failed over"}
    guest.verify()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_it_comes_up_by_itself_from_one_of_two_and_later_from_the_other(lab: Lab, guest: Guest, tmp_path: Path) -> None:
    """Where the freshest one's host is lost as well; and then again, though its first host has kept an old copy."""
    mudanza = know_by_ssh(lab, tmp_path)
    with mudanza.config.open("a") as config:
        config.write(f'[limits]\nconnect = 60\nread = 120\n[fencing]\nagents = ["{fence_agent.install(lab)}"]\n')
    for host in lab.hosts:
        options = ("--option", f"lab={lab.name}", "--option", f"plug={host}")
        mudanza("fence", "set", host, "power", "--agent", fence_agent.NAME, *options, "--unmatched")
    try:
        mudanza("protect", guest.uuid, "--to", "h2", "--to", "h3", "--keep", "2")
        mudanza("ha", "enable", guest.uuid, "--from-replica")
        mudanza("ha", "run", "--once")
        with lost(lab, "h1", "h3"):
            mudanza("fence", "off", "h1", "--yes")
            refused = mudanza("ha", "run", "--once").err
            assert "h3 could not be asked" in refused, "it may be there"
            assert "mudanza fence off h3" in refused
            assert guest.states() == {}
            mudanza("fence", "off", "h3", "--yes")
            assert "runs on h2 from restore point 1 of its replica" in mudanza("ha", "run", "--once").err
            guest.await_answer()
        await_true(lambda: guest.states() == {"h1": "shut off", "h2": "running"}, "both hosts are back", limit=120)
        mudanza("ha", "run", "--once")
        mudanza("protection", "sync", guest.uuid, "--on", "h3")
        with lost(lab, "h2"):
            mudanza("fence", "off", "h2", "--yes")
            told = mudanza("ha", "run", "--once").err
            assert "runs on h3 from restore point 2 of its replica" in told, told
            guest.await_answer()
            assert guest.states() == {"h1": "shut off", "h3": "running"}
        guest.verify()
    finally:
        for host in lab.hosts:
            lab.cell(host).run(["rm", "-rf", "--", REPLICAS])


@pytest.mark.soak
def test_the_daemon_shows_both_and_does_with_either_what_is_asked(
    lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    """By its API and at its pages: rounds, pauses, comparisons, doubles and restore points, each of the one meant."""
    by_ssh("protect", guest.uuid, "--to", "h2", "--to", "h3", "--every", "1d")
    vm, site = f"/vms/{guest.uuid}", f"http://local/protection/{guest.uuid}"
    with serving(by_ssh, tmp_path / "mudanza.sock") as (_, client):
        await_true(lambda: client.get(vm).status_code == 200, "the VM is seen")

        def points() -> dict[str, list[int]]:
            rows = [each["protection"] for each in client.get("/protections").raise_for_status().json()]
            return {
                row["target"]: [point["number"] for point in row["points"]]
                for row in rows
                if row["vm_uuid"] == guest.uuid
            }

        def asked(path: str, **order: Any) -> list[str]:
            answer = client.post(f"{vm}/{path}", json=order)
            return list(answer.raise_for_status().json()["said"])

        assert points() == {"h2": [1], "h3": [1]}
        [said] = asked("protection/rounds", on="h3")
        assert "at h3: restore point 2" in said
        assert points() == {"h2": [1], "h3": [1, 2]}
        both = asked("protection/rounds", verify=True)
        assert [line.partition(":")[0] for line in both] == [f"{guest.name} at h2", f"{guest.name} at h3"]
        assert all("byte for byte" in line for line in both)
        assert client.post(f"{vm}/protection/rounds", json={"on": "h9"}).status_code == 404

        client.put(f"{vm}/protection/pause", json={"paused": True, "on": "h2"}).raise_for_status()
        assert [states(by_ssh, guest)[host]["state"] for host in ("h2", "h3")] == ["paused", "on"]
        shown = client.get("http://local/protection").raise_for_status().text
        assert all(f"/protection/{guest.uuid}?on={host}" in shown for host in ("h2", "h3"))
        client.put(f"{vm}/protection/pause", json={"paused": False}).raise_for_status()

        ours = {"Origin": "http://local"}
        page = client.post(f"{site}/sync?on=h2", headers=ours)
        assert (page.status_code, page.headers["location"]) == (303, f"/protection/{guest.uuid}?on=h2&said=sync")
        await_true(lambda: points() == {"h2": [1, 2, 3], "h3": [1, 2, 3]}, "the page's round of the one at h2", 120)
        seen = client.get(f"{site}?on=h3").raise_for_status().text
        assert "h1 → h3" in seen
        assert "h1 → h2" not in seen

        wanted = {"on": "h3", "point": 2}
        order = client.post(f"{vm}/test-failover", json=wanted).raise_for_status()
        done = followed(client, order.headers["location"])
        assert (done["result"]["host"], done["result"]["point"]) == ("h3", 2)
        assert [states(by_ssh, guest)[host]["test"] for host in ("h2", "h3")] == ["", f"{guest.name}-test-2"]
        order = client.post(f"{vm}/test-failover/end", json={"on": "h3"}).raise_for_status()
        ended = followed(client, order.headers["location"])["result"]
        assert all(each["before"] == each["after"] for each in ended["compared"]), ended
    for host in ("h2", "h3"):
        by_ssh("unprotect", guest.uuid, "--from", host)


def followed(client: httpx.Client, place: str) -> dict[str, Any]:
    """Return an order once it is carried out."""
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        found.append(client.get(f"http://local{place}").raise_for_status().json())
        return bool(found[-1]["state"] == "ended")

    await_true(ended, "the order is carried out", limit=180)
    return found[-1]
