"""Hosts with virtlockd: what is locked cannot be started twice, whatever else is bypassed; it moves, and it comes up
elsewhere when its host has died."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.cli.lab import tell_mudanza
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.domains import Domains
from mudanza.lab import faults, layout
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.lab.libvirt_config import LOCKSPACE
from mudanza.model.disk_locks import LockManager
from mudanza.model.errors import DiskLockedError
from mudanza.model.host import HostEntry
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import ssh_entry

IMAGE = f"{layout.SHARED_DIRECTORY}/once.qcow2"

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def locked(needs_lab: None) -> Iterator[Lab]:
    """Two hosts that lock disks."""
    built = Lab.up(f"v{os.getpid()}", hosts=2, tls=False, tied=True, virtlockd=True)
    yield built
    built.down()


def test_it_runs_once_whatever_is_bypassed_and_moves_and_comes_up_elsewhere(locked: Lab, tmp_path: Path) -> None:
    tell_mudanza(locked)
    mudanza = Mudanza(locked)
    rules = tmp_path / "rules.toml"
    rules.write_text('[planning]\nshared_pools = ["shared"]\n')
    mudanza("import", str(rules))
    entries = [ssh_entry(locked, host, tmp_path) for host in locked.hosts]
    with Connections(entries) as connections:
        told = [connections.disk_locks(host) for host in locked.hosts]
    assert [(each.manager, each.space) for each in told] == [(LockManager.VIRTLOCKD, LOCKSPACE)] * 2, told
    assert told[0].inode == told[1].inode
    guest = create_guest(locked, GuestSpec("once", memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared"), "h1")
    try:
        copy_is_refused(locked, entries, guest.uuid, "h2")
        mudanza("migrate", "once", "--to", "h2")
        guest.await_answer()
        assert guest.states() == {"h2": "running"}
        copy_is_refused(locked, entries, guest.uuid, "h1")
        plan = str(tmp_path / "plan.json")
        mudanza("plan", "balance")  # which writes down what is where
        faults.kill_host(locked, "h2")
        mudanza("fence", "off", "h2", "--yes")
        made = mudanza("plan", "evacuate", "h2", "--save", plan, "-o", "json").data
        assert made["moves"], made["unmoved"]
        mudanza("apply", plan)
        guest.await_answer()
        assert guest.states() == {"h1": "running"}
        faults.boot_host(locked, "h2")
        virsh(locked.cell("h2"), "domstate", guest.uuid)
        refused = locked.cell("h2").run(["virsh", "start", guest.uuid], check=False)
        assert refused.returncode, "the copy of the host that came back does not start"
        assert "lock" in refused.stderr
    finally:
        if not locked.cell("h2").alive:
            faults.boot_host(locked, "h2")
        guest.remove()


def copy_is_refused(lab: Lab, entries: list[HostEntry], uuid: str, host: str) -> None:
    """Define it at another host behind everybody's back, and try to start it there.

    QEMU's own lock, which lies on the image, would refuse it first: so another file lies over the image there. What is
    left is virtlockd's, which goes by the path.
    """
    [runs], there = {"h1", "h2"} - {host}, lab.cell(host)
    definition = virsh(lab.cell(runs), "dumpxml", "--inactive", uuid)
    there.run(["sh", "-c", f"cp {IMAGE} /var/tmp/over && mount --bind /var/tmp/over {IMAGE}"])
    virsh(there, "define", "/dev/stdin", stdin=definition)
    try:
        with Connections(entries) as connections, pytest.raises(DiskLockedError, match="Lockspace resource"):
            Domains(connections.get(host)).start(uuid)
    finally:
        virsh(there, "destroy", uuid, check=False)
        virsh(there, "undefine", uuid)
        there.run(["sh", "-c", f"umount {IMAGE} && rm /var/tmp/over"])
