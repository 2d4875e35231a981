"""Proving a host off: its devices are told what the decision says, one controller at a time, and each order is written
down before it is given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mudanza.availability.fence_agents import Agents
from mudanza.availability.fencing import Command, next_step
from mudanza.availability.fencing import Verdict as Ending
from mudanza.availability.matching import Identity, matched
from mudanza.journal.database import Database
from mudanza.journal.duty import DutyHandle
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.fences import Fences, fences_of_one
from mudanza.model.errors import BlockedError, NeedsPersonError, UsageError
from mudanza.model.fencing import By, Device, Fencing, Order, Reply
from mudanza.model.machine import Comparison, Verdict

Answers = Callable[[str], bool]
"""Whether a host answers just now."""


class Fencer:
    """Has hosts switched off by their devices, and says whether that is proven."""

    def __init__(
        self,
        database: Database,
        agents: Agents,
        answers: Answers,
        say: Callable[[str], None],
        identity: Identity | None = None,
    ) -> None:
        """``identity``: says which machine a host is; None: devices are not compared."""
        self._database = database
        self._fences = Fences(database)
        self._agents = agents
        self.answers = answers
        self._say = say
        self._identity = identity

    def test(self, host: str) -> tuple[Reply, ...]:
        """Ask each of a host's devices whether its power is on; nothing is switched. Raises UsageError."""
        return tuple(self._agents.tell(device, Order.STATUS) for device in self._devices(host))

    def match(self, host: str) -> tuple[tuple[Device, Comparison], ...]:
        """Compare the machine behind each of a host's devices with the host, and write down what came of it. Raises
        UsageError."""
        if self._identity is None:
            return ()
        found = []
        for device in self._devices(host):
            comparison = matched(self._agents, self._identity, host, device)
            self._fences.matched(host, device.name, comparison)
            found.append((device, comparison))
        return tuple(found)

    def off(self, host: str, asked_by: str, silent: float | None = None) -> Fencing:
        """Switch a host off and prove it; return the proof. ``silent``: seconds for which nothing of it has answered.
        A level with a device that switches another machine is left out.

        Raises UsageError where it has no device, or one that cannot be spoken to; BlockedError while another controller
        fences it; NeedsPersonError where it is not proven, whatever was ordered.
        """
        devices = self._its_own(host)
        for device in devices:
            self._agents.check(device)
        right = fences_of_one(self._database, host).take()
        number = self._fences.begin(host, By.DEVICES, asked_by, silent)
        try:
            verdict = self._carried_out(host, devices, number, right)
            self._fences.ended(number, verdict.said, proven=verdict.proven)
        finally:
            with suppress(LeaseLostError, JournalLostError):  # then nobody has to wait for it
                right.let_go()
        if not verdict.proven:
            raise _unproven(host, verdict.said)
        return self._proof(host)

    def confirm(self, host: str, asked_by: str) -> Fencing:
        """Take a person's word for it that a host is off; return the proof. Raises BlockedError where it answers."""
        if self.answers(host):
            raise BlockedError(
                f"host {host} is not off: it answers", remedy=f"switch it off first: mudanza fence off {host}"
            )
        number = self._fences.begin(host, By.PERSON, asked_by)
        self._fences.ended(number, f"{asked_by} has said so", proven=True)
        return self._proof(host)

    def _devices(self, host: str) -> tuple[Device, ...]:
        devices = self._fences.of(host)
        if not devices:
            raise UsageError(
                f"host {host} has no fence device: nothing can switch it off",
                remedy=f"name one: mudanza fence set {host} bmc --agent fence_ipmilan …; or, if you have switched it "
                f"off yourself: mudanza fence confirm {host}",
            )
        return devices

    def _its_own(self, host: str) -> tuple[Device, ...]:
        """Return the devices of those levels of which none is known to switch another machine. Raises
        NeedsPersonError where there is no such level."""
        devices, own = self._devices(host), self._fences.own(host)
        matches = self._fences.matches()
        wrong = {each.device: each for each in matches if each.host == host and each.verdict is Verdict.OTHER}
        for device in devices:
            if device.name in wrong:
                self._say(f"! {device.shown} is left out: {wrong[device.name].in_words}")
        if not own:
            raise _unproven(host, f"its devices switch another machine: {', '.join(sorted(wrong))}")
        return own

    def _carried_out(self, host: str, devices: tuple[Device, ...], number: int, right: DutyHandle) -> Ending:
        replies: list[Reply] = []
        while isinstance(step := next_step(devices, replies), Command):
            self._fences.note(number, f"{step.order.value} is ordered of {step.device.shown}", right)
            replies.append(self._told(step, right))
        if step.proven and self.answers(host):
            return Ending(False, f"{step.said}, and yet {host} answers: they switch another machine, or lie")
        return step

    def _told(self, step: Command, right: DutyHandle) -> Reply:
        def turn() -> None:
            with suppress(JournalLostError):  # an order that was given is not taken back by a journal that is away
                right.keep()

        try:
            reply = self._agents.tell(step.device, step.order, turn)
        except UsageError as error:
            reply = Reply(step.device.name, step.order, None, str(error))
        words = reply.power.value if step.order is Order.STATUS else "done" if reply.done else "not done"
        self._say(f"{step.device.shown}: {step.order.value}: {words}" + (f" ({reply.said})" if reply.said else ""))
        return reply

    def _proof(self, host: str) -> Fencing:
        proof = self._fences.proof_of(host)
        if proof is None:  # somebody saw it alive in this very moment
            raise _unproven(host, "it was seen alive just now")
        return proof


def _unproven(host: str, why: str) -> NeedsPersonError:
    return NeedsPersonError(
        f"host {host} is not proven off: {why}",
        vm_state="its VMs may be running there; nothing was started elsewhere",
        remedy=f"look at its power; if it is off for certain: mudanza fence confirm {host}",
    )
