"""Ending the connections over which a migration copies disks, for when they lead nowhere any more.

QEMU asked to end a mirror waits for what is on its way, and the kernel waits about 15 minutes for an answer on a dead
connection; the guest may stand still meanwhile. ``yank`` (QEMU 6.0 and later) is what QEMU offers against that: the
mirror then fails at once and the guest goes on with its own disk. libvirt has no call for it, so it is passed through.
"""

from __future__ import annotations

import json
from typing import Any

import libvirt_qemu

_TARGET_NODE = "migration-"
"""What libvirt's names for the far ends of a migration's mirrors begin with."""


def yank_copies(domain: Any) -> tuple[str, ...]:
    """End them and return which ones there were; a QEMU that knows no ``yank`` has none. Raises libvirtError."""
    instances = _monitor(domain, "query-yank", {})
    ours = [each for each in instances or () if str(each.get("node-name", "")).startswith(_TARGET_NODE)]
    if ours:
        _monitor(domain, "yank", {"instances": ours})
    return tuple(str(each["node-name"]) for each in ours)


def _monitor(domain: Any, command: str, arguments: dict[str, Any]) -> Any:
    said = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": command, "arguments": arguments}), 0)
    return json.loads(said).get("return")
