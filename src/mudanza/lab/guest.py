"""Guests of a lab: what one is like, how it comes to be, and how to talk to it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from lxml import etree

from mudanza.lab import client, layout, state
from mudanza.lab.cell import Cell
from mudanza.lab.domain import FIRMWARE, BootFiles, GuestSpec, console_log, domain_xml, mac_of, volume_xml
from mudanza.lab.guest_agent import with_guest_agent
from mudanza.lab.image import guest_image
from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError
from mudanza.model.errors import MudanzaError, UsageError

Told = TypeVar("Told")

BOOT_LIMIT = 120.0
"""Seconds a guest may take from its start to its first beat; software emulation on a loaded machine is slow."""
REFRESH_LIMIT, REFRESH_AGAIN = 30.0, 0.1
"""Seconds that others may take to make volumes in a pool, and between two tries to look into it."""
COMMAND_LIMIT = 60.0
"""Seconds the agent may take to answer; reading a whole disk takes about 10 s a GiB."""

TPM_PROGRAMS = ("/usr/bin/swtpm", "/usr/bin/swtpm_setup")
"""What libvirt emulates a TPM with."""

UNDEFINE_WITH = ("--nvram", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")
"""What libvirt keeps beside a definition, and would otherwise refuse to undefine for."""

RECORD = "guests.json"
"""In the lab's directory: address → name and UUID of every guest made."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A handle on a guest, wherever in the lab it runs."""

    lab: Lab
    name: str
    uuid: str
    address: str

    def command(self, question: str, *, limit: float = COMMAND_LIMIT) -> str:
        """Put one command to the agent, from the client seat, and return its answer.

        ``mem RATE``, ``workingset BYTES``, ``disk RATE`` and ``burn THREADS`` set; ``quiet`` stops all writers
        and returns when they stand still; ``nvram [NUMBER]``, ``tpm [NUMBER]`` and ``turn [NUMBER]`` keep a number
        there, or in the disk's last sector, or tell which is kept; ``gap`` tells and forgets the longest time (ns)
        between two pages of its memory writer; ``sync``, ``verify``, ``memverify``, ``sum OFFSET LENGTH``,
        ``stats``, ``poweroff``.
        Raises LabError when it does not answer or answers anything but ``ok``.
        """
        answer = self._from_client_seat(partial(client.ask, self.address, question, limit))
        verdict, _, rest = answer.partition(" ")
        if verdict != "ok":
            raise LabError(f"{self.name} answered {question!r} with: {answer}")
        return rest

    def stats(self) -> dict[str, int]:
        """Return the agent's figures: bytes, bytes per second, ``_ns`` nanoseconds."""
        return {key: int(value) for key, _, value in (word.partition("=") for word in self.command("stats").split())}

    def verify(self) -> tuple[int, int]:
        """Have the guest read its ring back; return the first and last number. Raises LabError for a bad ring."""
        first, last, _ = self.command("verify").split()
        return int(first), int(last)

    def verify_memory(self) -> int:
        """Have the guest compare its working set with what it wrote there; return the number of its pages.

        Raises LabError if a page holds anything else, such as an older content.
        """
        return int(self.command("memverify"))

    def longest_write_gap(self) -> float:
        """Return the longest time between two pages of its memory writer since this was asked last. Seconds."""
        return int(self.command("gap")) / 10**9

    def sum(self, offset: int, length: int) -> int:
        """Return the CRC-32 of a part of the disk as the guest reads it. Bytes, whole sectors."""
        return int(self.command(f"sum {offset} {length}"), 16)

    def keep(self, place: str, number: int) -> None:
        """Have the guest write a number below 2^64 into its ``nvram`` or ``tpm``. Raises LabError if it cannot."""
        self.command(f"{place} {number}")

    def kept(self, place: str) -> int:
        """Return the number that the guest finds in its ``nvram`` or ``tpm``. Raises LabError if there is none."""
        return int(self.command(place))

    def await_answer(self, limit: float = BOOT_LIMIT) -> None:
        """Wait until it answers ping and beats at the client seat. Raises LabError after ``limit`` seconds."""
        self._from_client_seat(partial(client.await_guest, self.address, limit))

    def _from_client_seat(self, question: Callable[[], Told]) -> Told:
        seat = self.lab.cell(layout.CLIENT)
        try:
            return seat.call_in_network(question)
        except LabError:  # of the seat, not of the guest
            raise
        except MudanzaError as error:
            raise self.no_answer(str(error)) from error

    def no_answer(self, what_was_seen: str) -> LabError:
        """Return an error that says what was seen of the guest from outside, and its state on every host."""
        try:
            states = ", ".join(f"{state} on {host}" for host, state in self.states().items())
        except LabError as error:
            states = f"not known: {error}"
        return LabError(
            f"guest {self.name} does not answer: {what_was_seen}",
            vm_state=states or "no live host of the lab knows it",
            remedy=f"see where it is (mudanza vms); if it is off: mudanza start {self.name}",
        )

    def states(self) -> dict[str, str]:
        """Return host → state in virsh's words, of every live host that knows this guest."""
        live = (name for name in self.lab.hosts if self.lab.cell(name).alive)
        answers = {host: virsh(self.lab.cell(host), "domstate", self.uuid, check=False) for host in live}
        return {host: answer.strip() for host, answer in answers.items() if answer.strip()}

    def remove(self) -> None:
        """Destroy and undefine it wherever it is, delete its volumes there and give its address back.

        What it shares with others stays: read-only and shareable disks, CD-ROMs, images below its own.
        """
        for host, domain_state in self.states().items():
            cell = self.lab.cell(host)
            if domain_state not in ("shut off", "crashed"):
                virsh(cell, "destroy", self.uuid)
            # A transient domain is gone with its QEMU.
            if self.uuid in virsh(cell, "list", "--all", "--uuid"):
                own = ",".join(_own_disks(virsh(cell, "dumpxml", "--inactive", self.uuid)))
                for pool in virsh(cell, "pool-list", "--name").split():
                    _refresh(cell, pool)  # libvirt deletes only the volumes it knows of
                virsh(cell, "undefine", self.uuid, *UNDEFINE_WITH, *(("--storage", own) if own else ()))
        _forget(self.lab, self.address)


def create_guest(lab: Lab, spec: GuestSpec, on: str = "h1", *, limit: float = BOOT_LIMIT) -> Guest:
    """Create its disks, define and start the guest, and return it once it answers ping and beats.

    With a working set, it is filled by then. Raises UsageError for a spec that cannot be, LabError when
    something fails or ``limit`` seconds are over; nothing of it is left then.
    """
    _require_parts(spec)
    cell = lab.cell(on)
    boot = _boot_files(lab, spec)
    spec = replace(spec, uuid=spec.uuid or str(uuid.uuid4()))
    with ExitStack() as undo:
        address = _reserve(lab, spec)
        undo.callback(_forget, lab, address)
        spec = replace(spec, address=address, mac=spec.mac or mac_of(address))
        paths = _create_disks(cell, spec, undo)
        # The way back comes first, and may find nothing: libvirtd carries out an order whose virsh was interrupted.
        undo.callback(virsh, cell, "undefine", str(spec.uuid), *UNDEFINE_WITH, check=False)
        virsh(cell, "define", "/dev/stdin", stdin=domain_xml(spec, boot, paths))
        undo.callback(virsh, cell, "destroy", str(spec.uuid), check=False)
        virsh(cell, "start", str(spec.uuid))
        guest = Guest(lab, spec.name, str(spec.uuid), address)
        _await_start(guest, spec, cell, limit)
        undo.pop_all()
    return guest


def find_guest(lab: Lab, name: str) -> Guest:
    """Return the guest of that name or UUID. Raises UsageError naming the known ones."""
    known = guests(lab)
    for guest in known:
        if name in (guest.name, guest.uuid):
            return guest
    names = ", ".join(guest.name for guest in known) or "none"
    raise UsageError(f"the lab {lab.name} has no guest {name!r} (known: {names})")


def guests(lab: Lab) -> tuple[Guest, ...]:
    """Return every guest made in the lab and not removed."""
    return tuple(Guest(lab, entry["name"], entry["uuid"], address) for address, entry in _load(lab).items())


def virsh(cell: Cell, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """Run virsh on a host and return what it printed. Raises LabError if it fails and ``check`` is set."""
    return cell.run(["virsh", "-q", "-c", "qemu:///system", *arguments], stdin=stdin, check=check).stdout


def _boot_files(lab: Lab, spec: GuestSpec) -> BootFiles:
    """Put the guest image where the lab's hosts see it, and return the paths there."""
    image = with_guest_agent(guest_image()) if spec.guest_agent else guest_image()
    name = image.kernel.parent.name
    place = lab.directory / "boot" / name
    with state.locked(lab.directory):
        if not place.is_dir():
            draft = Path(tempfile.mkdtemp(dir=place.parent, prefix=".draft-"))
            for file in (image.kernel, image.packed_kernel, image.initrd):
                shutil.copy(file, draft)
            draft.chmod(0o755)  # QEMU need not be root
            draft.rename(place)
    inside = Path(layout.BOOT_DIRECTORY) / name
    kernel = image.packed_kernel if spec.uefi else image.kernel
    return BootFiles(kernel=str(inside / kernel.name), initrd=str(inside / image.initrd.name))


def _require_parts(spec: GuestSpec) -> None:
    """Raise UsageError if the machine lacks what only some guests need."""
    needed = {"ovmf": [FIRMWARE] if spec.uefi else [], "swtpm swtpm-tools": TPM_PROGRAMS if spec.tpm else []}
    missing = [packages for packages, files in needed.items() if not all(Path(file).exists() for file in files)]
    if missing:
        raise UsageError(
            f"the guest {spec.name} needs Debian packages that are not installed: {' '.join(missing)}",
            remedy=f"apt-get install -y --no-install-recommends {' '.join(missing)}",
        )


def _create_disks(cell: Cell, spec: GuestSpec, undo: ExitStack) -> list[str]:
    """Create the guest's own disks and return their paths on the host."""
    paths = []
    if spec.disk:
        below = _image_below(cell, spec) if spec.backing else None
        paths.append(_create_volume(cell, spec.pool, volume_xml(spec.volume, spec.disk, spec.disk_format, below), undo))
    if spec.extra_disk:
        xml = volume_xml(spec.extra_volume, spec.extra_disk, spec.disk_format)
        paths.append(_create_volume(cell, spec.pool, xml, undo))
    return paths


def _create_volume(cell: Cell, pool: str, xml: str, undo: ExitStack) -> str:
    _refresh(cell, pool)  # of a shared one it knows what it has seen itself, and that may be gone
    virsh(cell, "vol-create", "--pool", pool, "--file", "/dev/stdin", stdin=xml)
    name = etree.fromstring(xml).findtext("name")
    path = virsh(cell, "vol-path", "--pool", pool, "--vol", str(name)).strip()
    undo.callback(virsh, cell, "vol-delete", "--vol", path)
    return path


def _refresh(cell: Cell, pool: str) -> None:
    """Have libvirt look into a pool, as soon as nobody makes a volume in it: it refuses meanwhile."""
    until = time.monotonic() + REFRESH_LIMIT
    while True:
        try:
            virsh(cell, "pool-refresh", pool)
        except LabError as error:
            if "asynchronous jobs" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(REFRESH_AGAIN)
        else:
            return


def _image_below(cell: Cell, spec: GuestSpec) -> tuple[str, str]:
    """Return path and format of the image below the guest's data disk, which others may share."""
    below = etree.fromstring(virsh(cell, "vol-dumpxml", "--pool", spec.pool, "--vol", str(spec.backing)))
    return str(below.findtext("target/path")), str(below.xpath("string(target/format/@type)"))


def _own_disks(xml: str) -> list[str]:
    """Return the target names of the disks that are the guest's alone."""
    disks = etree.fromstring(xml).findall("devices/disk[@device='disk']")
    own = (disk for disk in disks if disk.find("readonly") is None and disk.find("shareable") is None)
    return [str(disk.xpath("string(target/@dev)")) for disk in own]


def _await_start(guest: Guest, spec: GuestSpec, host: Cell, limit: float) -> None:
    try:
        guest.await_answer(limit)
        # The agent answers these only once the working set is filled.
        if spec.working_set:
            guest.command(f"workingset {spec.working_set}")
        if spec.write_rate:
            guest.command(f"mem {spec.write_rate}")
    except LabError as error:
        said = host.run(["tail", "--lines=5", console_log(guest.uuid)], check=False).stdout.strip()
        raise LabError(f"{guest.name} did not come up: {error}; its console: {said or 'silent'}") from error


def _load(lab: Lab) -> dict[str, dict[str, str]]:
    try:
        record: dict[str, dict[str, str]] = json.loads((lab.directory / RECORD).read_text())
    except FileNotFoundError:
        return {}
    return record


def _save(lab: Lab, record: dict[str, dict[str, str]]) -> None:
    draft = lab.directory / f"{RECORD}.new"
    draft.write_text(json.dumps(record, indent=2))
    draft.replace(lab.directory / RECORD)


def _reserve(lab: Lab, spec: GuestSpec) -> str:
    """Write the guest down under the address it asks for, or the next free one, and return that."""
    with state.locked(lab.directory):
        record = _load(lab)
        if any(entry["name"] == spec.name for entry in record.values()):
            raise UsageError(f"the lab {lab.name} has a guest {spec.name!r} already", remedy="choose another name")
        free = (layout.guest_address(number) for number in range(1, layout.MAX_GUESTS + 2))
        address = spec.address or next(candidate for candidate in free if candidate not in record)
        if address in record:
            raise UsageError(f"the address {address} belongs to {record[address]['name']!r}")
        _save(lab, {**record, address: {"name": spec.name, "uuid": str(spec.uuid)}})
    return address


def _forget(lab: Lab, address: str) -> None:
    with state.locked(lab.directory):
        _save(lab, {known: entry for known, entry in _load(lab).items() if known != address})
