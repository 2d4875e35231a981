"""What the doctor says of availability: what would show only when a host dies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mudanza.availability.health import State, of_availability
from mudanza.availability.stale import StaleCopy
from mudanza.hypervisor.xml.activation import with_epoch
from mudanza.model.disk_locks import DiskLocks, LockManager
from mudanza.model.fencing import Device, DeviceTest, Match
from mudanza.model.finding import Level
from mudanza.model.kept import KeptUp
from mudanza.model.machine import Verdict
from mudanza.model.protection import Protection, Readdressed, RestorePoint, Standing
from mudanza.model.vm import Vm, VmState
from tests import factories as make

HOSTS = [make.host("h1"), make.host("h2")]
BMC = Device("bmc", "fence_ipmilan")
KEPT = {"u-db": KeptUp("u-db", "db", 5, 3, False, "ana", 0.0, "h1")}
TESTED = DeviceTest("h1", "bmc", 0.0, 60.0, "")
MATCHED = Match("h1", "bmc", 0.0, Verdict.SAME, "UUID x")


def vm(host: str = "h1", *, runs: bool = True, **changes: Any) -> Vm:
    usual = {"name": "db", "uuid": "u-db", "host": host, "state": VmState.RUNNING if runs else VmState.SHUTOFF}
    return make.vm(**{**usual, "autostart": False, **changes})


def protection(**changes: Any) -> Protection:
    point = RestorePoint(1, 940.0, {}, "<domain/>")
    usual = Protection(
        1, "u-db", "db", "h2", "/r", 60.0, 5, 1 << 30, Standing.ON, 0, False, "", 1, "ana", 0.0, None, "", {}, 1000.0,
        (point,),
    )  # fmt: skip
    return replace(usual, **changes)


WELL = State(make.cluster(HOSTS, [vm()]), KEPT, [protection()], {"h1": [BMC]}, [TESTED], [MATCHED], test_every=3600.0)


def codes(**changes: Any) -> list[str]:
    return [each.code for each in of_availability(replace(WELL, **changes))]


def test_nothing_is_said_where_all_is_well() -> None:
    assert codes() == []
    assert of_availability(State(make.cluster(HOSTS), {}, [])) == ()


def with_vms(*vms: Vm) -> Any:
    return make.cluster(HOSTS, vms)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cluster": with_vms(vm(), vm("h2"))}, "runs-twice"),
        ({"cluster": with_vms(vm(), vm("h2", runs=False))}, "known-twice"),
        ({"cluster": with_vms(vm(runs=False), vm("h2", runs=False))}, "known-twice"),
        ({"protections": [protection(read_at=1061.0)]}, "replica-late"),
        ({"protections": [protection(standing=Standing.FAILED_OVER)]}, "no-replica"),
        ({"protections": [protection(), protection(id=2, target="h3", standing=Standing.LEFT)]}, "replica-left"),
        ({"protections": [protection(paused_by="ana")]}, "replica-paused"),
        ({"protections": [protection(target="h1")]}, "replica-beside"),
        (
            {"protections": [protection(readdressed=Readdressed("h2", ("52:54:00:00:00:01",), 60.0, owed_at="h1"))]},
            "addresses-of-elsewhere",
        ),
        ({"cluster": with_vms(vm(autostart=True))}, "autostart-armed"),
        ({"devices": {}}, "no-fence"),
        ({"matches": []}, "fence-unmatched"),
        ({"matches": [replace(MATCHED, verdict=Verdict.UNKNOWN)]}, "fence-unmatched"),
        ({"matches": [replace(MATCHED, verdict=Verdict.OTHER)]}, "fence-other-machine"),
        ({"tests": []}, "fence-untested"),
        ({"tests": [replace(TESTED, ago=7201.0)]}, "fence-untested"),
        ({"tests": [replace(TESTED, fault="does not answer")]}, "fence-silent"),
        (
            {
                "locks": {"h1": DiskLocks(LockManager.NONE), "h2": DiskLocks(LockManager.NONE)},
                "shared_pools": ("images",),
            },
            "no-second-lock",
        ),
        ({"shortages": ["if h1 failed, there is no room for db"]}, "reserve-lost"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], code: str) -> None:
    assert codes(**changes) == [code]
    for each in of_availability(replace(WELL, **changes)):
        assert each.remedy
        assert (each.level is Level.BLOCKER) is (code == "runs-twice")


def test_who_has_another_replica_needs_none() -> None:
    gone = protection(id=2, target="h3", standing=Standing.FAILED_OVER)
    assert codes(protections=[protection(), gone]) == []


def test_what_is_in_order_is_not_told() -> None:
    assert codes(matches=[replace(MATCHED, verdict=Verdict.UNKNOWN, asked_by="ana")]) == [], "somebody's word"
    assert codes(cluster=with_vms(vm(), vm("h2")), moving=frozenset({"u-db"})) == [], "it is on its way"
    assert codes(cluster=with_vms(vm(), vm("h2", claims=(make.CLAIM,)))) == [], "another controller has it"
    assert codes(tests=[replace(TESTED, ago=7201.0)], test_every=0.0) == [], "once a day is enough there"


def test_a_stale_copy_is_told_of_once_with_what_takes_it_away() -> None:
    old = vm("h2", runs=False)
    [found] = of_availability(replace(WELL, cluster=with_vms(vm(), old), stale=[StaleCopy(old, "h1", "")]))
    assert (found.code, "mudanza ha clean h2" in found.remedy) == ("stale-copy", True)


@pytest.mark.parametrize("runs", [True, False])
def test_a_copy_that_was_left_by_failover_is_known_by_its_epoch(runs: bool) -> None:
    left, at_h2 = vm(runs=False, epoch=0), vm("h2", runs=runs, epoch=1)
    turned = protection(epoch=1, target="h1")
    [found] = of_availability(replace(WELL, cluster=with_vms(left, at_h2), protections=[turned]))
    assert (found.code, "h1 has the copy" in found.message) == ("known-twice", True)
    assert "undefine" not in found.remedy, "its disks are what the way back begins with"


def test_autostart_that_was_switched_off_for_nothing_is_told() -> None:
    xml = with_epoch("<domain/>", 0, autostart=True)
    found = of_availability(State(with_vms(vm(xml=xml)), {}, []))
    assert [each.code for each in found] == ["autostart-disarmed"]
