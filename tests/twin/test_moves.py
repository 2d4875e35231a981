"""Undisturbed moves on the twin, by the product's own code."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from mudanza.hypervisor.twin.guests import read_stamp
from mudanza.model.link import MeasuredLink
from mudanza.model.migration import MigrationOptions
from mudanza.model.policy import Policy
from mudanza.model.units import MIB
from tests.twin.scene import COLD, IMAGES, SHARED, scene


@pytest.mark.parametrize("how", [MigrationOptions(), COLD], ids=["live", "cold"])
@pytest.mark.parametrize("shared", [False, True], ids=["local", "shared"])
def test_there_and_back(tmp_path: Path, how: MigrationOptions, shared: bool) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        vm = the.make_vm("web", "h1", shared=shared, disks=2, autostart=True)
        the.twin.scheduler.advance(seconds=5)
        for source, target in (("h1", "h2"), ("h2", "h1")):
            attempt = the.finish(the.migrate(vm, target, how))
            assert attempt.exit_code == 0, attempt.error
            assert the.twin.oracle.runs_on(vm) == [target]
            assert vm not in the.twin.hosts[source].domains
            assert the.twin.hosts[target].domains[vm].autostart
            left = the.twin.hosts[source].own.names_in(IMAGES)
            assert left == []
        assert the.twin.oracle.violations == []
        assert the.twin.oracle.truth(vm).counter > 50


def test_an_old_disk_is_seen(tmp_path: Path) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        vm = the.make_vm("web", "h1", shared=True)
        host = the.twin.hosts["h1"]
        the.twin.scheduler.advance(seconds=5)
        the.do(lambda: the.twin.open("qemu+tls://h1/system").lookupByUUIDString(vm).destroy())
        disk = the.twin.hosts["h1"].file(f"{SHARED}/web-0.qcow2")
        assert disk is not None
        stamp = read_stamp(disk)
        assert stamp == the.twin.oracle.truth(vm).counter > 0
        disk.write(64 * 1024, b"COUNTER\0" + bytes(8), 0.0)
        the.do(lambda: the.twin.open("qemu+tls://h1/system").lookupByUUIDString(vm).create())
        assert "boots from a disk that is" in str(the.twin.oracle.violations[0])
        assert host.domains[vm].is_active


def test_a_second_running_copy_is_seen(tmp_path: Path) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        vm = the.make_vm("web", "h1")
        line = the.do(lambda: the.twin.open("qemu+tls://h1/system"))
        xml = the.do(lambda: line.lookupByUUIDString(vm).XMLDesc(0))
        there = the.twin.hosts["h2"]
        there.own.files[f"{IMAGES}/web-0.qcow2"] = the.twin.hosts["h1"].own.files[f"{IMAGES}/web-0.qcow2"]
        with pytest.raises(Exception, match='Failed to get "write" lock'):
            the.do(lambda: the.twin.open("qemu+tls://h2/system").createXML(xml, 0))
        copy = there.own.files.pop(f"{IMAGES}/web-0.qcow2")
        other = type(copy)(copy.size, 0.0)
        other.copy(copy, 0.0)
        there.own.files[f"{IMAGES}/web-0.qcow2"] = other
        the.do(lambda: the.twin.open("qemu+tls://h2/system").createXML(xml, 0))
        assert f"{vm} runs on h1 and on h2" in str(the.twin.oracle.violations[0])


@pytest.mark.parametrize(
    ("several", "work", "streams", "why"),
    [
        (200.0 * MIB, 0.1, 8, "8 connections carry 200 MiB/s together, one 50 MiB/s"),
        (55.0 * MIB, 0.1, 1, "one connection: 8 connections carry 55 MiB/s together"),
        (200.0 * MIB, 1.9, 1, "one connection: h2 has 0.05 CPUs to spare, and several need 0.30"),
    ],
)
def test_several_connections_are_taken_where_a_measurement_says_so(
    tmp_path: Path, several: float, work: float, streams: int, why: str
) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        vm, neighbour = the.make_vm("web", "h1"), the.make_vm("neighbour", "h2")
        the.twin.works[neighbour] = work
        the.do(lambda: the.inventory.keep_link("h1", "h2", MeasuredLink(50.0 * MIB, several, 8)))
        moved = the.finish(the.migrate(vm, "h2", MigrationOptions(policy=Policy.GENTLE), foreseeing=True))
        assert moved.report is not None, moved.error
        assert moved.report.forecast is not None
        assert moved.report.forecast["streams_why"].startswith(why)
        assert moved.report.streams == streams
        (transfer,) = the.jobs.get(1).steps_named("transfer")
        assert transfer.intent["parameters"].get("parallel.connections", 1) == streams


def test_memory_may_go_by_several_connections(tmp_path: Path) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        vm = the.make_vm("web", "h1")
        assert the.finish(the.migrate(vm, "h2", MigrationOptions(streams=4))).exit_code == 0
        assert the.twin.oracle.runs_on(vm) == ["h2"]
