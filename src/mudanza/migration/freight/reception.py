"""A carrier's end at the target, begun before libvirt is through with it at the source."""

from __future__ import annotations

from contextlib import suppress

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.carrier import END_TIMEOUT, Carrier
from mudanza.model.errors import MudanzaError

LOOK_EVERY = 0.04
"""Seconds between two looks at the target."""


class Reception:
    """Ends a carrier at the target as soon as it has come in there.

    libvirt takes 0.2 s and more to end a QEMU, first at the source, and only then can anybody hear that all went well.
    """

    def __init__(self, carrier: Carrier, target: HostConnection) -> None:
        self._carrier = carrier
        self._target = target
        self._prepared = False
        self._over = clock.new_event()
        self._task: Task[None] | None = None
        self.has_come_in = False
        """Whether the target has said that it has all of it."""

    def prepare(self) -> None:
        """Have a line to the target for it, now that something is on its way: the others are needed for what follows.
        Repeatable."""
        if not self._prepared:
            self._prepared = True
            self._target.open_further_line()

    def begin(self) -> None:
        """Begin to look, now that all is there but libvirt's last word. Repeatable."""
        if self._task is None:
            self._task = Task(self._receive)

    @property
    def has_begun(self) -> bool:
        """Whether it looks, or has looked, at the target."""
        return self._task is not None

    def stop(self) -> None:
        """Look no more; an end that has begun goes on."""
        self._over.set()

    def end(self) -> tuple[str, ...]:
        """Have the carrier ended at both hosts; see ``Carrier.end``."""
        if self._task is not None:
            with suppress(MudanzaError, TimeoutError):  # it is tried again
                self._task.wait(END_TIMEOUT)
        return self._carrier.end()

    def _receive(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            if self._carrier.has_come_in():
                self.has_come_in = True
                self._carrier.end_at_target()
                return
