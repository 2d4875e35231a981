"""Errors as libvirt raises them, with the numbers and words that were read off real hosts."""

from __future__ import annotations

import errno

import libvirt

_QEMU, _DOMAIN, _STORAGE, _RPC = (
    libvirt.VIR_FROM_QEMU,
    libvirt.VIR_FROM_DOMAIN,
    libvirt.VIR_FROM_STORAGE,
    libvirt.VIR_FROM_RPC,
)


def refusal(code: int, domain: int, words: str, number: int = -1) -> libvirt.libvirtError:
    """Return an error. ``number``: what libvirt calls int1, such as an errno."""
    error = libvirt.libvirtError(words)
    error.err = (code, domain, words, libvirt.VIR_ERR_ERROR, words, None, None, number, -1)
    return error


def no_domain(what: str, name: str) -> libvirt.libvirtError:
    """Nothing of that ``what`` (uuid, name) is there."""
    return refusal(libvirt.VIR_ERR_NO_DOMAIN, _QEMU, f"Domain not found: no domain with matching {what} '{name}'")


def invalid(words: str) -> libvirt.libvirtError:
    """The state it is in does not allow it."""
    return refusal(libvirt.VIR_ERR_OPERATION_INVALID, _QEMU, f"Requested operation is not valid: {words}")


def not_running() -> libvirt.libvirtError:
    """It is off."""
    return refusal(
        libvirt.VIR_ERR_OPERATION_INVALID, _DOMAIN, "Requested operation is not valid: domain is not running"
    )


def failed(words: str) -> libvirt.libvirtError:
    """It was tried."""
    return refusal(libvirt.VIR_ERR_OPERATION_FAILED, _DOMAIN, f"operation failed: {words}")


def internal(words: str) -> libvirt.libvirtError:
    """What libvirt says of whatever QEMU says."""
    return refusal(libvirt.VIR_ERR_INTERNAL_ERROR, _QEMU, f"internal error: {words}")


def locked(holder: str) -> libvirt.libvirtError:
    """A job had the domain for longer than libvirt waits."""
    return refusal(
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        libvirt.VIR_FROM_NONE,
        f"Timed out during operation: cannot acquire state change lock (held by monitor={holder})",
    )


def aborted() -> libvirt.libvirtError:
    """Somebody cancelled the migration."""
    return refusal(libvirt.VIR_ERR_OPERATION_ABORTED, _QEMU, "operation aborted: migration out: canceled by client")


def lost_peer() -> libvirt.libvirtError:
    """The target's libvirt is gone."""
    return failed("Lost connection to destination host")


def unsupported(words: str) -> libvirt.libvirtError:
    """There is no such thing here."""
    return refusal(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, _QEMU, f"Operation not supported: {words}")


def no_pool(name: str) -> libvirt.libvirtError:
    """No pool of that name."""
    return refusal(
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        _STORAGE,
        f"Storage pool not found: no storage pool with matching name '{name}'",
    )


def no_volume(what: str, name: str) -> libvirt.libvirtError:
    """No volume of that ``what`` (name, path)."""
    return refusal(
        libvirt.VIR_ERR_NO_STORAGE_VOL,
        _STORAGE,
        f"Storage volume not found: no storage vol with matching {what} '{name}'",
    )


def volume_exists(name: str) -> libvirt.libvirtError:
    """Nothing is overwritten."""
    return refusal(libvirt.VIR_ERR_STORAGE_VOL_EXIST, _STORAGE, f"storage volume '{name}' exists already")


def system(words: str, number: int, domain: int = _STORAGE) -> libvirt.libvirtError:
    """What the kernel said."""
    return refusal(libvirt.VIR_ERR_SYSTEM_ERROR, domain, words, number)


def no_file(path: str) -> libvirt.libvirtError:
    """There is no such file."""
    return system(f"cannot stat file '{path}': No such file or directory", errno.ENOENT, _QEMU)


def full(path: str) -> libvirt.libvirtError:
    """No space is left."""
    return system(f"cannot allocate space in file '{path}': No space left on device", errno.ENOSPC)


def hung_up() -> libvirt.libvirtError:
    """The other end of a line is gone."""
    return system("End of file while reading data: Input/output error", errno.EIO, _RPC)


def silence() -> libvirt.libvirtError:
    """The other end of a line gave no sign of life."""
    return refusal(libvirt.VIR_ERR_INTERNAL_ERROR, _RPC, "internal error: connection closed due to keepalive timeout")


def no_way(host: str, why: str, number: int) -> libvirt.libvirtError:
    """A line could not be opened."""
    return system(f"unable to connect to server at '{host}:16514': {why}", number, _RPC)
