"""Going past libvirt where it has no call that works while it migrates: see each.

Ending the connections over which a migration copies disks, for when they lead nowhere any more, or were forgotten.

QEMU asked to end a mirror waits for what is on its way, and the kernel waits about 15 minutes for an answer on a dead
connection; the guest may stand still meanwhile. ``yank`` (QEMU 6.0 and later) is what QEMU offers against that: the
mirror then fails at once and the guest goes on with its own disk. libvirt has no call for it, so it is passed through.

A libvirtd that dies at the switchover leaves the far ends of the mirrors in QEMU, and does not remember them when it is
back: every later migration of this QEMU fails then ("Duplicate nodes with node-name='migration-vda-storage'", seen with
libvirt 9.0 and QEMU 7.2), until they are taken out. A way that is cut just as post-copy begins may leave a mirror's
filter ("Need a root block node", seen with QEMU 7.2), which stays until the VM is started anew.

libvirt itself may miss that a migration was cancelled: told by QEMU that all is ready for the switchover, it waits for
the vCPUs to stand still, and where QEMU heeds an order to cancel before libvirt looks, they run again by then. It waits
for ever, heeds no further order, and lets nobody else work on the VM (seen with libvirt 9.0), until they stand still
once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import libvirt
import libvirt_qemu

from mudanza import clock
from mudanza.hypervisor.jobs import job_name
from mudanza.hypervisor.xml.parsing import parse

POSTCOPY_PAUSED = "postcopy-paused"
"""QEMU's word for a post-copy whose connection broke: the guest waits for its pages."""
_TARGET_NODE = "migration-"
"""What libvirt's names for the far ends of a migration's mirrors begin with."""
_OVER = frozenset({"cancelled", "failed"})
"""QEMU's words for a migration that it works on no more, and that has not moved the VM."""
STANDING = 1.0
"""Seconds that the vCPUs stand still at the most for libvirt to see it."""
_LOOK = 0.02


def yank_copies(domain: Any) -> tuple[str, ...]:
    """End them and return which ones there were; a QEMU that knows no ``yank`` has none. Raises libvirtError."""
    instances = _monitor(domain, "query-yank", {})
    ours = [each for each in instances or () if str(each.get("node-name", "")).startswith(_TARGET_NODE)]
    if ours:
        _monitor(domain, "yank", {"instances": ours})
    return tuple(str(each["node-name"]) for each in ours)


def limit_copies(domain: Any, limits: Mapping[str, int]) -> None:
    """Limit the mirrors of disks by their target names, in bytes per second; one that is not at work is passed over.

    libvirt has a call for it, which waits for the end of the migration (seen with libvirt 9.0). Raises libvirtError.
    """
    jobs = {str(job["device"]) for job in _monitor(domain, "query-block-jobs", {}) or () if job["type"] == "mirror"}
    for disk in parse(domain.XMLDesc(), domain.name()).iterfind("devices/disk"):
        target, alias = disk.find("target"), disk.find("alias")
        if target is None or alias is None or target.get("dev") not in limits:
            continue
        device = f"drive-{alias.get('name')}"
        if device in jobs:
            _monitor(domain, "block-job-set-speed", {"device": device, "speed": limits[target.get("dev", "")]})


def migration_status(domain: Any) -> str:
    """Return in QEMU's word how far its migration is, or how its last one ended. Raises libvirtError."""
    return str((_monitor(domain, "query-migrate", {}) or {}).get("status", ""))


def gave_up(domain: Any) -> bool:
    """Whether its last migration away was cancelled or failed, so that libvirt has no VM to be let run elsewhere.

    libvirt tells the target to let a VM run only once the source's QEMU says ``completed``. Raises libvirtError.
    """
    return migration_status(domain) in _OVER


def drop_forgotten_copies(domain: Any) -> tuple[str, ...]:
    """Take out the far ends of mirrors that are no more, unless a job is at work; return what stays all the same.

    Raises libvirtError.
    """
    if job_name(domain) is not None:
        return ()
    for node in _target_nodes(domain):
        _monitor(domain, "blockdev-del", {"node-name": node})
    return *_target_nodes(domain), *_stray_filters(domain)


def end_cancelled(domain: Any) -> bool:
    """Have libvirt see that QEMU has given a migration up, where the VM runs on and libvirt still works on it.

    The vCPUs are stopped for a moment; libvirt lets them run again itself when it ends the migration. Return whether
    that was called for. Raises libvirtError.
    """
    # While disks are copied it is still that of the migration before.
    if not gave_up(domain) or _copies_disks(domain) or not _runs(domain) or job_name(domain) is None:
        return False
    domain.suspend()
    until = clock.monotonic() + STANDING
    while not _runs(domain):
        if clock.monotonic() >= until:
            _monitor(domain, "cont", {})  # not by libvirt, which lets nobody resume a VM that it migrates
            break
        clock.sleep(_LOOK)
    return True


def _copies_disks(domain: Any) -> bool:
    return any(job["status"] == "running" for job in _monitor(domain, "query-block-jobs", {}) or ())


def _runs(domain: Any) -> bool:
    return bool(domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING)


def _target_nodes(domain: Any) -> tuple[str, ...]:
    # A node's format lies on top of its storage, and comes before it in this order too.
    return tuple(sorted(name for name in _nodes(domain) if name.startswith(_TARGET_NODE)))


def _stray_filters(domain: Any) -> tuple[str, ...]:
    """Return the filters that mirrors have left behind, which nobody can take out of a QEMU that runs."""
    if _monitor(domain, "query-block-jobs", {}):
        return ()
    return tuple(name for name, driver in _nodes(domain).items() if driver == "mirror_top")


def _nodes(domain: Any) -> dict[str, str]:
    """Return name → driver of QEMU's block nodes."""
    found = _monitor(domain, "query-named-block-nodes", {"flat": True}) or ()
    return {str(node["node-name"]): str(node["drv"]) for node in found}


def _monitor(domain: Any, command: str, arguments: dict[str, Any]) -> Any:
    said = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": command, "arguments": arguments}), 0)
    return json.loads(said).get("return")
