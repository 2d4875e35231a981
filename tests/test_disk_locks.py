"""The second lock: what a host tells of it, whether two hosts see each other's locks, and what a refusal is."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest

from mudanza.availability.locking import of_locks
from mudanza.hypervisor.connection import refusal
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.disk_locks import disk_locks_of
from mudanza.hypervisor.twin.errors import refusal as raised
from mudanza.model.cluster import Cluster
from mudanza.model.disk_locks import DiskLocks, LockManager, difference
from mudanza.model.errors import DiskLockedError, HypervisorError
from mudanza.model.finding import Finding
from tests import factories as make

SPACE = DiskLocks(LockManager.VIRTLOCKD, space="/srv/locks", inode="7", held=frozenset({"a", "b"}))
IMAGES = DiskLocks(LockManager.VIRTLOCKD)
NONE = DiskLocks(LockManager.NONE)
LEASES = DiskLocks(LockManager.SANLOCK, every_disk=False, space="/var/lib/libvirt/sanlock", inode="9")
UNKNOWN = DiskLocks(why="the controller does not log in there by ssh")


@pytest.mark.parametrize(
    ("answers", "found", "words"),
    [
        ([["manager", "none"]], NONE, "none"),
        ([["manager", "virtlockd"], ["every", "1"]], IMAGES, "virtlockd, on the images"),
        (
            [["manager", "virtlockd"], ["every", "1"], ["space", "/srv/my", "locks"], ["inode", "7"], ["held", "a"]],
            DiskLocks(LockManager.VIRTLOCKD, space="/srv/my locks", inode="7", held=frozenset({"a"})),
            "virtlockd, in /srv/my locks",
        ),
        (
            [["manager", "sanlock"], ["every", "0"], ["space", "/var/lib/libvirt/sanlock"], ["inode", "9"]],
            LEASES,
            "sanlock, leases of definitions alone",
        ),
    ],
)
def test_what_a_host_answers_is_read(answers: list[list[str]], found: DiskLocks, words: str) -> None:
    assert disk_locks_of(answers) == found
    assert found.in_words == words


@pytest.mark.parametrize("answers", [[], [["manager"]], [["manager", "dlm"]], [["every", "1"]]])
def test_an_answer_that_makes_no_sense_is_not_known_and_not_none(answers: list[list[str]]) -> None:
    found = disk_locks_of(answers)
    assert found.manager is None
    assert found.why
    assert found.in_words == "not known"


def test_who_is_not_reached_by_ssh_cannot_be_asked() -> None:
    with Connections([make.entry("h1", uri="qemu+tls://h1/system")]) as connections:
        assert "by ssh" in connections.disk_locks("h1").why


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (SPACE, SPACE, ""),
        (NONE, NONE, ""),
        (LEASES, NONE, ""),
        (UNKNOWN, SPACE, ""),
        (IMAGES, IMAGES, ""),
        (SPACE, NONE, "only one of them"),
        (SPACE, LEASES, "only one of them"),
        (SPACE, IMAGES, "on the images"),
        (IMAGES, DiskLocks(LockManager.SANLOCK), "one locks by"),
        (SPACE, DiskLocks(LockManager.VIRTLOCKD, space="/srv/locks", inode="8", held=SPACE.held), "another directory"),
        (SPACE, DiskLocks(LockManager.VIRTLOCKD, space="/srv/locks", inode="7", held=frozenset({"c"})), "another"),
        (SPACE, DiskLocks(LockManager.VIRTLOCKD, space="/srv/locks", inode="7"), ""),
        (SPACE, DiskLocks(LockManager.VIRTLOCKD, space="/srv/elsewhere", inode="7"), "/srv/elsewhere"),
    ],
)
def test_what_keeps_two_hosts_from_seeing_each_others_locks_is_said(one: DiskLocks, other: DiskLocks, why: str) -> None:
    for found in (difference(one, other), difference(other, one)):
        assert why in found
        assert bool(found) == bool(why)


@pytest.mark.parametrize(
    "said",
    [
        "resource busy: Lockspace resource '/srv/shared/db.qcow2' is locked",
        "internal error: child reported: Lockspace resource '4f1c' is locked",
        "internal error: Failed to acquire lock: error -243",
        "Failed to acquire lock: sanlock error -244",
        "Failed to acquire lock: Lease is held by another host",
        "Failed to acquire lock: Device or resource busy",
        'internal error: process exited while connecting to monitor: Failed to get "write" lock\nIs another process…',
        'Failed to get shared "consistent read" lock',
    ],
)
def test_a_lock_that_somebody_holds_is_told_from_other_refusals(said: str) -> None:
    found = refusal("h2", raised(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_LOCKING, said))
    assert isinstance(found, DiskLockedError)
    assert found.exit_code == 3
    assert "mudanza vms" in found.remedy


@pytest.mark.parametrize(
    "said",
    [
        "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainCreate)",
        "Failed to acquire lock: error -202",
        "Lockspace for path /srv/locks does not exist",
        "Failed to connect socket to '/run/libvirt/virtlockd-sock': No such file or directory",
        "Failed to lock byte 100",
    ],
)
def test_what_is_no_held_lock_is_none(said: str) -> None:
    found = refusal("h2", raised(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_LOCKING, said))
    assert type(found) is HypervisorError


def sharing(*names: str, kind: str = "netfs") -> Cluster:
    return make.cluster([make.host(name, pools=(make.pool(name="nfs", kind=kind),)) for name in names])


def found_of(cluster: Cluster, *, kept_up: bool = True, **locks: DiskLocks) -> list[Finding]:
    return list(of_locks(cluster, locks, kept_up=kept_up))


def test_hosts_that_share_storage_and_lock_nothing_are_told_of_where_vms_are_kept_up() -> None:
    [each] = found_of(sharing("h1", "h2"), h1=NONE, h2=LEASES)
    assert each.code == "no-second-lock"
    assert "h2: only where a definition has a lease" in each.message
    assert found_of(sharing("h1", "h2"), kept_up=False, h1=NONE, h2=NONE) == []
    assert found_of(sharing("h1", "h2", kind="dir"), h1=NONE, h2=NONE) == [], "they share nothing"
    assert found_of(sharing("h1", "h2"), h1=UNKNOWN, h2=UNKNOWN) == [], "not known is not none"


def test_hosts_that_differ_are_warned_of() -> None:
    def codes(**locks: Any) -> list[tuple[str, str]]:
        return [(each.code, each.subject) for each in found_of(sharing("h1", "h2", "h3"), **locks)]

    assert codes(h1=SPACE, h2=SPACE, h3=NONE) == [
        ("second-locks-differ", "hosts h1 and h3"),
        ("second-locks-differ", "hosts h2 and h3"),
    ]
    assert codes(h1=SPACE, h2=SPACE, h3=UNKNOWN) == []
    assert codes(h1=SPACE, h2=SPACE, h3=SPACE) == []
    apart = make.cluster([*sharing("h1", "h2").hosts, make.host("h3")])
    assert list(of_locks(apart, {"h1": SPACE, "h2": SPACE, "h3": NONE}, kept_up=True)) == [], "h3 sees nothing of it"
