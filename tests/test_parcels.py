"""What is told of a picture to who knows the one before it."""

from __future__ import annotations

import pickle
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as some

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.vm import Vm, VmState, Written
from mudanza.service.parcels import NOBODY, UNTOLD, packed, unpacked, without_definitions
from tests import factories as make

NAMES = ("h1", "h2", "h3")


@some.composite
def hosts(draw: some.DrawFn) -> tuple[Host, ...]:
    names = draw(some.lists(some.sampled_from(NAMES), unique=True))
    return tuple(
        make.host(name, memory_free=draw(some.integers(0, 3)), error=draw(some.sampled_from([None, "it is down"])))
        for name in names
    )


@some.composite
def vms(draw: some.DrawFn) -> tuple[Vm, ...]:
    there = draw(some.lists(some.tuples(some.sampled_from("abc"), some.sampled_from(NAMES)), unique=True))
    return tuple(
        make.vm(
            uuid=uuid,
            name=f"vm {uuid}",
            host=host,
            state=draw(some.sampled_from([VmState.RUNNING, VmState.SHUTOFF])),
            xml=draw(some.sampled_from(["<domain>1</domain>", "<domain>2</domain>"])),
            inactive_xml=draw(some.sampled_from([None, "<domain>1</domain>"])),
            cpu_seconds=draw(some.sampled_from([None, 1.0, 2.0])),
            written=draw(some.sampled_from([None, Written(1, 2.0)])),
            disks=draw(some.sampled_from([(), (make.disk(),), (make.disk(allocation=7), make.iso())])),
        )
        for uuid, host in there
    )


clusters = some.builds(Cluster, hosts(), vms())


def bare(cluster: Cluster) -> Cluster:
    return Cluster(cluster.hosts, tuple(map(without_definitions, cluster.vms)))


@given(some.lists(clusters, min_size=1, max_size=5))
def test_what_was_packed_again_and_again_is_what_there_is(seen: list[Cluster]) -> None:
    told = known = NOBODY
    for cluster in seen:
        told = unpacked(told, pickle.loads(pickle.dumps(packed(known, cluster))))
        known = cluster
        assert told == bare(cluster)


def test_what_is_as_it_was_is_told_by_its_place_and_what_is_not_by_what_has_changed() -> None:
    one, two, three = (make.vm(uuid=uuid) for uuid in "abc")
    before = Cluster((make.host("h1"), make.host("h2")), (one, two, three))
    again = replace(two, cpu_seconds=5.0)
    parcel = packed(before, Cluster(before.hosts, (three, again)))
    assert (parcel.hosts, parcel.vms) == ([0, 1], [2, (1, {"cpu_seconds": 5.0})])


def test_no_definition_is_told_but_whether_there_is_one() -> None:
    secret = make.vm(xml="<domain>SECRET</domain>", inactive_xml="<domain>SECRET</domain>")
    changed = replace(secret, xml="<domain>SECRET 2</domain>", inactive_xml=None)
    for parcel in (packed(NOBODY, Cluster((), (secret,))), packed(Cluster((), (secret,)), Cluster((), (changed,)))):
        assert b"SECRET" not in pickle.dumps(parcel)
    [told] = unpacked(unpacked(NOBODY, packed(NOBODY, Cluster((), (secret,)))), parcel).vms
    assert (told.xml, told.inactive_xml) == (UNTOLD, None)
