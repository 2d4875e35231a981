"""Failovers that their controller left behind: what has run there is not taken back."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.database import Database, open_database
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.model.errors import HypervisorError, MigrationFailedError, NeedsPersonError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Side, Sighting
from mudanza.model.protection import Standing
from mudanza.model.vm import VmState
from mudanza.protection import failover
from mudanza.protection.failover import Failover
from tests.test_between import abandon
from tests.test_protection import VALUES, point

OFF = Sighting(Side.PRESENT, VmState.SHUTOFF)
IMAGE = "vda.active-1.qcow2"


class There:
    """A replica's host."""

    def __init__(self, seen: Sighting, written: Collection[str] | None) -> None:
        """``written``: images that hold something of their own; None: the host does not tell."""
        self.seen = seen
        self._written = written
        self.undefined = list[str]()

    def sighting(self, _uuid: str) -> Sighting:
        return self.seen

    def undefine(self, uuid: str) -> None:
        self.undefined.append(uuid)

    def written(self, files: Collection[str]) -> frozenset[str]:
        if self._written is None:
            raise HypervisorError("h2", "no such program: qemu-io")
        return frozenset(self._written) & frozenset(files)


@pytest.fixture
def engine(database: str) -> Database:
    return open_database(database)


def left_behind(engine: Database, there: There, monkeypatch: pytest.MonkeyPatch, *, step: str) -> tuple[Failover, int]:
    """A failover whose controller died: once it was written down that the VM is to be there (``activate``), as it was
    to be started (``start``), once it was (``started``), or could not be (``refused``)."""
    jobs, store = Jobs(engine), Protections(engine)
    made = store.make(VALUES)
    store.add_point(made.id, point(1, whole=True), "c")
    asked = {"protection": made.id, "point": 1}
    handle = jobs.begin(NewJob("failover", made.vm_uuid, made.vm_name, "", "h2", asked, "ana"))
    store.change(made.id, standing=Standing.FAILED_OVER, epoch=1)
    handle.note("activate", {"host": "h2"}, {"done": True})
    if step != "activate":
        number = handle.intend("start", {"host": "h2"})
        if step != "start":
            handle.done(number, {"done": True} if step == "started" else {"error": "no connection"})

    class Shell:
        def __init__(self, _entry: HostEntry) -> None:
            pass

        def __enter__(self) -> Shell:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    abandon(engine)
    monkeypatch.setattr(failover, "HostShell", Shell)
    monkeypatch.setattr(failover, "Replica", lambda *_: there)
    entry = HostEntry("h2", "qemu+ssh://root@h2/system")
    connections: Any = SimpleNamespace(domains=lambda _: there, entries=[entry])
    return Failover(cast("Connections", connections), jobs, store), handle.id


@pytest.mark.parametrize(("step", "written"), [("started", []), ("started", None), ("start", [IMAGE])])
def test_one_that_has_run_there_keeps_what_it_wrote_though_it_is_off_by_now(
    engine: Database, monkeypatch: pytest.MonkeyPatch, step: str, written: Collection[str] | None
) -> None:
    there = There(OFF, written)
    left, job = left_behind(engine, there, monkeypatch, step=step)
    told = left.resume(job, clock.new_event()).transport
    assert told == f"came up at h2, and is off there by now: mudanza start {VALUES['vm_uuid']}"
    now = Protections(engine).of(str(VALUES["vm_uuid"]))
    assert (now.standing, now.epoch, there.undefined) == (Standing.FAILED_OVER, 1, [])
    assert Jobs(engine).get(job).exit_code == 0


@pytest.mark.parametrize(
    ("step", "written"), [("activate", None), ("start", []), ("start", ["vda.active-0.qcow2"]), ("refused", [])]
)
def test_one_that_has_not_run_there_is_taken_back(
    engine: Database, monkeypatch: pytest.MonkeyPatch, step: str, written: Collection[str] | None
) -> None:
    there = There(OFF, written)
    left, job = left_behind(engine, there, monkeypatch, step=step)
    with pytest.raises(MigrationFailedError, match="was not started at h2") as taken_back:
        left.resume(job, clock.new_event())
    assert "mudanza start" in taken_back.value.remedy, "it may be off at its own host, too"
    now = Protections(engine).of(str(VALUES["vm_uuid"]))
    assert (now.standing, now.epoch, there.undefined) == (Standing.ON, 0, [VALUES["vm_uuid"]])


def test_where_it_is_not_known_whether_it_has_run_nothing_is_taken_back(
    engine: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = There(OFF, None)
    left, job = left_behind(engine, there, monkeypatch, step="start")
    with pytest.raises(NeedsPersonError, match="whether VM 'db' has run"):
        left.resume(job, clock.new_event())
    assert Protections(engine).of(str(VALUES["vm_uuid"])).standing is Standing.FAILED_OVER
    assert there.undefined == []
    assert Jobs(engine).get(job).ended_at is None
