"""Which disks of a VM are carried, and what has changed on them at the instant that is served."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex

from mudanza.hypervisor.shell import HostShell
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError
from mudanza.model.host import HostEntry
from mudanza.model.protection import Protection, is_of_journal, own_name
from mudanza.model.units import KIB
from mudanza.model.vm import Disk, Vm
from mudanza.protection import scripts
from mudanza.protection.drives import as_what_it_is, is_written_to
from mudanza.protection.extents import Extent, joined
from mudanza.protection.pacing import Pace
from mudanza.protection.replica import Served

SOURCE_SOCKETS = "/var/lib/libvirt/qemu"
"""Where QEMU may make a socket on every host, whoever it runs as."""
TARGET_SOCKETS = "/run"


@dataclass(frozen=True, slots=True)
class Round:
    """What one round is about."""

    protection: Protection
    vm: Vm
    disks: Sequence[Disk]
    number: int
    told: Collection[str]
    """The disks of which it is told what has changed since the newest point, by the guest's names for them."""
    here: HostShell
    there: HostShell
    far: str
    """The socket at which the target reads the disks."""
    verify: bool
    pace: Pace
    compressed: bool = False
    aside: bool = False
    """Whether what has changed was set aside, and is read from there."""

    @property
    def near(self) -> str:
        """The socket at which the source serves them."""
        return near_socket(self.protection, self.number)


def protected_disks(vm: Vm) -> tuple[Disk, ...]:
    """Return the disks that are carried: those the guest writes to. Raises BlockedError where one cannot be."""
    found = tuple(as_what_it_is(disk) for disk in vm.disks if is_written_to(disk))
    for disk in found:
        if disk.device != "disk":
            raise BlockedError(
                f"VM {vm.name!r} cannot be protected: its disk {disk.target} is a {disk.device.upper()} that is passed "
                "through, of which nobody can keep an instant",
                remedy="have it be an ordinary disk: <disk device='disk'>",
            )
        if disk.encryption or disk.shareable or disk.source is None or not (is_counted(disk) or is_compared(disk)):
            raise BlockedError(
                f"VM {vm.name!r} cannot be protected: its disk {disk.target} is no qcow2 file, raw file or device "
                "of its own, not encrypted",
                remedy="bring it into one (mudanza migrate VM --to ITS-HOST --map-storage A=B, or qemu-img convert)",
            )
    if not found:
        raise BlockedError(f"VM {vm.name!r} has no disk that could be protected")
    return found


def is_counted(disk: Disk) -> bool:
    """Whether QEMU keeps count of what the guest writes to a disk: in the image itself, and only qcow2 has room, from
    its version 3 on."""
    return disk.kind == "file" and disk.format == "qcow2" and not disk.old_qcow2


def is_compared(disk: Disk) -> bool:
    """Whether what has changed on a disk is found out by comparing all of it with the replica."""
    return disk.kind in ("file", "block") and (disk.format == "raw" or disk.old_qcow2)


def looked_into(shell: HostShell, disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """Return the same disks, those known as such whose images are of an old version of qcow2. Raises HypervisorError,
    HostUnreachableError."""
    counted = [disk for disk in disks if is_counted(disk) and disk.source is not None]
    if not counted:
        return tuple(disks)
    values = {"paths": "\n".join(str(disk.source) for disk in counted)}
    answers = shell.run(scripts.VERSIONS, values, what="looking at which qcow2 its disks are")
    old = {disk.target for disk, words in zip(counted, answers, strict=True) if words[1:] == ["2"]}
    return tuple(replace(disk, old_qcow2=True) if disk.target in old else disk for disk in disks)


def near_socket(protection: Protection, number: int) -> str:
    """Return the socket at which the source serves the disks of a round."""
    return f"{_near_sockets(protection)}-{number}.sock"


def _near_sockets(protection: Protection) -> str:
    return f"{SOURCE_SOCKETS}/mudanza-{own_name(protection)}"


def is_own_place(protection: Protection, disks: Sequence[Disk], path: str) -> bool:
    """Whether a backup that serves disks at this socket, or copies them to this file, is of a round of a protection of
    this journal."""
    begins = map(_scratches_of, disks)
    return is_near_socket(protection, path) or any(_is_of_round(protection, path, begin) for begin in begins)


def is_near_socket(protection: Protection, path: str) -> bool:
    """Whether a socket is one at which the source serves the disks in any round of a protection of this journal."""
    return path.endswith(".sock") and _is_of_round(protection, path.removesuffix(".sock"), f"{SOURCE_SOCKETS}/mudanza-")


def _is_of_round(protection: Protection, path: str, begin: str) -> bool:
    name, _, number = path.removeprefix(begin).rpartition("-")
    return path.startswith(begin) and number.isdigit() and is_of_journal(protection, name)


def new_far_socket(protection: Protection, number: int) -> str:
    """Return a socket at which the target is to read them, that no round has had: sshd leaves it there, and binds none
    that is there. Those of earlier rounds are swept."""
    return f"{TARGET_SOCKETS}/mudanza-{own_name(protection)}-{number}-{token_hex(4)}.sock"


def scratch_of(protection: Protection, disk: Disk, number: int) -> str:
    """Return the file that takes what the guest overwrites of a disk while that is read, or what has changed on it."""
    return f"{_scratches_of(disk)}{own_name(protection)}-{number}"


def _scratches_of(disk: Disk) -> str:
    return f"{_place_of_scratch(disk)}.mudanza-scratch-"


def _place_of_scratch(disk: Disk) -> str:
    """Beside the disk, where there is room for it; beside a device there is none."""
    source = str(disk.source)
    return f"{SOURCE_SOCKETS}/{source.strip('/').replace('/', '-')}" if disk.kind == "block" else source


def options(image: Mapping[str, str], prefix: str = "") -> str:
    """Return QEMU's options for an image as one word, each name behind ``prefix``: pure."""
    return ",".join(f"{prefix}{name}={value.replace(',', ',,')}" for name, value in image.items())


def changed(shell: HostShell, served: Served) -> tuple[Extent, ...]:
    """Return what has changed on a disk that is served at the host of this shell."""
    values = {"socket": served.socket, "disk": served.disk, "bitmap": served.bitmap}
    answers = shell.run(scripts.CHANGED, values, what=f"asking what has changed on disk {served.disk}")
    return joined((int(words[1]), int(words[2])) for words in answers if words[0] == "changed")


def clear_scratch(here: HostShell, protection: Protection, disks: Sequence[Disk]) -> None:
    """Delete what rounds have left at the source: whose QEMU or controller died in the middle of it, or what was set
    aside there."""
    for disk in disks:
        values = {"disk": _place_of_scratch(disk), "sockets": _near_sockets(protection)}
        here.run(scripts.CLEAR_SCRATCH, values, what="deleting what a round has left")


def _clear_bitmaps(here: HostShell, protection: Protection, disks: Sequence[Disk]) -> None:
    """Delete what has told of changes in the images of a VM that is off, where libvirt has left it there."""
    for disk in filter(is_counted, disks):
        values = {"disk": disk.source, "begin": f"mudanza-{own_name(protection)}"}
        here.run(scripts.CLEAR_BITMAPS, values, what="deleting what has told of changes")


def clear_if_reached(entry: HostEntry, protection: Protection, vm: Vm) -> str:
    """The same at the host of a VM; return what is to be told where it is not reached by ssh, or refuses: nothing else
    depends on it."""
    try:
        with HostShell(entry) as here:
            disks = [as_what_it_is(disk) for disk in vm.disks if disk.source]
            clear_scratch(here, protection, disks)
            if not vm.state.active:
                _clear_bitmaps(here, protection, disks)
    except (BlockedError, HypervisorError, HostUnreachableError) as error:
        return f"what rounds may have left beside its disks on {entry.name} was not deleted: {error}"
    return ""


def free_beside(shell: HostShell, disk: Disk) -> int:
    """Return how many bytes are free where the scratch of a disk will be."""
    values = {"disk": _place_of_scratch(disk)}
    [[_, free]] = shell.run(scripts.FREE, values, what=f"asking what is free beside disk {disk.target}")
    return int(free) * KIB


def unused_directory(shell: HostShell, base: str) -> str:
    """Return a directory that is not there yet, for a replica: ``base``, or that with a number behind it."""
    [[_, number]] = shell.run(scripts.UNUSED, {"base": base}, what="looking for a place for the replica")
    return base if number == "0" else f"{base}-{number}"


def starts_what_ran(shell: HostShell) -> bool:
    """Whether a host starts at boot what ran when it was shut down (libvirt-guests), whatever its autostart says."""
    answers = shell.run(scripts.GUESTS, what="asking what it starts when it boots")
    return ["guests", "yes", "start"] in answers


def assert_tools(shell: HostShell) -> None:
    """Raise HypervisorError where a host lacks what replication needs, or it is not root who logs in."""
    answers = shell.run(scripts.TOOLS, what="looking for QEMU's tools")
    if answers != [["user", "0"]]:
        raise HypervisorError(shell.host, f"ssh logs in as another user than root: {answers}")
