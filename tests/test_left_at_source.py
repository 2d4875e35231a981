"""What a source could not delete when a VM had moved is deleted later, but only if the VM is where it was brought."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Job, Jobs, NewJob
from mudanza.migration.left_at_source import clean_up_source, undeleted_of
from mudanza.model.migration import Sighting
from tests.test_closing import ABSENT, PATH, RECORD, RUNNING, Host, Hosts

LEFT = (f"h1:{PATH}",)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(open_database(str(tmp_path / "j.db")))


def moved(jobs: Jobs) -> Job:
    handle = jobs.begin(NewJob("live", RECORD.uuid, RECORD.name, "h1", "h2", {}, "somebody"))
    handle.finish("done", "moved from h1 to h2", 0, {"kept": list(LEFT), "undeleted": list(LEFT)})
    return jobs.get(handle.id)


def cleaned(tmp_path: Path, jobs: Jobs, job: Job, target: Sighting) -> tuple[tuple[str, ...], str]:
    hosts = Hosts(h1=Host(ABSENT), h2=Host(target))
    inventory = Inventory(open_database(str(tmp_path / "j.db")))
    found = clean_up_source(cast(Connections, hosts), inventory, jobs, job, RECORD)
    return found.kept, " ".join(found.warnings)


def test_nothing_is_deleted_where_the_target_has_the_vm_no_more(tmp_path: Path, jobs: Jobs) -> None:
    job = moved(jobs)
    kept, why = cleaned(tmp_path, jobs, job, ABSENT)
    assert kept == LEFT
    assert "h2 does not say that it has the VM" in why
    assert undeleted_of(jobs.get(job.id)) == LEFT, "it can be tried again"


def test_nothing_is_deleted_once_another_job_has_moved_it_on(tmp_path: Path, jobs: Jobs) -> None:
    job = moved(jobs)
    moved(jobs)
    kept, why = cleaned(tmp_path, jobs, job, RUNNING)
    assert kept == LEFT
    assert "moved again since" in why


def test_a_job_that_did_not_move_it_has_nothing_of_the_source_to_delete(jobs: Jobs) -> None:
    handle = jobs.begin(NewJob("live", RECORD.uuid, RECORD.name, "h1", "h2", {}, "somebody"))
    handle.finish("failed", "it did not", 4, {"undeleted": list(LEFT)})
    assert undeleted_of(jobs.get(handle.id)) == ()
