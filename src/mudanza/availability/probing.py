"""Whether what switches hosts' power could do so: each device is asked from time to time, and nothing is switched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from mudanza.availability.fencer import Fencer
from mudanza.availability.fencing import due_for_test, fault_of, standing
from mudanza.hypervisor.bounded import Task
from mudanza.journal.errors import JournalLostError
from mudanza.journal.fences import Fences
from mudanza.model.errors import UsageError
from mudanza.model.fencing import Device
from mudanza.model.machine import Verdict


class Prober:
    """Tests the fence devices of hosts that answer, beside whatever else is done."""

    def __init__(self, fences: Fences, fencer: Fencer, every: float, say: Callable[[str], None]) -> None:
        """``every``: seconds between two tests of one device; 0: they are not tested."""
        self._fences = fences
        self._fencer = fencer
        self._every = every
        self._say = say
        self.under_way: Task[None] | None = None
        """What asks just now, or did last."""

    def turn(self, alive: Collection[str]) -> None:
        """Begin to ask those whose time has come, unless some are being asked; wait for nobody."""
        if not self._every or (self.under_way is not None and not self.under_way.ended):
            return
        hosts = due_for_test(self._fences.devices(), self._fences.tests(), alive, self._every)
        self.under_way = Task(lambda: self._test(hosts)) if hosts else None

    def _test(self, hosts: Sequence[str]) -> None:
        for host in hosts:
            with suppress(JournalLostError):  # then they are asked again
                for device, fault in self._asked(host):
                    if self._fences.tested(host, device, fault):
                        self._say(f"{'! ' if fault else ''}{device.shown} of {host} {fault or 'answers again'}")

    def _asked(self, host: str) -> list[tuple[Device, str]]:
        """Ask each device of a host; return why nothing could be proven by it, or nothing."""
        devices = self._fences.of(host)
        try:
            replies = self._fencer.test(host)
        except UsageError as error:
            return [(device, f"cannot be asked: {error}") for device in devices]
        lives = self._fencer.answers(host)  # it may have died since
        others = {
            device.name: f"switches another machine: {found.said}"
            for device, found in (self._fencer.match(host) if lives else ())
            if found.verdict is Verdict.OTHER
        }
        return [
            (device, fault_of(power, said, answers=lives) or others.get(device.name, ""))
            for device, power, said in standing(devices, replies)
        ]
