"""QEMU's guest agent, asked in its own words: libvirt has calls for the most usual of them only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import libvirt_qemu


def ask_agent(domain: Any, command: Mapping[str, Any], timeout: int) -> Any:
    """Return what the agent answers to a command within so many seconds. Raises libvirtError."""
    answer = libvirt_qemu.qemuAgentCommand(domain, json.dumps(command), timeout, 0)
    return json.loads(answer).get("return")
