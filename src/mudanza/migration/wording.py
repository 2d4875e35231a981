"""What libvirt's bare words mean when a migration ends with them: a table, and the function that reads it."""

from __future__ import annotations

_LOGIN_LOST = "{source} lost its login to the libvirt of {target} (the way was cut, or the daemon there ended)"
_QEMU_ENDED = "the QEMU that was to take the VM over on {target} ended; see /var/log/libvirt/qemu/{name}.log there"
_STREAM_BROKE = "the data stream between {source} and {target} broke off"
_STUCK = (
    "a mirror that broke off has left a part of itself in the QEMU of {name} on {source}: until the VM has been shut "
    "down and started again, its disks cannot be copied while it runs; --mode cold can move it"
)

_MEANINGS = (
    ("client socket is closed", _LOGIN_LOST),
    ("End of file while reading data", _LOGIN_LOST),
    ("keepalive timeout", _LOGIN_LOST),
    ("Lost connection to destination host", _LOGIN_LOST),
    ("qemu unexpectedly closed the monitor", _QEMU_ENDED),
    ("Unable to read from monitor", _QEMU_ENDED),
    ("Unable to write to socket", _STREAM_BROKE),
    ("Channel error", _STREAM_BROKE),
    ("Need a root block node", _STUCK),
    (
        "Unable to find an unused port in range 'migration'",
        "all ports for migration are taken on {target} (migration_port_min to _max in its qemu.conf)",
    ),
)


def explained(said: str, source: str, target: str, name: str) -> str:
    """Put what is known to be behind an error of libvirt's before its own words; unknown words stay as they are."""
    for sign, meaning in _MEANINGS:
        if sign.lower() in said.lower():
            return f"{meaning.format(source=source, target=target, name=name)}: {said}"
    return said
