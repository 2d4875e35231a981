"""Closing a job: what fails is looked at again, and a volume that may still be needed is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.migration.closing import Closing
from mudanza.migration.live.settler import Settler
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.migration.residue import Residue, deleted_by, may_use, standing_places, why_keep
from mudanza.migration.settle import Settlement, Verdict
from mudanza.model.errors import HostUnreachableError, HypervisorError, NeedsPersonError
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import Backing, Vm, VmState
from tests import factories

PATH = "/images/db.qcow2"
DISK = CopiedDisk("vda", PATH, "default", "db.qcow2", "default", "db.qcow2", PATH, 1024, True, False)
RECORD = MoveRecord("u-1", "db", "h1", "h2", False, True, False, False, True, "<domain/>", "<domain/>", (DISK,))

RUNNING = Sighting(Side.PRESENT, VmState.RUNNING, "booted", persistent=True)
INCOMING = Sighting(Side.PRESENT, VmState.PAUSED, "migrating")
ABSENT = Sighting(Side.ABSENT)
OFF = Sighting(Side.PRESENT, VmState.SHUTOFF, "migrated", persistent=True)


class Host:
    """A host that answers by a script, for moments no real host can be held in."""

    def __init__(self, *sightings: Sighting, destroy: Callable[[], None] = lambda: None) -> None:
        self._sightings = list(sightings)
        self._destroy = destroy

    def sighting(self, _uuid: str, *, timeout: float) -> Sighting:
        assert timeout > 0
        return self._sightings.pop(0) if len(self._sightings) > 1 else self._sightings[0]

    def destroy(self, _uuid: str) -> None:
        self._destroy()


class Hosts:
    """Connections to such hosts; a name that is missing cannot be reached."""

    def __init__(self, **hosts: Host) -> None:
        self._hosts = hosts

    def domains(self, name: str) -> Host:
        if name not in self._hosts:
            raise HostUnreachableError(name, "connection refused")
        return self._hosts[name]

    def volumes(self, name: str) -> None:
        raise HostUnreachableError(name, "connection refused")


@pytest.fixture
def handle(tmp_path: Path) -> JobHandle:
    return Jobs(open_database(str(tmp_path / "m.db"))).begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana"))


def closing(tmp_path: Path, handle: JobHandle, **hosts: Host) -> Closing:
    inventory = Inventory(open_database(str(tmp_path / "m.db")))
    return Closing(cast(Connections, Hosts(**hosts)), inventory, handle, RECORD)


def settler(tmp_path: Path, handle: JobHandle, **hosts: Host) -> Settler:
    jobs = Jobs(open_database(str(tmp_path / "m.db")))
    return Settler(cast(Connections, Hosts(**hosts)), jobs, handle, RECORD, closing(tmp_path, handle).define_at_target)


def no_domain() -> None:
    raise HypervisorError("h2", "Domain not found", code=42)


class Letting(Host):
    """A host that does what it is told with a definition."""

    def set_autostart(self, _uuid: str, on: bool) -> None:
        assert not on

    def undefine(self, _uuid: str, *, with_snapshots: bool) -> None:
        self._sightings = [ABSENT]


@pytest.mark.parametrize(("kept", "there"), [(True, OFF), (True, ABSENT), (False, OFF)])
def test_a_definition_that_stays_at_the_source_is_told_of(
    tmp_path: Path, handle: JobHandle, kept: bool, there: Sighting
) -> None:
    record = replace(RECORD, keep_source=kept, disks=())
    hosts = cast(Connections, Hosts(h1=Letting(there), h2=Host(RUNNING)))
    ours = Closing(hosts, Inventory(open_database(str(tmp_path / "m.db"))), handle, record)
    told = ours.finish_at_target(Settlement(Verdict.MOVED, "")).warnings
    if kept and there is OFF:
        assert told == ("h1 keeps its definition too, with autostart off: do not start it there while h2 has it",)
    else:
        assert told == ()


def test_a_copy_that_ends_by_itself_just_before_we_end_it_is_no_failure(tmp_path: Path, handle: JobHandle) -> None:
    ours = settler(tmp_path, handle, h1=Host(RUNNING), h2=Host(INCOMING, ABSENT, destroy=no_domain))
    assert ours.settle(10.0, lambda: None).verdict is Verdict.STAYED
    step = Jobs(open_database(str(tmp_path / "m.db"))).get(handle.id).steps_named("settle")[0]
    assert step.outcome == {"error": "host h2: Domain not found"}


def test_what_fails_again_and_again_ends_with_a_person(tmp_path: Path, handle: JobHandle) -> None:
    ours = settler(tmp_path, handle, h1=Host(RUNNING), h2=Host(INCOMING, destroy=no_domain))
    with pytest.raises(NeedsPersonError, match="incoming copy"):
        ours.settle(0.5, lambda: None)


def test_a_host_without_a_connection_is_one_that_cannot_be_asked(tmp_path: Path, handle: JobHandle) -> None:
    source, target = settler(tmp_path, handle, h1=Host(RUNNING)).look()
    assert (source, target.side) == (RUNNING, Side.UNSEEN)
    assert "connection refused" in target.reason


OTHER = factories.vm(uuid=factories.OTHER_UUID, name="other")
OWN_FILE = DISK
SHARED_FILE = replace(DISK, seen_by_both=True)


def using(path: str = PATH, **changes: object) -> Vm:
    return replace(OTHER, disks=(factories.disk(source=path),), **changes)  # type: ignore[arg-type]  # by field


@pytest.mark.parametrize(
    ("disk", "vms", "reason"),
    [
        (OWN_FILE, [], ""),
        (OWN_FILE, [using("/images/else.qcow2")], ""),
        (replace(OWN_FILE, removable=False), [], "read-only, shared or no volume"),
        (OWN_FILE, [using()], "'other' on h1 refers to it"),
        (OWN_FILE, [replace(OTHER, disks=(factories.disk(backing=(Backing(PATH, "qcow2"),)),))], "refers to it"),
        # The same path elsewhere is another file, unless several hosts see that file.
        (OWN_FILE, [using(host="h2")], ""),
        (OWN_FILE, [using(host="h2", uuid="u-1")], ""),
        (SHARED_FILE, [using(host="h3")], "'other' on h3 refers to it"),
        (SHARED_FILE, [using(host="h2", uuid="u-1")], "on h2 refers to it"),
        # What a VM uses is not known as long as it could not be read.
        (OWN_FILE, [replace(OTHER, disks=(), error="hangs")], "could not be found out"),
        (OWN_FILE, [replace(OTHER, disks=(), error="hangs", host="h3")], ""),
    ],
)
def test_a_volume_is_deleted_only_when_nothing_can_refer_to_it(disk: CopiedDisk, vms: list[Vm], reason: str) -> None:
    found = why_keep(disk, "h1", factories.cluster([factories.host(name) for name in ("h1", "h2", "h3")], vms))
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("disk", "unseen", "kept"),
    [(OWN_FILE, "h1", True), (OWN_FILE, "h3", False), (SHARED_FILE, "h3", True)],
)
def test_a_host_that_is_not_seen_may_use_what_it_can_see(disk: CopiedDisk, unseen: str, kept: bool) -> None:
    hosts = [factories.host(name, error="down" if name == unseen else None) for name in ("h1", "h2", "h3")]
    assert bool(why_keep(disk, "h1", factories.cluster(hosts))) == kept


@pytest.mark.parametrize(
    ("disks", "asked"),
    [([OWN_FILE], ["h1"]), ([SHARED_FILE], ["h1", "h2", "h3"]), ([OWN_FILE, SHARED_FILE], ["h1", "h2", "h3"])],
)
@pytest.mark.parametrize("unseen", ["h1", "h2", "h3", None])
@pytest.mark.parametrize("user", ["h1", "h2", "h3"])
def test_only_hosts_that_may_use_a_file_are_asked(
    disks: list[CopiedDisk], asked: list[str], unseen: str | None, user: str
) -> None:
    hosts = [factories.host(name, error="down" if name == unseen else None) for name in ("h1", "h2", "h3")]
    vms = [] if user == unseen else [using(host=user)]
    assert [entry.name for entry in may_use(disks, "h1", [host.entry for host in hosts])] == asked
    those = [host for host in hosts if host.name in asked]
    all_told, told = factories.cluster(hosts, vms), factories.cluster(those, [vm for vm in vms if vm.host in asked])
    assert [why_keep(disk, "h1", told) for disk in disks] == [why_keep(disk, "h1", all_told) for disk in disks]


def place(path: str, pool: str = "default") -> dict[str, str]:
    return {"pool": pool, "volume": path.rpartition("/")[2], "path": path}


def test_what_a_job_has_made_and_not_deleted_since(tmp_path: Path, handle: JobHandle) -> None:
    made, theirs = place("/images/a"), place("/elsewhere/a", pool="")
    for each in (made, theirs):
        handle.done(handle.intend("create volume", each), {"made": each["path"]})
    handle.done(handle.intend("create volume", place("/images/refused")), {"error": "it exists"})
    handle.intend("create volume", place("/images/unknown"))
    jobs = Jobs(open_database(str(tmp_path / "m.db")))

    def standing() -> list[str]:
        return [str(step.intent["path"]) for step in standing_places(jobs.get(handle.id))]

    assert standing() == ["/images/a", "/elsewhere/a", "/images/unknown"]
    handle.done(handle.intend("delete volume", {"host": "h2", **theirs}), {"done": True})
    assert standing() == ["/images/a", "/images/unknown"], "of two of one name the one that was deleted"
    handle.done(handle.intend("delete volume", {"host": "h1", "pool": "default", "volume": "a"}), {"done": True})
    assert standing() == ["/images/a", "/images/unknown"], "that was the source's"
    handle.done(handle.intend("delete volume", {"host": "h2", "pool": "default", "volume": "a"}), {"done": True})
    assert standing() == ["/images/unknown"]
    handle.done(handle.intend("create volume", made), {"made": made["path"]})
    assert standing() == ["/images/unknown", "/images/a"], "it was made again"


def test_what_comes_to_be_where_a_volume_was_deleted_is_another_ones(tmp_path: Path, handle: JobHandle) -> None:
    gone = {"host": "h1", "pool": "default", "volume": "db.qcow2"}
    handle.done(handle.intend("delete volume", gone), {"error": "busy"})
    jobs = Jobs(open_database(str(tmp_path / "m.db")))
    assert deleted_by(jobs.get(handle.id)) == frozenset()
    handle.done(handle.intend("delete volume", gone), {"done": True})
    assert deleted_by(jobs.get(handle.id)) == {("h1", "default", "db.qcow2")}
    inventory = Inventory(open_database(str(tmp_path / "m.db")))
    again = Closing(cast(Connections, Hosts()), inventory, handle, RECORD, deleted_by(jobs.get(handle.id)))
    assert again.remove_source_disks() == Residue()
    assert closing(tmp_path, handle).remove_source_disks().kept == (f"h1:{PATH}",), "nobody has deleted that one"
