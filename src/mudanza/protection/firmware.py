"""A VM's UEFI variables and the state of its emulated TPM: kept with restore points, and put in place before it starts.

Both are files at the VM's host, of a few hundred KiB, that change seldom. Each restore point has an archive of them;
points between which nothing of it has changed share one.
"""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.hypervisor.shell import HostShell
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.hypervisor.xml.parsing import parse
from mudanza.journal.jobs import JobHandle
from mudanza.model.errors import HypervisorError
from mudanza.model.protection import FirmwareState, Protection
from mudanza.model.vm import VmState
from mudanza.preflight.cargo import NVRAM_DIRECTORY
from mudanza.protection import scripts

TPM_DIRECTORY = "/var/lib/libvirt/swtpm"
"""Where libvirt has the state of emulated TPMs, by the VMs' UUIDs and the TPMs' versions."""
MOST = 16 * 1024 * 1024
"""Bytes of an archive at the most: it goes through the controller's memory. As a rule it is less than 100 KiB."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a VM's firmware keeps what it knows, on its host; empty: it has none of that kind."""

    variables: str = ""
    """The file of its UEFI variables."""
    tpm: str = ""
    """The directory of its emulated TPM's state."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was read of it at the source."""

    digest: str
    archive: str
    """In base64; empty: it is as it was at the newest restore point."""


def places_of(definition: str) -> Places:
    """Return where libvirt keeps what belongs to a VM of this definition: pure."""
    root = parse(definition, "journal")
    vm = parse_vm(definition, host="", state=VmState.SHUTOFF)
    variables = tpm = ""
    if vm.firmware is not None and root.find("os/nvram") is not None:
        # libvirt names it by a rule where the definition does not.
        variables = vm.firmware.nvram or f"{NVRAM_DIRECTORY}/{vm.name}_VARS.fd"
    backend = root.find("devices/tpm/backend[@type='emulator']")
    if backend is not None:
        tpm = f"{TPM_DIRECTORY}/{vm.uuid}/tpm{'1.2' if backend.get('version') == '1.2' else '2'}"
    return Places(variables, tpm)


def read(here: HostShell, places: Places, known: FirmwareState | None) -> Copied | None:
    """Read it at the VM's host; None: the VM has none. ``known``: what it was at the newest restore point.

    Raises HypervisorError, HostUnreachableError.
    """
    if places == Places():
        return None
    values = {"variables": places.variables, "tpm": places.tpm, "known": known.digest if known else "", "most": MOST}
    answers = here.run(scripts.READ_FIRMWARE, values, what="reading UEFI variables and the TPM's state")
    digest = next((words[1] for words in answers if words[0] == "digest"), "")
    if not digest:
        raise HypervisorError(here.host, f"reading UEFI variables got an answer that makes no sense: {answers[:1]}")
    return Copied(digest, "".join(words[1] for words in answers if words[0] == "part"))


def keep(
    there: HostShell, protection: Protection, number: int, copied: Copied | None, known: FirmwareState | None
) -> FirmwareState | None:
    """Write it down beside a restore point's images, if it is another one than that of the newest point; return it.

    Raises HypervisorError, HostUnreachableError.
    """
    if copied is None:
        return None
    if not copied.archive:
        return known
    file = f"firmware.{number}.tgz"
    values = {"directory": protection.directory, "file": file, "archive": copied.archive}
    there.run(scripts.KEEP_FIRMWARE, values, what="writing down UEFI variables and the TPM's state")
    return FirmwareState(file, copied.digest)


def put_in_place(
    handle: JobHandle, there: HostShell, protection: Protection, state: FirmwareState | None, definition: str
) -> None:
    """Have a VM that is defined with this, and does not run yet, find its variables and TPM as they were.

    Raises HypervisorError, HostUnreachableError.
    """
    places = places_of(definition)
    if state is None or places == Places():
        return
    values = {"directory": protection.directory, "file": state.file}
    values |= {"variables": places.variables, "tpm": places.tpm}

    def place() -> None:
        there.run(scripts.PLACE_FIRMWARE, values, what="putting UEFI variables and the TPM's state in place")

    about = {"host": there.host, "from": state.file, "variables": places.variables, "tpm": places.tpm}
    handle.perform("place firmware", about, place)
