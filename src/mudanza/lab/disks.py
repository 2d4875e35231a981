"""The files behind the hosts' filesystems, and when the kernel has let go of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from mudanza.lab.cell import Cell
from mudanza.lab.process import DEATH_LIMIT, LabError

_RELEASE_INTERVAL = 0.02


def create(switch: Cell, path: Path, size: int) -> None:
    """Make an empty ext4 filesystem of ``size`` bytes in a sparse file."""
    with path.open("xb") as file:
        file.truncate(size)
    # Nothing here ever loses power: a journal, and tables written in advance, would only cost time.
    features = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-m", "0"]
    switch.run(["mkfs.ext4", "-q", "-F", *features, str(path)])


def await_release(prefix: str) -> None:
    """Wait until no loop device stands on a file whose path starts so.

    The kernel unmounts a dead host's disks a moment after its last process. Raises LabError after DEATH_LIMIT.
    """
    deadline = time.monotonic() + DEATH_LIMIT
    while held := [path for path in _loop_files() if path.startswith(prefix)]:
        if time.monotonic() > deadline:
            raise LabError(f"still in use after {DEATH_LIMIT:g} s: {', '.join(held)}")
        time.sleep(_RELEASE_INTERVAL)


def _loop_files() -> Iterator[str]:
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield loop.read_text().strip()
        except OSError:
            continue  # detached while we looked
