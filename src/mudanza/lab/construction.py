"""Building a lab, and taking one down: all of it, or nothing stays."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mudanza.lab import disks, host, layout, libvirt_config, network, pki, seat, state
from mudanza.lab.cell import Cell
from mudanza.lab.process import LabError
from mudanza.lab.ssh import Keys
from mudanza.lab.state import LabState
from mudanza.model.errors import UsageError

Progress = Callable[[str], None]

# The switch's init lives on the reading end of a pipe: it ends with whoever holds the other end, however that
# one dies, unless it was told to stay. (A parent-death signal would come when the starting *thread* ends.)
_SWITCH_INIT = ("sh", "-c", "read -r stay && exec sleep infinity")


def build(name: str, settings: LabState, on_progress: Progress) -> int | None:
    """Build a lab. Returns what holds a tied one: a descriptor that must stay open.

    Raises UsageError if there is a live lab of that name. After any failure, an interruption included, nothing
    of the lab is left.
    """
    directory = _claim(name)
    with state.locked(directory, limit=0):
        reading, writing = os.pipe()
        try:
            switch = Cell.create(layout.SWITCH, _SWITCH_INIT, stdin=reading)
            made = settings.with_cell(switch.name, switch.init)
            state.save(directory, made)
            for cell in _Site.prepare(directory, switch, settings).build_cells(on_progress):
                made = made.with_cell(cell.name, cell.init)
            state.save(directory, made)
            if not settings.tied:
                os.write(writing, b"stay\n")
        except BaseException:
            os.close(writing)
            _take_down(directory)
            raise
        finally:
            os.close(reading)
    if settings.tied:
        return writing
    os.close(writing)
    return None


def take_down(name: str) -> bool:
    """End every process of a lab and remove its files; return False if there was nothing.

    Works on a dead or half-built lab too, and any number of times. Raises LabError if something will not go.
    """
    directory = layout.directory(name)
    if not directory.exists():
        return False
    with state.locked(directory):
        _take_down(directory)
    return True


def is_alive(known: LabState | None) -> bool:
    """Whether the lab's switch, and with it the lab, lives."""
    return known is not None and layout.SWITCH in known.cells and known.cells[layout.SWITCH].alive


@dataclass(frozen=True, slots=True)
class _Site:
    """A lab while it is built: the switch stands, the keys are made.

    Every program is run inside the switch's cell, where it dies with it: one that outlived a killed ``up`` would
    write into a directory that is being removed.
    """

    directory: Path
    switch: Cell
    settings: LabState
    addresses: dict[str, str]
    keys: Keys
    authority: pki.Authority | None

    @classmethod
    def prepare(cls, directory: Path, switch: Cell, settings: LabState) -> _Site:
        network.build_switch(switch)
        for shared in ("shared", "boot"):
            (directory / shared).mkdir()
        if settings.virtlockd:
            (directory / "shared" / Path(libvirt_config.LOCKSPACE).name).mkdir()
        addresses = {name: layout.address(name) for name in (*layout.SEATS, *settings.hosts)}
        keys = Keys(switch, directory / "ssh")
        keys.create({name: addresses[name] for name in settings.hosts})
        authority = pki.Authority(switch, directory / "pki") if settings.tls else None
        if authority is not None:
            authority.create()
        return cls(directory, switch, settings, addresses, keys, authority)

    def build_cells(self, on_progress: Progress) -> list[Cell]:
        """Make hosts and seats side by side. The first failure ends them all, and returns when they have ended."""
        makers = [self._make_client, self._make_controller]
        makers += [partial(self._make_host, name) for name in self.settings.hosts]
        cells = []
        with ThreadPoolExecutor(len(makers)) as pool:
            try:
                for future in as_completed([pool.submit(maker) for maker in makers]):
                    cells.append(future.result())
                    on_progress(f"{cells[-1].name} is up at {self.addresses[cells[-1].name]}")
            except BaseException:
                # Whatever the other threads wait for dies with the switch, so leaving the pool takes no time.
                self.switch.kill()
                raise
        return cells

    def _make_client(self) -> Cell:
        return seat.open_client(self.switch)

    def _make_controller(self) -> Cell:
        seat.create_controller_files(self.directory, self.addresses, self.keys, self.authority)
        rate = self.settings.uplinks.get(layout.CONTROLLER)
        return seat.open_controller(self.directory, self.switch, rate)

    def _make_host(self, name: str) -> Cell:
        files = host.HostFiles(self.directory, name)
        size, user = self.settings.pool_size, self.settings.qemu_user
        host.create_files(
            self.switch, files, self.addresses, self.keys, self.authority, size, user, virtlockd=self.settings.virtlockd
        )  # fmt: skip
        return host.boot(files, self.switch, self.settings.uplinks.get(name))


def _claim(name: str) -> Path:
    """Make the directory of a new lab, sweeping a dead one of that name away."""
    directory = layout.directory(name)
    if directory.exists():
        with state.locked(directory, limit=0):
            if is_alive(state.load(directory)):
                raise UsageError(f"there is a lab {name!r} already", remedy=f"mudanza lab down --lab {name}")
            _take_down(directory)
    directory.mkdir(mode=0o700, parents=True)
    return directory


def _take_down(directory: Path) -> None:
    known = state.load(directory)
    if known is not None and layout.SWITCH in known.cells:
        known.cells[layout.SWITCH].kill()
    disks.await_release(f"{directory}/")
    _refuse_mounts_in(directory)
    shutil.rmtree(directory)
    if directory.parent == layout.DEFAULT_PARENT:
        # Made by the first lab, so they go with the last one, unless something else of ours is in there.
        with contextlib.suppress(OSError):
            for empty in (layout.DEFAULT_PARENT, layout.DEFAULT_PARENT.parent):
                empty.rmdir()


def _refuse_mounts_in(directory: Path) -> None:
    """Raise LabError if something is mounted there from outside: removing files would reach into it."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    if mounted := [point for point in points if point.startswith(f"{directory}/")]:
        raise LabError(f"something is mounted in the lab's directory: {', '.join(mounted)}", remedy="unmount it")
