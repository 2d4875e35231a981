"""One connection of a controller to a host's libvirt: what is asked, what is ordered, and what gets lost."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

import libvirt

from mudanza.hypervisor.twin import errors
from mudanza.hypervisor.twin.processes import Process
from mudanza.hypervisor.twin.threads import Controller
from mudanza.hypervisor.twin.waiting import SimEvent

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.host import TwinHost
    from mudanza.hypervisor.twin.world import Twin

ON_ITS_WAY = 0.001
"""Seconds that a question or an answer is on its way."""
SILENCE = 20.0
"""Seconds without a sign of life after which a connection counts as lost: 5 s, 3 times, and the first one."""

Result = TypeVar("Result")


class Line:
    """A connection. Each call is a scheduling point, before it gets there and while its answer is on its way."""

    def __init__(self, twin: Twin, host: TwinHost, controller: Controller) -> None:
        self.twin = twin
        self.host = host
        self.controller = controller
        self.broken: libvirt.libvirtError | None = None
        self._is_stale = False
        self._wakes: list[SimEvent] = []
        host.lines.add(self)

    @property
    def stands(self) -> bool:
        """Whether it is open as far as this side knows."""
        return self.broken is None and not (self._is_stale and self.twin.reachable(self.host))

    def ask(self, name: str, work: Callable[[], Result]) -> Result:
        """Return what libvirt finds out at once. Raises what it raises, and libvirtError where it cannot be asked."""
        with self.twin.scheduler.in_a_call():
            self._get_through(name)
            self.twin.scheduler.sleep(ON_ITS_WAY)
            self._await(lambda: True)
            self._enter()
            return work()

    def order(self, name: str, work: Callable[[], Any], what: str = "") -> Any:
        """Have libvirt do something to ``what``; it does so also if nobody waits for the answer any more.

        ``work`` returns the result, or a process of which it is the result.
        """
        with self.twin.scheduler.in_a_call():
            return self._order(name, work, what)

    def _order(self, name: str, work: Callable[[], Any], what: str) -> Any:
        self._get_through(name)
        self.twin.on_order(self.controller, name, what)
        answer: list[tuple[Any, BaseException | None]] = []

        def answered(result: Any, failure: BaseException | None) -> None:
            if self.twin.loses(self.host.name, name):
                self.break_off(errors.hung_up())
            answer.append((result, failure))
            self.look_again()

        self.host.serve(self._serve(work), answered)
        self._await(lambda: bool(answer))
        self.twin.scheduler.point(f"answer {name} {what}")
        result, failure = answer[0]
        if failure is not None:
            raise failure
        return result

    def _serve(self, work: Callable[[], Any]) -> Process:
        yield ON_ITS_WAY
        self._enter()
        found = work()
        if not isinstance(found, Generator):
            return found
        try:
            while True:
                try:
                    delay = next(found)
                except StopIteration as end:
                    return end.value
                yield delay
                self._enter()
        finally:
            found.close()

    def _enter(self) -> None:
        self.twin.catch_up()
        self.twin.actor = self.controller.name

    def _get_through(self, name: str) -> None:
        self.twin.scheduler.point(f"call {name}")
        self._await(lambda: True)

    def _await(self, is_over: Callable[[], bool]) -> None:
        """Wait for an answer, or until the connection is lost."""
        while True:
            if self._is_stale and self.twin.reachable(self.host):
                self.break_off(errors.hung_up())
            if self.broken is not None:
                raise self.broken
            is_silent = not self.twin.reachable(self.host)
            if is_over() and not is_silent:
                return
            wake = self.twin.scheduler.new_event()
            self._wakes.append(wake)
            if not wake.wait(SILENCE if is_silent else None) and not self.twin.reachable(self.host):
                self.break_off(errors.silence())

    def look_again(self) -> None:
        """Wake whoever waits for an answer on it."""
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake.set()

    def break_off(self, error: libvirt.libvirtError, *, at_once: bool = True) -> None:
        """The other end is gone. ``at_once``: this end is told, else it finds out."""
        if at_once:
            self.broken = self.broken or error
        self._is_stale = True
        self._let_go()
        self.look_again()

    def close(self) -> None:
        """Hang up."""
        self.broken = self.broken or errors.hung_up()
        self._let_go()
        self.look_again()

    def _let_go(self) -> None:
        self.host.lines.discard(self)
        for domain in list(self.host.domains.values()):
            if domain.owner is self and self.host.answers:
                self.host.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED)
