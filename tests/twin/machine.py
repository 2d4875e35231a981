"""One VM, two or three hosts, and everything that can happen to a move of it: a model that hypothesis plays against."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from random import Random
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from mudanza.journal.jobs import LEASE, LONGEST_CALL
from mudanza.migration import hooks
from mudanza.model.migration import MigrationOptions, Mode, Verify
from mudanza.model.units import MIB
from tests.twin.hooking import HOOKS, MANNERS, Programs
from tests.twin.promises import CALLS, FOREIGN, Promises
from tests.twin.scene import IMAGES, SHARED, put_image, scene

WEB = str(uuid.uuid5(uuid.NAMESPACE_DNS, "web"))
"""The UUID of the model's VM."""
ANSWERS = (
    *(f"answer {call} web-0.qcow2" for call in ("create volume", "delete volume")),
    *(f"answer {call} {WEB}" for call in ("define", "undefine", "start", "destroy", "resume", "set autostart")),
)
"""Something is done, and whoever had it done does not know yet."""
INSTANTS = (
    "before intend create volume",
    "after intend create volume",
    "before done",
    "before intend transfer",
    "after intend transfer",
    "before intend settle",
    "after intend settle",
    "before intend delete volume",
    "after intend delete volume",
    "before finish",
    "before intend define",
    "after intend define",
    "before intend carry",
    "after intend carry",
    "before intend compare",
    "before intend release source",
    "after intend release source",
    "before intend start",
    "after intend start",
    "after intend shut down",
    "before intend disarm",
    *(f"hook {name}" for name in ("ask before", "dns before", "dns before has", "dns after", "told failure")),
    *ANSWERS,
    *(
        f"phase {phase} of {what}"
        for what in ("web", "mudanza-carrier")
        for phase in ("PREPARED", "DISKS", "MEMORY", "STOPPED", "HANDED_OVER", "FINISHING", "CONFIRMED")
    ),
)
_LIVE_INSTANTS = tuple(each for each in INSTANTS if each.endswith("of web"))


TROUBLES: dict[str, tuple[str, dict[str, Any]]] = {
    "controller killed": ("kill_controller", {}),
    "controller asleep": ("stop_controller", {"seconds": 400.0}),
    "way cut": ("cut", {}),
    **{f"{host} dead": ("kill_host", {"host": host}) for host in ("h1", "h2")},
    **{f"{host} isolated": ("isolate", {"host": host}) for host in ("h1", "h2")},
    **{f"{host} libvirtd killed": ("kill_libvirtd", {"host": host, "seconds": 2.0}) for host in ("h1", "h2")},
    **{f"{host} QEMU killed": ("kill_qemu", {"host": host}) for host in ("h1", "h2")},
}
"""What befalls a move at an instant: rules with their arguments."""
SWITCHOVER = ("STOPPED", "HANDED_OVER", "FINISHING")
"""Phases in which a VM changes its host."""


class World(Promises):
    """The model."""

    # The beginning.

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        shared=st.booleans(),
        disks=st.sampled_from([1, 1, 2]),
        run=st.sampled_from([True, True, False]),
        autostart=st.booleans(),
        rate=st.sampled_from([4, 64, 1]),
    )
    def begin(self, seed: int, shared: bool, disks: int, run: bool, autostart: bool, rate: int) -> None:
        self.the = self._stack.enter_context(scene(Random(seed).randrange, self.folder, hosts=2))
        self.twin = self.the.twin
        self.twin.rate = rate * MIB
        self.twin.strangers.add("stranger")
        self.programs = Programs(self.twin, lambda: tuple(home.host for home in self.homes()))
        self._stack.enter_context(patch.object(hooks, "run", self.programs.run))
        self.the.on_finish = self._note_end
        self.twin.on_order = self._note_order
        for host in self.twin.hosts.values():
            put_image(host, FOREIGN)
        self.vm = self.the.make_vm("web", "h1", shared=shared, disks=disks, run=run, autostart=autostart)
        self.paths = [f"{SHARED if shared else IMAGES}/web-{n}.qcow2" for n in range(disks)]
        self.shared = shared
        self.wants_to_run, self.autostart = run, autostart
        self.disks = disks
        self.twin.scheduler.advance(seconds=2)

    # The operator.

    @precondition(lambda self: not self.at_work)
    @rule(ask=st.sampled_from(MANNERS), dns=st.sampled_from(MANNERS), told=st.sampled_from(MANNERS))
    def give_it_hooks(self, ask: str, dns: str, told: str) -> None:
        """Have hooks in the controllers' settings from now on, and their programs behave like that."""
        self.the.hooks = HOOKS
        self.programs.manners = {"ask": ask, "dns": dns, "told": told}

    @precondition(lambda self: not self.at_work)
    @rule(
        mode=st.sampled_from([Mode.AUTO, Mode.AUTO, Mode.COLD]),
        keep=st.sampled_from([False, False, True]),
        verify=st.sampled_from([Verify.FULL, Verify.FULL, Verify.NONE]),
        calm=st.sampled_from([True, True, True, False]),
        instant=st.sampled_from((*INSTANTS, *_LIVE_INSTANTS, "")),
    )
    def migrate(self, mode: Mode, keep: bool, verify: Verify, calm: bool, instant: str) -> None:
        """Begin to move it, in a world that is ``calm`` or not, and stop at an instant."""
        if calm:
            self._recover()
        self._migrate(MigrationOptions(mode=mode, keep_source=keep, verify=verify, shutdown_limit=30.0))
        if instant:
            self.run_to(instant)

    @precondition(lambda self: self.at_work)
    @rule()
    def migrate_it_a_second_time_meanwhile(self) -> None:
        self._migrate(MigrationOptions())

    def _migrate(self, wishes: MigrationOptions) -> None:
        target = "h2" if self._place() == "h1" else "h1"
        if not self.at_work:
            self.fell.clear()
        attempt = self.the.migrate(self.vm, target, wishes)
        self.twin.note(f"{attempt.controller.name} is to move it to {target}: {wishes.mode} keep={wishes.keep_source}")

    def _place(self) -> str:
        homes = self.homes()
        return homes[0].host if homes else "h1"

    @precondition(lambda self: not self.at_work)
    @rule(
        phase=st.sampled_from(SWITCHOVER),
        first=st.sampled_from(sorted(TROUBLES)),
        second=st.sampled_from(sorted(TROUBLES)),
        taken_over=st.booleans(),
    )
    def two_troubles_at_the_switchover(self, phase: str, first: str, second: str, taken_over: bool) -> None:
        """Who may be believed is decided within a moment, in which rules that are drawn one by one hardly ever meet."""
        self._recover()
        self._migrate(MigrationOptions())
        if not self.run_to(f"phase {phase} of web"):
            return
        self.twin.scheduler.advance(seconds=0.05)
        for trouble in (first, second):
            rule_name, arguments = TROUBLES[trouble]
            if self._alive() or "controller" not in trouble:
                getattr(self, rule_name)(**arguments)
        if taken_over:
            self._let_pass(LEASE + 1)
            if self._open_jobs():
                self.resume()

    @precondition(lambda self: self.at_work)
    @rule()
    def resume(self) -> None:
        job = self._open_jobs()[0]
        attempt = self.the.resume(job.id)
        self.twin.note(f"{attempt.controller.name} is to go on with job {job.id}")

    @precondition(lambda self: self._alive())
    @rule()
    def press_ctrl_c(self) -> None:
        for attempt in self._alive():
            if attempt.stop is not None:
                attempt.stop.set()

    @precondition(lambda self: self.at_work)
    @rule()
    def ask_to_cancel(self) -> None:
        self.the.jobs.ask_to_cancel(self._open_jobs()[0].id, "somebody")

    # Time.

    @rule(points=st.integers(1, 400))
    def a_little_later(self, points: int) -> None:
        self.twin.scheduler.advance(points=points)

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0, LEASE + 1, LEASE + LONGEST_CALL + 5]))
    def later(self, seconds: float) -> None:
        self._let_pass(seconds)

    @precondition(lambda self: self._alive())
    @rule(instant=st.sampled_from(INSTANTS))
    def at_the_instant(self, instant: str) -> None:
        self.run_to(instant)

    def run_to(self, instant: str, limit: float = 400.0) -> bool:
        """Let time pass until something of that name happens; return whether it did."""
        seen: list[str] = []

        def look(label: str) -> None:
            if label.startswith(instant):
                seen.append(label)
                self.twin.scheduler.halt()

        self.twin.scheduler.on_point = self.twin.on_note = look
        until = self.twin.scheduler.now + limit
        try:
            while not seen and self._alive() and self.twin.scheduler.now < until:
                self.twin.scheduler.advance(points=20_000, seconds=limit)
        finally:
            self.twin.scheduler.on_point = self.twin.on_note = lambda _label: None
        return bool(seen)

    # What befalls controllers.

    @precondition(lambda self: self._alive())
    @rule()
    def kill_controller(self) -> None:
        for attempt in self._alive():
            self.twin.kill(attempt.controller)

    @precondition(lambda self: self._alive())
    @rule(seconds=st.sampled_from([3.0, 45.0, 400.0]))
    def stop_controller(self, seconds: float) -> None:
        self.twin.scheduler.stop(self._alive()[0].controller, seconds)

    # What befalls hosts.

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]))
    def kill_host(self, host: str) -> None:
        self.troubled_at = self.twin.scheduler.now
        self.disturbed.add("host")
        self.fell.add(host)
        self._host(host).power_off()

    @rule(host=st.sampled_from(["h1", "h2"]))
    def host_returns(self, host: str) -> None:
        self.troubled_at = self.twin.scheduler.now
        self._host(host).power_on()

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]))
    def isolate(self, host: str) -> None:
        self.troubled_at = self.twin.scheduler.now
        self._host(host).isolated = True
        self.twin.world_changed(self._host(host))

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]), seconds=st.sampled_from([None, 0.3, 2.0, 40.0]))
    def kill_libvirtd(self, host: str, seconds: float | None) -> None:
        self.troubled_at = self.twin.scheduler.now
        self._host(host).stop_libvirtd()
        if seconds is not None:
            self.twin.scheduler.after(seconds, self._host(host).start_libvirtd)

    @precondition(lambda self: self.at_work)
    @rule()
    def cut(self) -> None:
        self.troubled_at = self.twin.scheduler.now
        self.twin.cut("h1", "h2")

    @rule()
    def heal(self) -> None:
        self.troubled_at = self.twin.scheduler.now
        self.twin.heal()
        for host in self.twin.hosts.values():
            host.start_libvirtd()

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]))
    def kill_qemu(self, host: str) -> None:
        domain = self._host(host).domains.get(self.vm)
        if domain is not None and domain.is_active:
            self.disturbed.add("qemu")
            self.fell.add(host)
            self._host(host).qemu_died(domain)

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]), call=st.sampled_from(CALLS))
    def lose_answer(self, host: str, call: str) -> None:
        self.twin.lose_answer(host, call)

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]))
    def fill_disk(self, host: str) -> None:
        self.troubled_at = self.twin.scheduler.now
        self._host(host).own.is_full = True

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]))
    def refuse_logins(self, host: str) -> None:
        self.troubled_at = self.twin.scheduler.now
        self._host(host).refuses_logins = True

    # What a stranger does by hand. What no tool could do without looking he does not do either.

    @precondition(lambda self: not self.twin.oracle.runs_on(self.vm) and self.homes())
    @rule()
    def stranger_starts_it(self) -> None:
        self._by_hand(self._place(), lambda line: line.lookupByUUIDString(self.vm).create())

    @precondition(lambda self: self.twin.oracle.runs_on(self.vm))
    @rule(hard=st.booleans())
    def stranger_stops_it(self, hard: bool) -> None:
        host = self.twin.oracle.runs_on(self.vm)[0]

        def stop(line: Any) -> None:
            domain = line.lookupByUUIDString(self.vm)
            domain.destroy() if hard else domain.shutdown()

        self._by_hand(host, stop)

    @precondition(lambda self: self.homes())
    @rule()
    def stranger_defines_it_elsewhere(self) -> None:
        """As somebody does who thinks that it is to run there."""
        place = self._place()
        domain = self._host(place).domains.get(self.vm)
        if domain is not None and domain.definition is not None:
            xml = domain.definition
            self._by_hand("h2" if place == "h1" else "h1", lambda line: line.defineXML(xml))

    def _by_hand(self, host: str, act: Callable[[Any], Any]) -> None:
        self.disturbed.add("stranger")
        there = self._host(host)
        if not there.answers or not self.twin.reachable(there) or there.refuses_logins:
            return

        def doing() -> None:
            line = self.twin.open(f"qemu+tls://{host}/system")
            try:
                act(line)
            except Exception as error:
                self.twin.note(f"the stranger was told: {error}")
            finally:
                line.close()

        self.the.do(doing)
