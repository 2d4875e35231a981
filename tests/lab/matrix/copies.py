"""How many copies of a VM run, as the kernel knows it: no libvirt is asked, and so none can hide one."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError

WINDOW = 0.1
"""Seconds between two looks at what the vCPUs have consumed."""
SEARCH = 3
"""Windows after which it is looked again who the vCPUs are."""
RUNS = 1_000_000
"""Nanoseconds of CPU in a window from which on a copy counts as running: a vCPU that is stopped gets none."""


class Copies:
    """Looks at the vCPU threads of a VM on all hosts, many times a second, while a block runs.

    In the window in which a VM changes hosts both have run. In two windows in a row only two copies that live do.
    """

    def __init__(self, lab: Lab, uuid: str) -> None:
        self._lab, self._uuid = lab, uuid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="copies", daemon=True)
        self.looks = 0
        self.twice: list[str] = []
        """The times, in words, at which two copies were seen running."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        before: dict[Path, int] = {}
        ran_before: frozenset[str] = frozenset()
        threads: dict[str, list[Path]] = {}
        while not self._over.wait(WINDOW):
            if self.looks % SEARCH == 0:
                threads = vcpus(self._lab, self._uuid)
            now = {thread: _consumed(thread) for each in threads.values() for thread in each}
            ran = frozenset(
                host
                for host, each in threads.items()
                if any(thread in before and now[thread] - before[thread] >= RUNS for thread in each)
            )
            if len(ran & ran_before) > 1:
                self.twice.append(f"{time.strftime('%H:%M:%S')} on {' and '.join(sorted(ran & ran_before))}")
            before, ran_before = now, ran
            self.looks += 1


def vcpus(lab: Lab, uuid: str) -> dict[str, list[Path]]:
    """Return, by host, the kernel's directories of the threads that are the vCPUs of a VM."""
    found: dict[str, list[Path]] = {}
    for host in lab.hosts:
        try:
            mine = [process.id.pid for process in lab.cell(host).processes() if uuid in process.argv]
        except LabError:
            continue  # a dead host runs nothing
        found[host] = [thread for pid in mine for thread in _threads(pid)]
    return found


def _threads(pid: int) -> list[Path]:
    try:
        return [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().startswith("CPU ")]
    except (FileNotFoundError, ProcessLookupError):
        return []  # it ended while we looked


def _consumed(thread: Path) -> int:
    try:
        return int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0
