"""What has changed on a VM's disks, set aside at its host before it is carried over.

QEMU copies it there within moments, and the guest is rid of the round: what it overwrites need not be kept any more,
nor is anything read through its QEMU. A guest of the lab that wrote 140 MiB/s lost 50 to 75 MiB of that while 200 MiB
were set aside, and 200 to 280 MiB of it by the rounds that were served to be read, however fast or slowly. It takes
room for all that has changed, and that is written once more at the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mudanza import clock
from mudanza.hypervisor.backups import Backups
from mudanza.hypervisor.shell import HostShell
from mudanza.journal.jobs import JobHandle
from mudanza.migration.claim import heeding
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.protection import Protection
from mudanza.protection import scripts
from mudanza.protection.extents import Extent, joined
from mudanza.protection.pacing import Pace
from mudanza.protection.scratch import Watched
from mudanza.protection.serving import Round, clear_scratch, options, scratch_of

LIMIT = 600.0
"""Seconds that setting aside may take."""
LOOK_EVERY = 0.05
"""Seconds between two looks whether it is done."""


def is_worth_it(backups: Backups, here: HostShell, protection: Protection, pace: Pace) -> bool:
    """Whether what has changed is to be set aside, as far as that is told, and can be served then. Raises
    HypervisorError, HostUnreachableError."""
    if not protection.checkpoint:
        return False
    changed = backups.changed_since(protection.vm_uuid, protection.checkpoint)
    if not pace.sets_aside(changed):
        return False
    return ["serves"] in here.run(scripts.SERVES_ASIDE, what="looking for qemu-storage-daemon")


@contextmanager
def served(handle: JobHandle, backups: Backups, this: Round, budget: int) -> Iterator[Watched]:
    """Have the disks served as they were at the instant while the block runs: from what was set aside, or else by the
    guest's own QEMU, whose scratch may take up ``budget`` bytes. Raises MigrationFailedError where setting aside takes
    too long, or does not hold what has changed since the newest point; HypervisorError, HostUnreachableError."""
    watched, host = Watched(backups, this.vm.uuid, budget), {"host": this.vm.host}
    if not this.aside:
        with watched, heeding(handle, watched.give_way):
            yield watched
        return
    if this.told != {disk.target for disk in this.disks}:
        raise MigrationFailedError("a disk was replaced by another one just when the round began")
    try:
        with heeding(handle, watched.give_way):  # but there is no scratch to be watched
            handle.perform("set aside", host, lambda: _await(backups, this.vm.uuid, watched), lasts=0.0)
            _serve(this)
            yield watched
    finally:
        with suppress(HypervisorError, HostUnreachableError, MigrationFailedError):  # the next round does it
            clear_scratch(this.here, this.protection, this.disks)


def _await(backups: Backups, uuid: str, watched: Watched) -> None:
    until = clock.monotonic() + LIMIT
    while not backups.is_set_aside(uuid):
        watched.refuse_to_go_on()
        if clock.monotonic() > until:
            raise MigrationFailedError(f"what has changed was not set aside within {LIMIT:g} s")
        clock.sleep(LOOK_EVERY)


def _serve(this: Round) -> None:
    """Serve it as the disks themselves would be, as long as the shell at the source is there; nothing of it may be read
    but what has changed."""
    words = ["--nbd-server", f"addr.type=unix,addr.path={this.near}"]
    for disk in this.disks:
        file = scratch_of(this.protection, disk, this.number)
        nothing = {"driver": "null-co", "size": disk.capacity or 0, "read-zeroes": True}
        values = {"file": file, "nothing": json.dumps({"driver": "raw", "file": nothing})}
        this.here.run(scripts.UPON_NOTHING, values, what="preparing what was set aside")
        image = {"driver": "qcow2", "node-name": disk.target, "read-only": "on", "file.driver": "file"}
        words += ["--blockdev", options({**image, "file.filename": file})]
        words += ["--export", f"type=nbd,id={disk.target},node-name={disk.target},name={disk.target}"]
    values = {"words": "\n".join(words), "socket": this.near}
    this.here.run(scripts.SERVE_ASIDE, values, what="serving what was set aside")


def changed_aside(shell: HostShell, disk: str, file: str) -> tuple[Extent, ...]:
    """Return what has changed on a disk: what is in the image that it was set aside in. Raises HypervisorError,
    HostUnreachableError."""
    answers = shell.run(scripts.CHANGED_ASIDE, {"file": file}, what=f"asking what has changed on disk {disk}")
    return joined((int(words[1]), int(words[2])) for words in answers if words[0] == "changed")
