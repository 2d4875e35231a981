"""The places outside the hosts: a client that talks to guests, a controller with nothing but the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mudanza.lab import etc, layout, network, pki
from mudanza.lab.cell import Cell
from mudanza.lab.ssh import Keys

STATE_DIRECTORY = "/run/mudanza"
"""In the controller seat: writable, for its database and settings; of the lab, not of the machine."""

CONTROLLER_ENVIRONMENT = {
    "XDG_STATE_HOME": f"{STATE_DIRECTORY}/state",
    "XDG_CONFIG_HOME": f"{STATE_DIRECTORY}/config",
    "XDG_CACHE_HOME": f"{STATE_DIRECTORY}/cache",
}

# $1: the seat's files, $2: the directory of all labs, whose sockets and disks must not be seen from here,
# $3: where the machine's /etc is to be found.
_HIDE = """
set -eu
mount --bind -o ro /etc "$1$3"
mount --bind "$1/etc" /etc
mount --rbind "$1/run" /run
mount -t sysfs sysfs /sys
for hidden in "$2" /root/.ssh; do
  if [ -d "$hidden" ]; then mount -t tmpfs -o mode=0700 tmpfs "$hidden"; fi
done
"""


def open_client(switch: Cell) -> Cell:
    """Start the client seat: an address on the switch, and the machine's files."""
    cell = Cell.create(layout.CLIENT, within=switch)
    _connect(switch, cell)
    return cell


def create_controller_files(
    lab_directory: Path, addresses: Mapping[str, str], keys: Keys, authority: pki.Authority | None
) -> None:
    """Make the controller's private /etc, with what it needs to log in to the hosts, and /run."""
    files = lab_directory / layout.CONTROLLER
    files.mkdir()
    etc.create(files / "etc", layout.CONTROLLER, addresses)
    keys.install_client(files / "etc")
    if authority is not None:
        pki.install(authority, files / "etc", layout.CONTROLLER, addresses[layout.CONTROLLER])
    for directory in (etc.MACHINE_ETC, *CONTROLLER_ENVIRONMENT.values()):
        (files / directory.lstrip("/")).mkdir(parents=True)


def open_controller(lab_directory: Path, switch: Cell, rate: int | None) -> Cell:
    """Start the controller seat. ``rate`` caps its uplink in bytes per second."""
    cell = Cell.create(layout.CONTROLLER, within=switch, environment=CONTROLLER_ENVIRONMENT)
    _connect(switch, cell)
    if rate is not None:
        network.set_rate(switch, cell, rate)
    files = lab_directory / layout.CONTROLLER
    cell.run(["sh", "-c", _HIDE, "sh", str(files), str(lab_directory.parent), etc.MACHINE_ETC])
    return cell


def _connect(switch: Cell, cell: Cell) -> None:
    network.plug(switch, cell)
    network.configure_seat(cell)
