"""Ending the connections over which a migration copies disks, for when they lead nowhere any more, or were forgotten.

QEMU asked to end a mirror waits for what is on its way, and the kernel waits about 15 minutes for an answer on a dead
connection; the guest may stand still meanwhile. ``yank`` (QEMU 6.0 and later) is what QEMU offers against that: the
mirror then fails at once and the guest goes on with its own disk. libvirt has no call for it, so it is passed through.

A libvirtd that dies at the switchover leaves the far ends of the mirrors in QEMU, and does not remember them when it is
back: every later migration of this QEMU fails then ("Duplicate nodes with node-name='migration-vda-storage'", seen with
libvirt 9.0 and QEMU 7.2), until they are taken out.
"""

from __future__ import annotations

import json
from typing import Any

import libvirt_qemu

from mudanza.hypervisor.jobs import job_name

_TARGET_NODE = "migration-"
"""What libvirt's names for the far ends of a migration's mirrors begin with."""


def yank_copies(domain: Any) -> tuple[str, ...]:
    """End them and return which ones there were; a QEMU that knows no ``yank`` has none. Raises libvirtError."""
    instances = _monitor(domain, "query-yank", {})
    ours = [each for each in instances or () if str(each.get("node-name", "")).startswith(_TARGET_NODE)]
    if ours:
        _monitor(domain, "yank", {"instances": ours})
    return tuple(str(each["node-name"]) for each in ours)


def drop_forgotten_copies(domain: Any) -> tuple[str, ...]:
    """Take out the far ends of mirrors that are no more, unless a job is at work; return those that stay all the same.

    Raises libvirtError.
    """
    if job_name(domain) is not None:
        return ()
    for node in _target_nodes(domain):
        _monitor(domain, "blockdev-del", {"node-name": node})
    return _target_nodes(domain)


def _target_nodes(domain: Any) -> tuple[str, ...]:
    nodes = (str(node["node-name"]) for node in _monitor(domain, "query-named-block-nodes", {"flat": True}) or ())
    # A node's format lies on top of its storage, and comes before it in this order too.
    return tuple(sorted(node for node in nodes if node.startswith(_TARGET_NODE)))


def _monitor(domain: Any, command: str, arguments: dict[str, Any]) -> Any:
    said = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": command, "arguments": arguments}), 0)
    return json.loads(said).get("return")
