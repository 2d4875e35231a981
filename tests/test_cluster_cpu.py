"""The CPU that all hosts can give: worked out, checked, given to VMs at their next start, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from lxml import etree

from mudanza.cli.cluster_cpu import _show
from mudanza.cli.context import App
from mudanza.cli.finishers import finisher_of
from mudanza.cli.output import Format
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.baseline import survey
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.hypervisor.twin.threads import Controller
from mudanza.hypervisor.xml.claims import same_definition
from mudanza.hypervisor.xml.cpus import keeps_former, same_cpu, with_cpu, with_former_cpu
from mudanza.journal.jobs import NewJob
from mudanza.migration.cpu_change import CpuChange
from mudanza.model.cluster import Cluster
from mudanza.model.cpu import CpuSurvey
from mudanza.model.errors import BlockedError, MigrationFailedError, NeedsPersonError
from mudanza.model.migration import MigrationOptions, Side, Sighting
from mudanza.model.vm import VmState
from mudanza.operations.cpus import _in_need
from mudanza.operations.power import _has_left
from mudanza.planning.compatibility import standing_against
from mudanza.preflight.checklist import check
from tests.factories import NO, cluster, facts, host, vm
from tests.twin.scene import Scene, scene

EPYC = "<cpu mode='custom' match='exact'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor></cpu>"
NEW = "<cpu mode='custom'><model>EPYC</model><feature policy='disable' name='avx2'/></cpu>"


def definition(cpu: str, metadata: str = "") -> str:
    return f"<domain><name>db</name>{metadata}<os/>{cpu}<clock/><devices><disk/></devices></domain>"


# Definitions.


def test_the_new_cpu_keeps_the_shape_of_the_old_one() -> None:
    old = "<cpu mode='host-passthrough'><topology sockets='2' cores='4' threads='1'/><numa><cell id='0'/></numa></cpu>"
    root = etree.fromstring(with_cpu(definition(old), NEW, "h1"))
    assert [part.tag for part in root.iterfind("cpu/*")] == ["model", "feature", "topology", "numa"]
    assert [part.tag for part in root] == ["metadata", "name", "os", "cpu", "clock", "devices"]


@pytest.mark.parametrize("old", ["", "<cpu mode='host-model'/>", "<cpu mode='custom'><model>qemu64</model></cpu>"])
@pytest.mark.parametrize("metadata", ["", "<metadata><tag xmlns='urn:x'>db</tag></metadata>"])
def test_what_was_before_comes_back_as_it_was(old: str, metadata: str) -> None:
    before = definition(old, metadata)
    once = with_cpu(before, NEW, "h1")
    assert same_cpu(once, NEW, "h1")
    assert not same_cpu(once, EPYC, "h1"), "the features count, too"
    assert not same_definition(once, before)
    twice = with_cpu(once, EPYC, "h1")
    for each in (once, twice):
        assert keeps_former(each, "h1")
        assert same_definition(with_former_cpu(each, "h1") or "", before), "the first one counts"
    assert with_former_cpu(before, "h1") is None


# Hosts.


@pytest.fixture
def the(tmp_path: Path) -> Iterator[Scene]:
    with scene(Random(7).randrange, tmp_path, hosts=3) as found:
        yield found


def put_epyc(the: Scene, uuid: str, name: str) -> None:
    """Have a VM run with the CPU that h1 has, and others may not have."""
    domain = the.twin.hosts[name].domains[uuid]
    for which in ("definition", "live"):
        if (xml := getattr(domain, which)) is not None:
            setattr(domain, which, epyc_in(xml))


def epyc_in(xml: str) -> str:
    root = etree.fromstring(xml)
    old = root.find("cpu")
    assert old is not None
    root.replace(old, etree.fromstring(EPYC))
    return etree.tostring(root, encoding="unicode")


def look(the: Scene) -> tuple[Cluster, CpuSurvey]:
    def looking() -> tuple[Cluster, CpuSurvey]:
        with Connections(the.inventory.hosts()) as connections:
            found = read_cluster(the.inventory.hosts(), connections=connections)
            return found, survey(connections, found)

    answer: tuple[Cluster, CpuSurvey] = the.do(looking, "looker")
    return answer


def change(the: Scene, uuid: str, *, undo: bool = False) -> str:
    """Give a VM the baseline, or take it back."""

    def changing() -> str:
        with Connections(the.inventory.hosts()) as connections:
            found = read_cluster(the.inventory.hosts(), connections=connections)
            target, changer = found.find(uuid), CpuChange(connections, the.jobs)
            if undo:
                return changer.undo(target, "ana")
            baseline = survey(connections, found).baseline_for(target.arch, target.domain_type, target.host)
            assert baseline is not None
            return changer.set(target, baseline.xml, baseline.model, "ana")

    said: str = the.do(changing, "changer")
    return said


def test_the_baseline_is_what_all_have_and_each_host_is_told_its_loss(the: Scene) -> None:
    uuid = the.make_vm("db", "h1")
    put_epyc(the, uuid, "h1")
    the.twin.hosts["h2"].cpu_lacks = frozenset({"avx2", "hypervisor"})
    the.twin.hosts["h3"].cpu_lacks = frozenset({"bmi2"})
    _, found = look(the)
    assert found.unknown == ()
    [baseline] = found.baselines
    assert baseline.hosts == ("h1", "h2", "h3")
    assert baseline.lost == {
        "h1": ("avx2", "bmi2", "hypervisor"),
        "h2": ("bmi2",),
        "h3": ("avx2", "hypervisor"),
    }
    assert baseline.refused == {}
    assert [(each.vm, each.on, each.host) for each in found.kept] == [("db", "h1", "h2"), ("db", "h1", "h3")]
    assert found.kept[0].why.endswith("does not provide required features: avx2")


def test_hosts_of_two_makers_have_two_baselines_and_no_vm_gets_that_of_the_other(the: Scene) -> None:
    the.make_vm("db", "h1")
    the.twin.hosts["h3"].cpu_vendor = "Intel"
    _, found = look(the)
    assert [(each.vendor, each.hosts) for each in found.baselines] == [("AMD", ("h1", "h2")), ("Intel", ("h3",))]


def test_a_host_that_does_not_answer_is_told_of_and_left_out(the: Scene) -> None:
    the.make_vm("db", "h1")
    the.twin.hosts["h3"].stop_libvirtd()
    _, found = look(the)
    assert found.baselines[0].hosts == ("h1", "h2")
    assert len(found.unknown) == 1
    assert found.unknown[0].startswith("h3 was not seen")


def test_a_vm_gets_it_at_its_next_start_and_may_go_everywhere_then(the: Scene) -> None:
    uuid = the.make_vm("db", "h1")
    put_epyc(the, uuid, "h1")
    the.twin.hosts["h2"].cpu_lacks = frozenset({"avx2"})
    domain = the.twin.hosts["h1"].domains[uuid]
    before, running = domain.definition or "", domain.live
    assert "until it has been shut down it runs with the old one" in change(the, uuid)
    assert domain.live == running, "what runs is not touched"
    assert "already: nothing to do" in change(the, uuid)
    assert [each.host for each in look(the)[1].kept] == ["h2"], "as long as it runs"
    job = the.jobs.newest_of(uuid)
    assert job is not None
    assert (job.kind, job.state, job.exit_code) == ("cpu", "done", 0)
    the.do(lambda: domain.host.end_guest(domain, 1))
    assert look(the)[1].kept == ()
    assert change(the, uuid, undo=True) == "db has the CPU it had before when it is started"
    assert same_definition(domain.definition or "", before)
    assert "nothing to undo" in change(the, uuid, undo=True)


def test_nobody_works_on_it_meanwhile(the: Scene) -> None:
    uuid = the.make_vm("db", "h1")
    handle = the.do(lambda: the.jobs.begin(NewJob("live", uuid, "db", "h1", "h2", {}, "bo")))
    with pytest.raises(BlockedError, match="unfinished job"):
        change(the, uuid)
    the.do(lambda: handle.finish("failed", "", 4))
    before = the.twin.hosts["h1"].domains[uuid].definition
    assert "has the CPU" in change(the, uuid)
    assert the.twin.hosts["h1"].domains[uuid].definition != before


POINTS = 12


@pytest.mark.parametrize("undo", [False, True])
def test_a_controller_that_dies_at_any_instant_leaves_one_cpu_or_the_other_and_nothing_else(
    tmp_path: Path, *, undo: bool
) -> None:
    ends = set()
    for times in range(POINTS):
        with scene(Random(times).randrange, tmp_path) as the:
            uuid = the.make_vm("db", "h1")
            original = the.twin.hosts["h1"].domains[uuid].definition or ""
            if undo:
                change(the, uuid)
            before = the.twin.hosts["h1"].domains[uuid].definition or ""
            assert dies(the, uuid, times, undo=undo)
            the.twin.scheduler.advance(seconds=400.0)
            for job in the.jobs.unfinished():
                ends.add(finish(the, tmp_path, job.id))
            after = the.twin.hosts["h1"].domains[uuid].definition or ""
            assert "claim" not in after
            if keeps_former(after, "h1"):
                assert same_definition(with_former_cpu(after, "h1") or "", original)
            else:
                assert same_definition(after, original)
            assert the.jobs.unfinished() == ()
            assert undo or same_definition(before, original)
    assert ends == {"done", "failed"}


def dies(the: Scene, uuid: str, times: int, *, undo: bool) -> bool:
    """Have a controller change the CPU and die the n-th time that it writes into the journal."""
    controller, seen, scheduler = Controller("short-lived"), 0, the.twin.scheduler

    def changing() -> None:
        with Connections(the.inventory.hosts()) as connections:
            found = read_cluster(the.inventory.hosts(), connections=connections)
            changer = CpuChange(connections, the.jobs)
            if undo:
                changer.undo(found.find(uuid), "ana")
            else:
                [baseline] = survey(connections, found).baselines
                changer.set(found.find(uuid), baseline.xml, baseline.model, "ana")

    def count(label: str) -> None:
        nonlocal seen
        if scheduler.controller is controller and label.startswith(("before", "after")):
            seen += 1
            if seen == times + 1:
                scheduler.halt()

    scheduler.on_point = count
    scheduler.start(changing, "short-lived", controller)
    while controller.threads and seen <= times:
        scheduler.advance(points=200)
    scheduler.on_point = lambda _label: None
    the.twin.kill(controller)
    return True


def finish(the: Scene, folder: Path, number: int) -> str:
    def finishing() -> None:
        settings = folder / "finisher.toml"
        settings.write_text(f"database = {the.database!r}\n")
        app = App(settings, debug=False)
        with Connections(the.inventory.hosts()) as connections:
            finisher = finisher_of(app, connections, "cpu", lambda _progress: None, the.jobs)
            finisher.resume(number, the.twin.scheduler.new_event())

    try:
        the.do(finishing, "finisher")
    except MigrationFailedError as error:
        assert "was not changed" in str(error)  # noqa: PT017
    return the.jobs.get(number).state


def test_it_is_shown(the: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uuid = the.make_vm("db", "h1")
    put_epyc(the, uuid, "h1")
    the.make_vm("calm", "h2")
    the.twin.hosts["h2"].cpu_lacks = frozenset({"avx2"})
    settings = tmp_path / "m.toml"
    settings.write_text(f"database = {the.database!r}\n")
    found, _ = look(the)

    def showing() -> None:
        _show(App(settings, debug=False), None, None, Format.TABLE)

    the.do(showing, "shower")
    said = capsys.readouterr().out
    assert "EPYC by AMD" in said
    assert "1: avx2" in said
    assert "db" in said
    assert "calm" not in said, "what nothing keeps anywhere is not listed"
    assert [each.name for each in _in_need(found, look(the)[1])] == ["db"]


# Who heeds it.


@pytest.mark.parametrize("mode", ["custom", "host-passthrough"])
def test_preflight_offers_it_where_a_cpu_is_in_the_way(mode: str) -> None:
    guest = vm(cpu_mode=mode)
    there = host("h2", cpu_features=frozenset(), cpu_model="Haswell")
    pair = cluster([host("h1"), there], [guest])
    found = check(guest, host("h1"), there, pair, MigrationOptions(), facts(guest, there, cpu=NO))
    remedies = {each.code: each.remedy for each in found if each.code.startswith("cpu-")}
    assert remedies
    assert all("mudanza cluster cpu --set web" in remedy for remedy in remedies.values())


def test_the_planner_knows_what_a_guests_own_cpu_names() -> None:
    here, there = host("h1"), host("h2", cpu_features=frozenset({"vmx"}))
    named = vm(cpu_mode="custom", cpu_required=frozenset({"pdpe1gb", "hypervisor"}))
    assert [each.code for each in standing_against(named, here, there)] == ["cpu-incompatible"]
    assert standing_against(replace(named, cpu_required=frozenset({"vmx", "hypervisor"})), here, there) == ()
    assert standing_against(replace(named, state=VmState.SHUTOFF), here, there) == ()


def test_a_guest_that_came_from_elsewhere_is_not_gone() -> None:
    runs = Sighting(Side.PRESENT, VmState.RUNNING, "migrated", persistent=True)
    assert not _has_left(runs, vm())
    assert _has_left(replace(runs, state=VmState.SHUTOFF), vm())


@pytest.mark.parametrize("for_good", [False, True])
def test_an_answer_that_is_lost_is_not_taken_for_a_no(the: Scene, tmp_path: Path, *, for_good: bool) -> None:
    uuid = the.make_vm("db", "h1")
    host = the.twin.hosts["h1"]
    before = host.domains[uuid].definition

    def stop_once_it_is_defined(_label: str) -> None:
        if keeps_former(host.domains[uuid].definition or "", "h1"):
            host.stop_libvirtd()
            the.twin.scheduler.after(400.0 if for_good else 0.5, host.start_libvirtd)
            the.twin.scheduler.on_point = lambda _label: None

    the.twin.scheduler.on_point = stop_once_it_is_defined
    if for_good:
        with pytest.raises(NeedsPersonError, match="was not found out"):
            change(the, uuid)
        the.twin.scheduler.advance(seconds=500.0)
        assert finish(the, tmp_path, the.jobs.unfinished()[0].id) == "done"
    else:
        assert "has the CPU" in change(the, uuid)
    assert host.domains[uuid].definition != before
    assert the.jobs.unfinished() == ()
