"""A VM's history over a move: nothing is taken away that is not in the journal, and it is told where the VM is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.snapshots import SavedCheckpoint, SavedSnapshot
from mudanza.journal.database import open_database
from mudanza.journal.jobs import Job, JobHandle, Jobs, NewJob
from mudanza.migration.history_keeper import REMEMBER, HistoryKeeper
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.model.errors import HostUnreachableError, HypervisorError, NeedsPersonError
from mudanza.model.migration import Side, Sighting

OLD, NEW = "/old/db.qcow2", "/new/db.qcow2"
DISK = CopiedDisk("vda", OLD, "default", "db.qcow2", "fast", "db.qcow2", NEW, 1024, True, False)
RECORD = MoveRecord("u-1", "db", "h1", "h2", False, True, False, False, True, "<domain/>", "<domain/>", (DISK,))
XML = f"<domainsnapshot><domain><devices><disk><source file='{OLD}'/></disk></devices></domain></domainsnapshot>"
SNAPSHOTS = (SavedSnapshot("first", XML), SavedSnapshot("second", XML, current=True))
CHECKPOINTS = (SavedCheckpoint("monday", XML),)


@dataclass
class Host:
    """A host as libvirt shows it, for the moments at which a controller may die."""

    known: bool = True
    snapshots_there: tuple[SavedSnapshot, ...] = ()
    checkpoints_there: tuple[SavedCheckpoint, ...] = ()
    lost: dict[str, str] = field(default_factory=dict)
    refuses: bool = False
    on_forget: Callable[[], None] = lambda: None

    def sighting(self, _uuid: str) -> Sighting:
        return Sighting(Side.PRESENT if self.known else Side.ABSENT)

    def snapshots(self, _uuid: str) -> tuple[SavedSnapshot, ...]:
        return self.snapshots_there

    def checkpoints(self, _uuid: str) -> tuple[SavedCheckpoint, ...]:
        return self.checkpoints_there

    def forget(self, _uuid: str, names: Sequence[str]) -> None:
        self.on_forget()
        self.snapshots_there = tuple(each for each in self.snapshots_there if each.name not in names)

    def restore(
        self, _uuid: str, snapshots: Sequence[SavedSnapshot], checkpoints: Sequence[SavedCheckpoint]
    ) -> dict[str, str]:
        if self.refuses:
            raise HypervisorError("h2", "no space left on device")
        self.snapshots_there, self.checkpoints_there = tuple(snapshots), tuple(checkpoints)
        return self.lost


class Hosts:
    """Connections to such hosts; a name that is missing cannot be reached."""

    def __init__(self, **hosts: Host) -> None:
        self._hosts = hosts

    def snapshots(self, name: str) -> Host:
        if name not in self._hosts:
            raise HostUnreachableError(name, "connection refused")
        return self._hosts[name]

    domains = snapshots


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(open_database(str(tmp_path / "m.db")))


@pytest.fixture
def handle(jobs: Jobs) -> JobHandle:
    return jobs.begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana"))


@pytest.fixture
def source() -> Host:
    return Host(snapshots_there=SNAPSHOTS, checkpoints_there=CHECKPOINTS)


def keeper(handle: JobHandle, **hosts: Host) -> HistoryKeeper:
    return HistoryKeeper(cast(Connections, Hosts(**hosts)), handle, RECORD)


def test_all_of_it_is_in_the_journal_before_anything_is_taken_away(jobs: Jobs, handle: JobHandle, source: Host) -> None:
    seen: list[Job] = []
    source.on_forget = lambda: seen.append(jobs.get(handle.id))
    keeper(handle, h1=source).set_aside({})
    (written,) = seen[0].steps_named(REMEMBER)
    assert [each["name"] for each in written.intent["snapshots"]] == ["first", "second"]
    assert written.intent["snapshots"][0]["xml"] == XML
    assert source.snapshots_there == ()
    assert source.checkpoints_there == CHECKPOINTS, "these do not stand in the way of a migration"


def test_the_source_gets_it_back_as_it_was(jobs: Jobs, handle: JobHandle, source: Host) -> None:
    def dies() -> None:
        raise HypervisorError("h1", "connection reset")

    source.on_forget = dies
    keeping = keeper(handle, h1=source)
    with pytest.raises(HypervisorError):
        keeping.set_aside({})
    source.snapshots_there = SNAPSHOTS[:1]
    assert keeping.put_back(jobs.get(handle.id), "h1") == ()
    assert [(each.name, each.current) for each in source.snapshots_there] == [("first", False), ("second", True)]
    assert OLD in source.snapshots_there[0].xml


def test_the_target_is_told_of_its_own_files(jobs: Jobs, handle: JobHandle, source: Host) -> None:
    target = Host(lost={"monday": "missing bitmap"})
    keeping = keeper(handle, h1=source, h2=target)
    keeping.set_aside({})
    (remark,) = keeping.put_back(jobs.get(handle.id), "h2")
    assert "monday" in remark
    assert "full" in remark
    told = [each.xml for each in target.snapshots_there] + [each.xml for each in target.checkpoints_there]
    assert [(OLD in xml, NEW in xml) for xml in told] == [(False, True)] * 3


def test_a_host_that_does_not_take_it_needs_a_person_and_may_take_it_later(
    jobs: Jobs, handle: JobHandle, source: Host
) -> None:
    target = Host(refuses=True)
    keeper(handle, h1=source).set_aside({})
    for hosts in ({"h2": target}, {}):
        with pytest.raises(NeedsPersonError, match="snapshots") as refused:
            keeper(handle, **hosts).put_back(jobs.get(handle.id), "h2")
        assert f"mudanza job resume {handle.id}" in refused.value.remedy
    target.refuses = False
    assert keeper(handle, h2=target).put_back(jobs.get(handle.id), "h2") == ()
    assert len(target.snapshots_there) == 2


def test_what_was_remembered_last_counts(jobs: Jobs, handle: JobHandle, source: Host) -> None:
    target = Host()
    keeping = keeper(handle, h1=source, h2=target)
    keeping.remember({})
    source.snapshots_there = source.checkpoints_there = ()
    keeping.remember({})
    assert keeping.put_back(jobs.get(handle.id), "h2") == ()
    assert target.snapshots_there == ()


def test_a_vm_that_is_gone_has_no_history_any_more(jobs: Jobs, handle: JobHandle, source: Host) -> None:
    keeping = keeper(handle, h1=source)
    keeping.set_aside({})
    source.known = False
    (remark,) = keeping.put_back(jobs.get(handle.id), "h1")
    assert "no VM" in remark
    assert source.snapshots_there == ()


def test_without_a_history_nothing_is_done(jobs: Jobs, handle: JobHandle) -> None:
    keeping = keeper(handle, h1=Host(), h2=Host(refuses=True))
    assert keeping.put_back(jobs.get(handle.id), "h2") == ()
    keeping.set_aside({})
    assert keeping.put_back(jobs.get(handle.id), "h2") == ()
    assert [step.name for step in jobs.get(handle.id).steps] == [REMEMBER]
