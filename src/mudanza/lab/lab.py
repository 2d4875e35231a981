"""A lab as its users see it: real hosts, a client and a controller on one switch, on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mudanza.lab import construction, host, layout, libvirt_config, network, requirements, state
from mudanza.lab.cell import Cell
from mudanza.lab.network import PortBytes
from mudanza.lab.process import LabError
from mudanza.lab.seat import CONTROLLER_ENVIRONMENT
from mudanza.lab.state import LabState
from mudanza.model.errors import UsageError
from mudanza.model.units import GIB

DEFAULT_POOL_SIZE = 20 * GIB
"""Bytes; sparse, so only what guests write takes space."""


class Via(StrEnum):
    """How to reach a host's libvirt."""

    UNIX = "unix"
    """By its socket, from outside the namespaces only: no byte of it crosses the switch."""
    TLS = "tls"
    SSH = "ssh"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class CellStatus:
    """A host or a seat at one instant."""

    name: str
    address: str
    alive: bool
    link_up: bool
    uplink: int | None
    """Bytes per second; None: not capped."""
    daemon: str | None
    """``running``, ``stopped`` (SIGSTOP) or ``dead``; None for a seat."""


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab at one instant. ``cells`` is empty for a dead one."""

    name: str
    directory: Path
    alive: bool
    tied: bool
    tls: bool
    cells: tuple[CellStatus, ...]


class Lab:
    """A handle on a live lab. Everything is read from the lab itself, so several handles agree."""

    def __init__(self, name: str, tie: int | None = None) -> None:
        """Use ``Lab.up`` or ``Lab.open``."""
        self.name = name
        self.directory = layout.directory(name)
        self._tie = tie

    @classmethod
    def up(
        cls,
        name: str,
        hosts: int = 2,
        *,
        uplink: int | None = None,
        controller_uplink: int | None = None,
        tls: bool = True,
        qemu_user: str = "root",
        pool_size: int = DEFAULT_POOL_SIZE,
        tied: bool = False,
        virtlockd: bool = False,
        on_progress: construction.Progress | None = None,
    ) -> Lab:
        """Build a lab of ``hosts`` hosts and return it once every libvirtd answers.

        Uplinks in bytes per second (None: not capped), ``pool_size`` in bytes. A ``tied`` lab dies with this
        process, however it ends; its files then wait for ``down``. With ``tls=False`` there are no
        certificates, neither for libvirt nor for migrations, and hosts are reached by TCP and ssh. ``qemu_user`` is
        who QEMU runs as: ``root``, or ``libvirt-qemu`` as on a usual Debian host. With ``virtlockd`` hosts lock disks,
        in one directory that all share.

        Raises UsageError for settings that cannot work, a live lab of that name or missing programs, LabError
        if something fails; then nothing is left behind.
        """
        requirements.check()
        names = layout.host_names(hosts)
        settings = LabState(
            hosts=names,
            tls=tls,
            tied=tied,
            pool_size=pool_size,
            uplinks={**dict.fromkeys(names, uplink), layout.CONTROLLER: controller_uplink},
            cells={},
            qemu_user=qemu_user,
            virtlockd=virtlockd,
        )
        return cls(name, construction.build(name, settings, on_progress or (lambda _: None)))

    @classmethod
    def open(cls, name: str) -> Lab:
        """Return a live lab. Raises UsageError if there is none of that name, or a dead one."""
        known = state.load(layout.directory(name))
        if not construction.is_alive(known):
            exists = layout.directory(name).exists()
            raise UsageError(
                f"the lab {name!r} is dead" if exists else f"there is no lab {name!r}",
                remedy=f"mudanza lab up --lab {name}",
            )
        return cls(name)

    @staticmethod
    def list() -> tuple[LabStatus, ...]:
        """Return the status of every lab there is, dead ones included."""
        try:
            names = sorted(path.name for path in layout.parent().iterdir())
        except FileNotFoundError:
            return ()
        return tuple(status(name) for name in names if layout.is_name(name))

    def down(self) -> None:
        """End every process of the lab and remove its files. Raises LabError if something will not go."""
        construction.take_down(self.name)
        if self._tie is not None:
            os.close(self._tie)
            self._tie = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of its hosts, dead ones included."""
        return self._state().hosts

    @property
    def tls(self) -> bool:
        """Whether its hosts have certificates."""
        return self._state().tls

    def cell(self, name: str) -> Cell:
        """Return a host, ``client``, ``controller`` or ``switch``; it may be dead. Raises UsageError if unknown."""
        return _cell(self._state(), name)

    def host_uuid(self, name: str) -> str:
        """Return the UUID that a host's libvirt goes by; it may be dead. Raises UsageError if it is unknown."""
        self._require_host(name)
        return libvirt_config.host_uuid(host.HostFiles(self.directory, name).root / "etc/libvirt")

    def uri(self, host_name: str, via: Via | str = Via.UNIX) -> str:
        """Return a libvirt URI for a host: ``unix`` from outside the namespaces, the others from inside the lab."""
        self._require_host(host_name)
        if Via(via) is Via.UNIX:
            return f"qemu+unix:///system?socket={layout.libvirt_socket(self.directory, host_name)}"
        user = "root@" if Via(via) is Via.SSH else ""
        return f"qemu+{via}://{user}{host_name}/system"

    def peer_uri(self, host_name: str) -> str:
        """Return the URI by which the other hosts reach a host."""
        return self.uri(host_name, Via.TLS if self.tls else Via.TCP)

    def set_uplink(self, name: str, rate: int | None) -> None:
        """Cap the wire of a host or seat in both directions. Bytes per second; None: no cap."""
        with state.locked(self.directory):
            known = self._state()
            network.set_rate(_cell(known, layout.SWITCH), _cell(known, name), rate)
            state.save(self.directory, known.with_uplink(name, rate))

    def switch_bytes(self) -> dict[str, PortBytes]:
        """Return what passed each switch port, by host or seat, since it was plugged in (boot_host plugs anew)."""
        return network.port_bytes(self.cell(layout.SWITCH))

    def stop_host(self, name: str) -> None:
        """Kill a host: everything on it is gone at once, its disks and its libvirt configuration stay."""
        self._require_host(name)
        # The wire first: a machine that loses its power says no farewell to those connected to it. Left to the
        # kernel, it also goes on answering for a moment after its last process.
        network.unplug(self.cell(layout.SWITCH), name)
        self.cell(name).kill()

    def boot_host(self, name: str) -> Cell:
        """Start a dead host on its disks and configuration. Raises UsageError if it lives."""
        self._require_host(name)
        with state.locked(self.directory):
            known = self._state()
            if known.cells[name].alive:
                raise UsageError(f"the host {name} is up", remedy="kill it first, or leave it as it is")
            files = host.HostFiles(self.directory, name)
            cell = host.boot(files, _cell(known, layout.SWITCH), known.uplinks.get(name))
            state.save(self.directory, known.with_cell(name, cell.init))
        return cell

    def status(self) -> LabStatus:
        """Return what state everything is in."""
        return status(self.name)

    def _state(self) -> LabState:
        known = state.load(self.directory)
        if known is None:
            raise UsageError(f"there is no lab {self.name!r}", remedy=f"mudanza lab up --lab {self.name}")
        return known

    def _require_host(self, name: str) -> None:
        if name not in self.hosts:
            raise UsageError(f"the lab {self.name} has no host {name!r}", remedy=f"it has {', '.join(self.hosts)}")


def status(name: str) -> LabStatus:
    """Return the state of a lab, live, dead or half-built."""
    directory = layout.directory(name)
    known = state.load(directory)
    dead = LabStatus(name, directory, alive=False, tied=False, tls=False, cells=())
    if known is None or not construction.is_alive(known):
        return dead
    try:
        links = network.links_up(_cell(known, layout.SWITCH))
        made = (cell for cell in (*known.hosts, *layout.SEATS) if cell in known.cells)
        cells = tuple(_cell_status(known, cell, link_up=cell in links) for cell in made)
    except LabError:
        if construction.is_alive(known):
            raise
        return dead  # it died while we looked
    return LabStatus(name, directory, alive=True, tied=known.tied, tls=known.tls, cells=cells)


def _cell_status(known: LabState, name: str, *, link_up: bool) -> CellStatus:
    cell = _cell(known, name)
    return CellStatus(
        name=name,
        address=layout.address(name),
        alive=cell.alive,
        link_up=link_up,
        uplink=known.uplinks.get(name),
        daemon=host.daemon_state(cell) if name in known.hosts else None,
    )


def _cell(known: LabState, name: str) -> Cell:
    if name not in known.cells:
        raise UsageError(f"the lab has no {name!r}", remedy=f"it has {', '.join(known.cells)}")
    environment = CONTROLLER_ENVIRONMENT if name == layout.CONTROLLER else {}
    return Cell(name, known.cells[name], environment)
