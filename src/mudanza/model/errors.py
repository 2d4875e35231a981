"""The one tree of errors, each with the exit code a script can rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mudanza.model.finding import Finding


class MudanzaError(Exception):
    """Something went wrong. ``str()`` says what and where; ``remedy`` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "", vm_state: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
        self.vm_state = vm_state
        """What state the VM is in now, as a sentence; empty where no VM was touched."""


class UsageError(MudanzaError):
    """The command, a setting or a file says something we cannot carry out."""

    exit_code = 2


class BlockedError(MudanzaError):
    """Preflight found blockers, or the world has changed; nothing was touched."""

    exit_code = 3
    said: tuple[str, ...] = ()
    """What was told on the way, for somebody who was not there to hear it."""

    def __init__(self, message: str, *, findings: tuple[Finding, ...] = (), remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.findings = findings


class HostUnreachableError(MudanzaError):
    """A host could not be reached, or did not answer within its bound: nothing is known about it."""

    exit_code = 3

    def __init__(self, host: str, message: str, *, remedy: str = "") -> None:
        super().__init__(f"host {host}: {message}", remedy=remedy)
        self.host = host


class MetricsError(MudanzaError):
    """A server of metrics did not answer, or with what cannot be understood: nothing is known from it."""

    exit_code = 3


class HypervisorError(MudanzaError):
    """libvirt refused an operation. ``code`` is libvirt's error number, ``domain`` its error domain."""

    def __init__(self, host: str, message: str, *, code: int = -1, domain: int = -1) -> None:
        super().__init__(f"host {host}: {message}")
        self.host = host
        self.reason = message
        self.code = code
        self.domain = domain


class DiskLockedError(HypervisorError):
    """A VM was not started, for somebody holds the lock of one of its disks: it runs, or another VM has the disk.
    Nothing was touched."""

    exit_code = 3

    def __init__(self, host: str, message: str, *, code: int = -1, domain: int = -1) -> None:
        super().__init__(host, message, code=code, domain=domain)
        self.remedy = (
            "look which host runs it, or another VM with that disk: mudanza vms, and virsh list --all at hosts that "
            "mudanza does not know; a lock is given up by whoever holds it, or by the storage once that host is off, "
            "and is never to be removed while anybody may run it"
        )


class MigrationFailedError(MudanzaError):
    """The migration failed or was cancelled, and the VM runs (or rests) as before."""

    exit_code = 4


class NeedsPersonError(MudanzaError):
    """What both hosts say leaves no safe action: a person must look."""

    exit_code = 5


class VmDownError(MudanzaError):
    """The VM is down; its disks are whole."""

    exit_code = 6
