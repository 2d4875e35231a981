"""What one running VM shows of being alive, at one instant."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Voice(StrEnum):
    """What comes of asking a guest's agent."""

    ANSWERS = "answers"
    SILENT = "silent"
    """It has its channel open and does not answer: its guest has not closed it, as one does that ends."""
    NOT_THERE = "not there"
    """No channel, or nobody has it open: nothing follows from that."""
    UNKNOWN = "unknown"
    """It could not be asked."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """One look at a VM. Counters since its QEMU started; None: libvirt did not tell."""

    run: int
    """libvirt's number of this run."""
    running: bool
    """Its vCPUs run; it is not paused."""
    voice: Voice
    cpu_seconds: float | None
    """What it has worked, and waited to on a host with too few CPUs."""
    disk_bytes: int | None
    """Read and written."""
    sent_packets: int | None
    """What it has sent; what it receives, others send."""
