"""A journal that was lost: what the hosts tell of its jobs, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mudanza.journal.database import open_database
from mudanza.journal.jobs import Jobs
from mudanza.migration.cold.handover import comparison_of, was_defined
from mudanza.migration.cold.settle import Next, settle_cold
from mudanza.migration.freight.room import places_made
from mudanza.migration.rebuild.adoption import Found, adopted, paths_of
from mudanza.migration.rebuild.orphans import Kind, Orphan, find_orphans, was_compared
from mudanza.migration.record import ColdRecord, CopiedDisk, MoveRecord
from mudanza.migration.relocation.plan import RelocationRecord, standing_of
from mudanza.migration.relocation.settle import At
from mudanza.migration.vm_claim import bare
from mudanza.model.claim import Claim
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.host import Host, HostEntry
from mudanza.model.migration import Side, Sighting, Verify
from mudanza.model.tool import Tool
from mudanza.model.vm import Vm, VmState
from mudanza.preflight.cargo import CargoFile, Role
from tests import factories as make

OWN = "0" * 32
XML = """<domain type='kvm'><name>db</name><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='{}'/><target dev='vda'/></disk></devices></domain>"""
OLD, NEW = "/old/db.qcow2", "/new/db.qcow2"
DISK = CopiedDisk("vda", OLD, "default", "db.qcow2", "fast", "db.qcow2", NEW, 100, True, False)
LIVE = MoveRecord("u-1", "db", "h1", "h2", False, True, False, False, True, XML.format(OLD), XML.format(OLD), (DISK,))
BASE = CargoFile(Role.BACKING, "base", "/old/base", "/new/base", "fast", "base", for_others_too=True, size=7)
FILE = CargoFile(Role.DISK, "vda", OLD, NEW, "fast", "db.qcow2", "default", "db.qcow2", size=100)
COLD = ColdRecord(
    "u-1",
    "db",
    "h1",
    "h2",
    True,
    False,
    False,
    True,
    Verify.FULL,
    "x86_64",
    "q35",
    "kvm",
    XML.format(OLD),
    XML.format(NEW),
    (FILE, BASE),
)
INSIDE = RelocationRecord(replace(LIVE, target="h1"), {"vda": "qcow2"}, {"vda": "qcow2"}, None)

ABSENT, OFF = Sighting(Side.ABSENT), Sighting(Side.PRESENT, VmState.SHUTOFF, "shutdown", persistent=True)
RUNS = Sighting(Side.PRESENT, VmState.RUNNING, "booted", persistent=True)


def claim(kind: str, record: Mapping[str, Any], **changes: Any) -> Claim:
    told = json.dumps(bare(record))
    return replace(make.CLAIM, kind=kind, record=told, **{"made": (NEW,), **changes})


def found(of: Claim, source: Sighting, target: Sighting, **changes: Any) -> Found:
    return replace(Found(of, "u-1", "db", source, target, XML.format(OLD), defined=False), **changes)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(open_database(str(tmp_path / "m.db")))


def test_a_live_job_is_known_again(jobs: Jobs) -> None:
    new, steps = adopted(found(claim("live", LIVE.to_json()), RUNS, ABSENT), "ana@desk")
    job = jobs.get(jobs.adopt(new, steps))
    assert (job.kind, job.source, job.target, job.asked_by, job.abandoned) == ("live", "h1", "h2", "ana@desk", True)
    record = MoveRecord.from_json(job.steps_named("decide")[0].intent)
    assert (record.disks, record.tls, record.persistent) == ((DISK,), True, True)
    assert record.places == LIVE.places
    assert list(places_made(job)) == [NEW]
    with pytest.raises(BlockedError, match="unfinished job"):
        jobs.adopt(new, steps)


def test_what_nobody_said_was_made_is_left_to_be_found_out(jobs: Jobs) -> None:
    new, steps = adopted(found(claim("live", LIVE.to_json(), made=()), RUNS, ABSENT), "ana")
    (step,) = jobs.get(jobs.adopt(new, steps)).steps_named("create volume")
    assert step.outcome is None
    assert step.intent == {"pool": "fast", "volume": "db.qcow2", "path": NEW, "size": 100, "device": False}


@pytest.mark.parametrize(
    ("source", "target", "defined", "verdict"),
    [
        (OFF, ABSENT, False, Next.CARRY),
        (RUNS, ABSENT, False, Next.STAY),
        (OFF, OFF, True, Next.TAKE_BACK),
        (OFF, OFF, False, Next.PERSON),
        (ABSENT, OFF, True, Next.FINISH),
        (ABSENT, RUNS, True, Next.FINISH),
        (OFF, RUNS, True, Next.FINISH),
        (ABSENT, OFF, False, Next.PERSON),
        (RUNS, RUNS, True, Next.PERSON),
    ],
)
def test_a_cold_job_is_as_far_as_the_hosts_prove(
    jobs: Jobs, source: Sighting, target: Sighting, defined: bool, verdict: Next
) -> None:
    new, steps = adopted(found(claim("cold", COLD.to_json()), source, target, defined=defined), "ana")
    job = jobs.get(jobs.adopt(new, steps))
    compared = comparison_of(job) is not None
    assert compared == was_compared(source, target, ours=defined)
    assert was_defined(job) == defined
    assert settle_cold(source, target, compared=compared, defined=was_defined(job)).next is verdict
    record = ColdRecord.from_json(job.steps_named("decide")[0].intent)
    assert record.files == COLD.files
    assert list(places_made(job)) == [NEW], "a base image may have been there before"


def test_that_a_guest_was_shut_down_for_it_is_known(jobs: Jobs) -> None:
    new, steps = adopted(found(claim("cold", COLD.to_json(), done=("shut down",)), OFF, ABSENT), "ana")
    assert "off" in (jobs.get(jobs.adopt(new, steps)).steps_named("shut down")[0].outcome or {})


@pytest.mark.parametrize("now", [OLD, NEW])
def test_disks_that_move_within_a_host_are_known_at_both_places(now: str) -> None:
    moving = claim("relocate", INSIDE.to_json(), target="h1")
    _, steps = adopted(found(moving, RUNS, RUNS, xml=XML.format(now)), "ana")
    record = RelocationRecord.from_json(steps[0][1])
    standing = standing_of(record, XML.format(now), XML.format(now))
    assert standing["vda"].used is (At.OLD if now == OLD else At.NEW)


@pytest.mark.parametrize("record", ["", "no JSON", "{}", '{"disks": 7}', "[]"])
@pytest.mark.parametrize("kind", ["live", "cold", "relocate"])
def test_a_claim_that_says_too_little_is_not_adopted(kind: str, record: str) -> None:
    damaged = replace(make.CLAIM, kind=kind, record=record)
    assert paths_of(damaged) == frozenset()
    with pytest.raises(BlockedError, match="does not say"):
        adopted(found(damaged, RUNS, ABSENT), "ana")


def test_a_job_that_gives_another_cpu_is_finished_by_what_the_definition_says() -> None:
    asked = {"what": "set", "model": "EPYC", "cpu": "<cpu/>"}
    of = replace(claim("cpu", asked, made=()), target="h1")
    new, steps = adopted(found(of, RUNS, RUNS), "ana")
    assert (new.kind, new.source, new.target) == ("cpu", "h1", "h1")
    assert steps[-1] == ("define", {"host": "h1", **asked}, None), "nobody knows whether it was done"
    with pytest.raises(BlockedError, match="does not say"):
        adopted(found(replace(of, record="{}"), RUNS, RUNS), "ana")


def test_the_files_of_a_job_tell_which_carriers_are_its_own() -> None:
    assert paths_of(claim("cold", COLD.to_json())) == {OLD, NEW, "/old/base", "/new/base"}
    assert paths_of(claim("live", LIVE.to_json())) == {OLD, NEW}


def cluster(*vms: Vm, unseen: str = "") -> Cluster:
    hosts = (
        Host(HostEntry(name, f"test:///{name}"), error="no route" if name == unseen else None) for name in ("h1", "h2")
    )
    return Cluster(tuple(hosts), vms)


def orphans(of: Cluster, **changes: Any) -> tuple[Orphan, ...]:
    known: dict[str, Any] = {"ended": (), "unfinished": {}, "tools": (), **changes}
    return find_orphans(of, OWN, known["ended"], known["unfinished"], known["tools"])


FOREIGN = claim("live", LIVE.to_json())


def test_a_sound_cluster_has_none() -> None:
    assert orphans(cluster(make.vm(host="h1"), make.vm(host="h2", uuid="u-2"))) == ()
    own = replace(FOREIGN, journal=OWN, job=4)
    assert orphans(cluster(make.vm(host="h1", claims=(own,))), unfinished={4: make.UUID}) == ()
    twice = cluster(make.vm(host="h1"), make.vm(host="h2", state=VmState.PAUSED, reason="migrating"))
    assert orphans(twice, unfinished={4: make.UUID}) == (), "its job knows"


def test_a_claim_on_both_copies_is_one_orphan_that_knows_what_either_says() -> None:
    here, there = replace(FOREIGN, made=("/a",), beat=7), replace(FOREIGN, made=("/b",), beat=2)
    there_vm = make.vm(host="h2", state=VmState.PAUSED, reason="migrating", claims=(there,))
    (one,) = orphans(cluster(make.vm(host="h1", claims=(here,)), there_vm))
    assert (one.kind, one.where, one.adoptable) == (Kind.JOB, ("h1", "h2"), True)
    assert one.claim is not None
    assert (one.claim.made, one.claim.beat) == (("/a", "/b"), 7)
    assert "stayed" in one.truth


def test_the_truth_about_a_claim_is_what_settling_says() -> None:
    left = make.vm(host="h1", state=VmState.PAUSED, reason="migrating", claims=(FOREIGN,))
    arrived = make.vm(host="h2", reason="migrated", claims=(FOREIGN,))
    (one,) = orphans(cluster(left, arrived))
    assert "moved" in one.truth
    assert "never be resumed" in one.truth
    (unseen,) = orphans(cluster(left, unseen="h2"))
    assert "person" in unseen.truth


def test_a_claim_between_hosts_of_other_names_is_told_and_not_adopted() -> None:
    (one,) = orphans(cluster(make.vm(host="h1", claims=(replace(FOREIGN, target="elsewhere"),))))
    assert not one.adoptable
    assert "'elsewhere'" in one.would


def test_a_claim_that_outlived_its_job_is_only_taken_off() -> None:
    own = replace(FOREIGN, journal=OWN, job=4)
    (one,) = orphans(cluster(make.vm(host="h1", claims=(own,))), ended=[4])
    assert (one.kind, one.adoptable, one.removable) == (Kind.CLAIM, False, True)
    (lost,) = orphans(cluster(make.vm(host="h1", claims=(own,))))
    assert (lost.kind, lost.adoptable) == (Kind.JOB, True), "a journal restored from yesterday does not know it"


def test_what_nobody_claims_is_told_and_left_to_a_person() -> None:
    (twice,) = orphans(cluster(make.vm(host="h1"), make.vm(host="h2")))
    assert (twice.kind, twice.adoptable, twice.removable) == (Kind.TWICE, False, False)
    assert "TWO COPIES" in twice.truth
    (half,) = orphans(cluster(make.vm(host="h1", state=VmState.PAUSED, reason="migrating")))
    assert (half.kind, half.removable) == (Kind.IN_BETWEEN, False)


def test_a_tool_that_may_be_at_work_is_not_removable() -> None:
    tools = [Tool("h1", "domain", "mudanza-probe-x", "", 0.0, gone) for gone in (False, True)]
    at_work, left = orphans(cluster(), tools=tools)
    assert (at_work.removable, left.removable) == (False, True)
