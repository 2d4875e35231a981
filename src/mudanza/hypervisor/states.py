"""libvirt's numbers for states, reasons and jobs in virsh's words."""

from __future__ import annotations

from mudanza.model.vm import VmState

_STATES = (
    VmState.NOSTATE,
    VmState.RUNNING,
    VmState.BLOCKED,
    VmState.PAUSED,
    VmState.SHUTDOWN,
    VmState.SHUTOFF,
    VmState.CRASHED,
    VmState.PMSUSPENDED,
)
_REASONS: dict[VmState, tuple[str, ...]] = {
    VmState.RUNNING: (
        "unknown",
        "booted",
        "migrated",
        "restored",
        "from snapshot",
        "unpaused",
        "migration canceled",
        "save canceled",
        "event wakeup",
        "crashed",
        "post-copy",
        "post-copy failed",
    ),
    VmState.PAUSED: (
        "unknown",
        "user",
        "migrating",
        "saving",
        "dumping",
        "I/O error",
        "watchdog",
        "from snapshot",
        "shutting down",
        "creating snapshot",
        "crashed",
        "starting up",
        "post-copy",
        "post-copy failed",
        "api error",
    ),
    VmState.SHUTDOWN: ("unknown", "user"),
    VmState.SHUTOFF: (
        "unknown",
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from snapshot",
        "daemon",
    ),
    VmState.CRASHED: ("unknown", "panicked"),
}
_OPERATIONS = (
    "unknown",
    "start",
    "save",
    "restore",
    "migration in",
    "migration out",
    "snapshot",
    "snapshot revert",
    "dump",
    "backup",
    "snapshot delete",
)


def state_name(number: int) -> VmState:
    """Return libvirt's domain state; a number it did not have when this was written is no state."""
    return _STATES[number] if 0 <= number < len(_STATES) else VmState.NOSTATE


def reason_name(state: VmState, number: int) -> str:
    """Return why a domain is in its state."""
    reasons = _REASONS.get(state, ("unknown",))
    return reasons[number] if 0 <= number < len(reasons) else "unknown"


def operation_name(number: int) -> str:
    """Return what a job does: ``migration out``, ``backup``…"""
    return _OPERATIONS[number] if 0 <= number < len(_OPERATIONS) else "unknown"
