"""Who plays in the cells: a guest that moves about from cell to cell, and VMs of one cell each."""

from __future__ import annotations

from contextlib import ExitStack, suppress

from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError
from tests.lab.command import Mudanza
from tests.lab.conftest import know_by_ssh
from tests.lab.matrix.cells import Cell
from tests.lab.matrix.faults import FAULTS
from tests.lab.matrix.playing import Player, Seen
from tests.lab.matrix.subjects import LiveSubject, cold_subject, live_subject

CARRIED, LIGHT = 24, 4
"""MiB of each file of a VM that is off: enough to be caught on the way, and enough to be carried at all."""


class Cast:
    """The VMs of one lab. The guest is made anew after a cell that went wrong."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stack = ExitStack()
        self._guest: LiveSubject | None = None

    def play(self, cell: Cell) -> Seen:
        """Play a cell. Raises AssertionError where it does not come out as it must."""
        mudanza = self._by_ssh() if FAULTS[cell.fault].by_network else Mudanza(self._lab)
        if cell.cold:
            mib = CARRIED if cell.moment in ("carrying", "preparing") else LIGHT
            with cold_subject(self._lab, mib=mib, running=cell.kind == "cold, running") as subject:
                return _played(Player(cell, self._lab, mudanza, subject))
        try:
            return _played(Player(cell, self._lab, mudanza, self._the_guest()))
        except BaseException:
            with suppress(LabError):  # what was broken may be broken still, and that is not what went wrong first
                self.dismiss()
            raise

    def _by_ssh(self) -> Mudanza:
        seat = self._lab.directory / "by-ssh"
        seat.mkdir(exist_ok=True)
        return know_by_ssh(self._lab, seat)

    def _the_guest(self) -> LiveSubject:
        if self._guest is None:
            self._guest = self._stack.enter_context(live_subject(self._lab))
        return self._guest

    def dismiss(self) -> None:
        """Take the guest away."""
        stack, self._stack, self._guest = self._stack, ExitStack(), None
        stack.close()


def _played(player: Player) -> Seen:
    seen = player.play()
    player.repeat()
    return seen
