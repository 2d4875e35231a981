"""Test failover: a double comes up from the replica and goes again, and nothing has changed by it."""

from __future__ import annotations

import signal
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, replica_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def by_ssh(patient: Mudanza) -> Mudanza:
    return patient


@pytest.fixture
def protected(lab: Lab, by_ssh: Mudanza) -> Iterator[Guest]:
    spec = GuestSpec("tried", memory=128 * MIB, beat=0.05, disk=64 * MIB, disk_write_rate=MIB, guest_agent=True)
    guest = create_guest(lab, spec)
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    yield guest
    by_ssh("test-failover", "end", guest.uuid, expect=None)
    by_ssh("unprotect", guest.uuid)
    guest.remove()


def state(by_ssh: Mudanza, guest: Guest) -> dict[str, Any]:
    [found] = [row for row in by_ssh("protections", "-o", "json").data if row["uuid"] == guest.uuid]
    return dict(found)


def doubles(lab: Lab) -> list[str]:
    return [name for name in virsh(lab.cell("h2"), "list", "--all", "--name").split() if "tried-test" in name]


def test_a_double_runs_from_the_point_and_nothing_has_changed_by_it(
    lab: Lab, by_ssh: Mudanza, protected: Guest
) -> None:
    up = by_ssh("test-failover", protected.uuid, "-o", "json").data
    assert (up["up"], up["double"], up["point"]) == (True, "tried-test-1", 1)
    assert "ethernet" in virsh(lab.cell("h2"), "domiflist", up["double_uuid"])
    assert "52:54:00:6d" not in virsh(lab.cell("h2"), "dumpxml", up["double_uuid"])
    assert by_ssh("test-failover", protected.uuid, expect=3).err
    assert "stands on the replica" in by_ssh("unprotect", protected.uuid, expect=3).err
    for _ in range(2):
        by_ssh("protection", "sync", protected.uuid)
    assert (state(by_ssh, protected)["points"], state(by_ssh, protected)["test"]) == ([1, 2, 3], "tried-test-1")
    own = f"{replica_of(lab, protected.uuid)}/test/vda.qcow2"
    point = read_ring(lab.cell("h2"), f"{replica_of(lab, protected.uuid)}/vda.1.whole.qcow2", "qcow2")
    await_true(lambda: read_ring(lab.cell("h2"), own, "qcow2").last > point.last, "the double goes on from there", 120)

    ended = by_ssh("test-failover", "end", protected.uuid, "-o", "json").data
    assert (ended["up"], ended["different"]) == (False, [])
    looked_at = {each["what"] for each in ended["compared"]}
    assert looked_at == {"production", "protection", "point 1", "image vda.1.whole.qcow2"}
    assert doubles(lab) == []
    assert "test" not in lab.cell("h2").run(["ls", replica_of(lab, protected.uuid)]).stdout.split()
    protected.await_answer()
    by_ssh("protection", "verify", protected.uuid)
    assert state(by_ssh, protected)["points"] == [3, 4]

    told = by_ssh("test-failover", protected.uuid, "--until-agent", "120s", "-o", "json").data
    assert told["answered"] > told["started"]
    assert (told["up"], told["different"], doubles(lab)) == (False, [], [])


@pytest.mark.soak
def test_what_a_killed_controller_leaves_is_found_and_removed_and_a_change_is_told(
    lab: Lab, by_ssh: Mudanza, protected: Guest
) -> None:
    running = by_ssh.start("test-failover", protected.uuid, "--digests", "--for", "10m")
    await_true(lambda: state(by_ssh, protected)["test"] != "" and doubles(lab) != [], "the double is there", 120)
    running.send(signal.SIGKILL)
    running.abandon()
    assert state(by_ssh, protected)["test"] == "tried-test-1"
    image = f"{replica_of(lab, protected.uuid)}/vda.1.whole.qcow2"
    kept = lab.cell("h2").run(["stat", "-c", "%y", image]).stdout.strip()
    size = int(lab.cell("h2").run(["stat", "-c", "%s", image]).stdout)
    change = f"printf changed. | dd of={image} bs=1 seek={size - 8} conv=notrunc status=none"
    lab.cell("h2").run(["sh", "-c", change])
    lab.cell("h2").run(["touch", "-d", kept, image])  # so that only what it holds is another
    told = await_end(by_ssh, protected)
    assert "image vda.1.whole.qcow2" in told
    assert doubles(lab) == []
    assert state(by_ssh, protected)["test"] == ""


def await_end(by_ssh: Mudanza, guest: Guest) -> str:
    """End the test as soon as its controller's lease is over; return what is told."""
    told: list[str] = []

    def ended() -> bool:
        result = by_ssh("test-failover", "end", guest.uuid, expect=None)
        told.append(result.err)
        return result.code == 5

    await_true(ended, "the test is taken down", 120)
    return told[-1]


ISOLATED = "<network><name>dr-test</name><bridge name='virbr-test'/></network>"


@pytest.mark.soak
def test_doubles_see_each_other_on_an_isolated_network_and_nobody_else(
    lab: Lab, by_ssh: Mudanza, protected: Guest
) -> None:
    cell = lab.cell("h2")
    other = create_guest(lab, GuestSpec("tried-too", memory=128 * MIB, beat=0.05, disk=64 * MIB))
    virsh(cell, "net-define", "/dev/stdin", stdin=ISOLATED)
    virsh(cell, "net-start", "dr-test")
    try:
        by_ssh("protect", other.uuid, "--to", "h2", "--keep", "2")
        doubles_up = [
            by_ssh("test-failover", vm.uuid, "--map-network", "lan=dr-test", "-o", "json").data["double_uuid"]
            for vm in (protected, other)
        ]
        cards = "".join(virsh(cell, "domiflist", double) + "\n" for double in doubles_up).splitlines()
        taps = {line.split()[0] for line in cards if "dr-test" in line}
        assert taps <= ports(lab, "virbr-test"), "both hang on it"
        assert len(taps) == 2
        assert not any(taps & ports(lab, bridge) for bridge in bridges(lab) - {"virbr-test"})
        uplinks = {tap for tap in ports(lab, "virbr-test") if not tap.startswith("vnet")}
        assert uplinks == set(), "and nothing leads out of it"
        for vm in (protected, other):
            vm.await_answer()
            ended = by_ssh("test-failover", "end", vm.uuid, "-o", "json").data
            assert (ended["up"], ended["different"]) == (False, [])
        assert ports(lab, "virbr-test") == set()
    finally:
        by_ssh("test-failover", "end", other.uuid, expect=None)
        by_ssh("unprotect", other.uuid, expect=None)
        other.remove()
        virsh(cell, "net-destroy", "dr-test", check=False)
        virsh(cell, "net-undefine", "dr-test", check=False)


def bridges(lab: Lab) -> set[str]:
    return names(lab.cell("h2").run(["ip", "-br", "link", "show", "type", "bridge"]).stdout)


def ports(lab: Lab, bridge: str) -> set[str]:
    return names(lab.cell("h2").run(["ip", "-br", "link", "show", "master", bridge]).stdout)


def names(told: str) -> set[str]:
    return {line.split()[0].partition("@")[0] for line in told.splitlines()}


def make_due(by_ssh: Mudanza, guest: Guest) -> None:
    """Have it be tried at once, and not after the shortest interval that can be asked for."""
    with closing(sqlite3.connect(tomllib.loads(by_ssh.config.read_text())["database"])) as database, database:
        changed = "UPDATE protection SET test_every = 1 WHERE vm_uuid = ? AND test_every IS NOT NULL"
        assert database.execute(changed, (guest.uuid,)).rowcount == 1


@pytest.mark.soak
def test_whether_it_boots_is_tried_when_that_is_due(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    by_ssh("protect", protected.uuid, "--to", "h3", "--test-every", "1m", "--test-limit", "2m")
    make_due(by_ssh, protected)
    told = by_ssh("protection", "run", "--once").err
    assert "tried at h3: restore point 1 boots: its guest answered after" in told
    rows = {row["host"]: row for row in by_ssh("protections", "-o", "json").data if row["uuid"] == protected.uuid}
    assert rows["h3"]["tested"] in told
    assert (rows["h2"]["tested"], rows["h2"]["tested_at"], rows["h3"]["test"]) == ("", None, "")
    assert "tried-test" not in virsh(lab.cell("h3"), "list", "--all", "--name")
    by_ssh("unprotect", protected.uuid, "--from", "h3")
