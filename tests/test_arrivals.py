"""VMs on their way to a host: what they have yet to take there is not free for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.journal.database import open_database
from mudanza.journal.jobs import Job, Jobs, NewJob
from mudanza.migration.arrivals import Arrivals
from mudanza.model.cluster import Cluster
from mudanza.model.migration import MigrationOptions
from mudanza.model.units import GIB
from mudanza.model.vm import Vm, VmState
from mudanza.preflight.arrivals import Arrival, ArrivingVolume, Reserved, reserved_at
from mudanza.preflight.mapping import resolve
from mudanza.preflight.memory import overhead
from tests import factories as make

NEEDED = GIB + overhead(make.vm())
VOLUME = ArrivingVolume("images", "web.qcow2", f"{make.IMAGES}/web.qcow2", 10 * GIB)
WEB = Arrival(make.UUID, "web", "h2", (VOLUME,))


def at_h2(*vms: Vm, arrival: Arrival = WEB, **target: Any) -> Reserved:
    hosts = (make.host("h1"), make.host("h2", **target))
    return reserved_at(hosts[1], [arrival], Cluster(hosts, vms))


def incoming(**changes: Any) -> Vm:
    return make.vm(**{"host": "h2", "state": VmState.PAUSED, "reason": "migrating", **changes})


def test_one_that_is_not_there_yet_takes_all_it_needs() -> None:
    assert at_h2(make.vm()) == Reserved(("web",), NEEDED, {"images": 2 * GIB})


def test_one_that_goes_elsewhere_takes_nothing() -> None:
    assert at_h2(make.vm(), arrival=Arrival(make.UUID, "web", "h3", (VOLUME,))) == Reserved()


def test_what_has_come_already_is_taken_off() -> None:
    assert at_h2(make.vm(), incoming(memory_used=GIB // 2)).memory == NEEDED - GIB // 2
    assert at_h2(make.vm(), incoming(memory_used=64 * GIB)).memory == 0


def test_without_a_figure_nothing_is_taken_off() -> None:
    assert at_h2(make.vm(), incoming(memory_used=None)).memory == NEEDED


def test_one_that_runs_there_has_what_it_takes() -> None:
    assert at_h2(make.vm(), incoming(state=VmState.RUNNING, reason="migrated")).memory == 0
    assert at_h2(incoming(state=VmState.PAUSED, reason="user")).memory == 0


def test_one_that_runs_there_on_half_its_memory_takes_the_rest() -> None:
    there = incoming(state=VmState.RUNNING, reason="post-copy", memory_used=GIB // 4)
    assert at_h2(make.vm(), there).memory == NEEDED - GIB // 4


def test_of_one_in_huge_pages_only_the_rest_counts() -> None:
    assert at_h2(make.vm(hugepages=(0,))).memory == NEEDED - GIB


def test_one_that_will_stay_off_needs_no_memory() -> None:
    assert at_h2(make.vm(), arrival=Arrival(make.UUID, "web", "h2", (), will_run=False)).memory == 0


def test_of_one_that_nobody_lists_only_the_disks_are_known() -> None:
    assert at_h2() == Reserved(("web",), 0, {"images": 10 * GIB})


def test_in_a_volume_group_a_disk_takes_its_whole_size() -> None:
    assert at_h2(make.vm(), pools=(make.pool(kind="logical"),)).room == {"images": 10 * GIB}


@given(st.integers(0, 4 * GIB))
def test_the_more_has_come_the_less_is_reserved(come: int) -> None:
    reserved = at_h2(make.vm(), incoming(memory_used=come)).memory
    assert 0 <= reserved <= NEEDED
    assert reserved == max(NEEDED - come, 0)


def test_who_is_accepted_is_expected_until_it_is_over(tmp_path: Path) -> None:
    arrivals = Arrivals(Jobs(open_database(str(tmp_path / "m.db"))))
    assert arrivals.expected() == {}
    vm = make.vm()
    hosts = make.host("h1"), make.host("h2")
    arrivals.accept(vm, "h2", resolve(vm, *hosts, MigrationOptions(), make.facts(vm, hosts[1])))
    assert arrivals.expected() == {make.UUID: WEB}
    arrivals.over(make.UUID)
    assert arrivals.expected() == {}


def test_who_has_an_unfinished_job_is_expected_until_it_ends(tmp_path: Path) -> None:
    jobs = Jobs(open_database(str(tmp_path / "m.db")))
    arrivals = Arrivals(jobs)
    handle = jobs.begin(NewJob("live", make.UUID, "web", "h1", "h2", {}, "ana@laptop"))
    assert arrivals.expected() == {make.UUID: Arrival(make.UUID, "web", "h2")}
    disk = {"pool": "images", "volume": "web.qcow2", "source_path": f"{make.IMAGES}/web.qcow2", "size": 10 * GIB}
    handle.intend("decide", {"disks": [disk]})
    assert arrivals.expected() == {make.UUID: WEB}
    handle.finish("done", "moved", 0)
    assert arrivals.expected() == {}


def test_what_was_decided_of_a_job_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(open_database(str(tmp_path / "m.db")))
    read: list[int] = []
    find = Jobs.find

    def reading(self: Jobs, number: int) -> Job | None:
        read.append(number)
        return find(self, number)

    monkeypatch.setattr(Jobs, "find", reading)
    arrivals = Arrivals(jobs)
    first, second = (jobs.begin(NewJob("live", uuid, "vm", "h1", "h2", {}, "ana")) for uuid in ("u-1", "u-2"))
    assert arrivals.expected().keys() == {"u-1", "u-2"}
    assert read == [], "they have not begun"
    first.note("decide", {"was_running": False}, {})
    second.note("look", {}, {})
    for _ in range(3):
        assert {uuid: each.will_run for uuid, each in arrivals.expected().items()} == {"u-1": False, "u-2": True}
    assert read.count(first.id) == 1
    assert read.count(second.id) == 3, "nothing was decided of it yet"


def test_a_cold_move_brings_files_and_memory_only_if_it_is_started_again(tmp_path: Path) -> None:
    jobs = Jobs(open_database(str(tmp_path / "m.db")))
    handle = jobs.begin(NewJob("cold", make.UUID, "web", "h1", "h2", {}, "ana@laptop"))
    files = [
        {"pool": "images", "volume": "web.qcow2", "source": f"{make.IMAGES}/web.qcow2", "size": 10 * GIB},
        {"pool": "", "volume": "web_VARS.fd", "source": "/nvram/web_VARS.fd", "size": 0},
    ]
    handle.intend("decide", {"was_running": False, "files": files})
    assert Arrivals(jobs).expected() == {make.UUID: Arrival(make.UUID, "web", "h2", (VOLUME,), will_run=False)}
