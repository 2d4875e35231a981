"""Do the VM's snapshots and checkpoints come along?"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from mudanza.model.finding import Finding
from mudanza.model.vm import Disk
from mudanza.preflight.cargo import keeps_chain
from mudanza.preflight.case import Case
from mudanza.preflight.mapping import DiskPlan
from mudanza.preflight.wording import blocker, listed, mudanza, vm_key, warning

_LIVE_COPY = "a live copy without --chain keep"


def snapshots(case: Case) -> Iterator[Finding]:
    """Snapshots are part of the images: they travel where these stay in place or are carried as they are."""
    inside = [snapshot.name for snapshot in case.vm.snapshots if not snapshot.external]
    beside = [snapshot.name for snapshot in case.vm.snapshots if snapshot.external]
    for disk, plan in case.planned("copy"):
        rewriting = _rewriting(case, disk, plan)
        loses = "a live copy" if case.live else rewriting
        if loses and inside:
            yield blocker(
                "snapshots",
                f"disk {disk.target}",
                f"the VM has snapshots in its images ({listed(inside)}), and {loses} of {disk.source} loses them",
                _carry_cold(case),
            )
        flattens = rewriting or (_LIVE_COPY if case.live and not keeps_chain(case.options, live=True) else "")
        if flattens and beside:
            yield _chain_lost(case, f"disk {disk.target}", beside, f"{flattens} of {disk.source} makes one image of it")


def _rewriting(case: Case, disk: Disk, plan: DiskPlan) -> str:
    """Return what a copy does to an image besides carrying it as it is; empty for nothing."""
    if plan.format != disk.format:
        return f"the change to {plan.format}"
    if keeps_chain(case.options, live=case.live) or not disk.backing:
        return ""
    return "--chain flatten" if case.options.chain is not None else _LIVE_COPY


def snapshot_memory(case: Case) -> Iterator[Finding]:
    """The memory of an external snapshot is a file of its own, which a live move leaves where it is."""
    shared = {posixpath.dirname(disk.source or "") for disk, _ in case.planned("shared")}
    for snapshot in case.vm.snapshots:
        travels = keeps_chain(case.options, live=case.live)
        if not travels and snapshot.memory is not None and posixpath.dirname(snapshot.memory) not in shared:
            yield _chain_lost(
                case,
                f"file {snapshot.memory}",
                [snapshot.name],
                f"the memory in {snapshot.memory}, not in the directory of a shared disk, would stay behind",
            )


def _chain_lost(case: Case, subject: str, names: Iterable[str], why: str) -> Finding:
    message = f"the VM has external snapshots ({listed(names)}), made of a chain of files, and {why}"
    return blocker("snapshots-external", subject, message, _carry_cold(case))


def _carry_cold(case: Case) -> str:
    words = ("migrate", vm_key(case.vm), "--mode", "cold", "--to", case.target.name)
    plainly = " without --format and --chain" if not case.live else ""
    return f"move it cold{plainly}, snapshots and all: {mudanza(*words)}"


def checkpoints(case: Case) -> Iterator[Finding]:
    """The bitmaps of checkpoints travel with qcow2 images, also with live copies of them."""
    for disk, plan in case.planned("copy"):
        if case.vm.checkpoints and (rewriting := _rewriting(case, disk, plan)):
            yield warning(
                "checkpoints",
                f"disk {disk.target}",
                f"the VM's checkpoints ({listed(case.vm.checkpoints)}) do not survive {rewriting} of {disk.source}",
                "let the next backup be a full one",
            )
