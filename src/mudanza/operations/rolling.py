"""Maintenance that rolls over hosts: one is emptied, a command is run on it, it gets well and gets its VMs back; then
the next. It stops at the first fault, with everything running, and goes on from what is so.

How far each host is, is written down before anything is done to it. Emptying and bringing back are plans, which go on
by themselves; the command runs at its host whether its controller lives or not. So whoever goes on looks first.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.fleet.draining import in_the_way
from mudanza.fleet.rolling import Next, Verdict, as_before, decide, unwell
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.host_command import MOST_AT_ONCE, HostCommand, seen_or_none
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.plans import Plans
from mudanza.journal.rollings import Rollings
from mudanza.model.carrying import BRINGING_HOME, ENTERING, CannotGo, Run
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
)
from mudanza.model.rolling import CommandState, Lap, Order, Rolling, RollingState, Seen, Stage
from mudanza.operations import maintenance
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.handed_on import ControllerEndsError, NeverHalt
from mudanza.operations.rolling_kept import command_of, keeping, on_duty
from mudanza.planning.homecoming import way_home

if TYPE_CHECKING:
    from mudanza.journal.duty import DutyHandle
    from mudanza.model.cluster import Cluster
    from mudanza.model.host import Host, HostEntry
    from mudanza.operations.handed_on import Carrying, Halt
    from mudanza.operations.means import Means, Say

LOOK_EVERY = 2.0
"""Seconds between two looks at a command that runs."""
WELL_EVERY = 3.0
"""Seconds between two looks whether a host is as it was."""


class Roller:
    """Has maintenance roll over hosts."""

    def __init__(
        self,
        means: Means,
        carrying: Carrying,
        asked_by: str,
        say: Say,
        tell: Callable[[Rolling], None] = lambda _: None,
        command: Callable[[HostEntry, str], HostCommand] = HostCommand,
        halt: Halt | None = None,
        ordered: int | None = None,
    ) -> None:
        """``tell`` is told how the whole stands before each step. ``halt``: wanted to stop, it does once moves that are
        under way have ended; where its controller is about to end, it is left as it is. ``ordered``: the order of a
        daemon's by which it is done."""
        self._means = means
        self._carrying = carrying
        self._asked_by = asked_by
        self._say = say
        self._tell = tell
        self._new_command = command
        self._halt = halt or NeverHalt()
        self._ordered = ordered
        self._heard = clock.monotonic()
        self._rollings = Rollings(means.database)
        self._plans = Plans(means.database)

    def begin(self, order: Order) -> Rolling:
        """Carry out an order; return how it stands when all is done, or it has stopped.

        Raises BlockedError while another controller has maintenance roll; LeaseLostError, JournalLostError.
        """
        with on_duty(self._rollings) as duty:
            return self._roll(self._rollings.begin(order, self._asked_by, duty, self._ordered), duty)

    def resume(self, number: int, *, skip: bool = False) -> Rolling:
        """Go on with one that has stopped, or whose controller is gone. ``skip``: without the command at the host where
        it stands. Raises UsageError where it has ended, and what ``begin`` raises."""
        with on_duty(self._rollings) as duty:
            self._rollings.go_on(number, duty, self._ordered)
            lap = self._rollings.get(number).current
            if skip and lap is not None and lap.stage in (Stage.EMPTYING, Stage.COMMAND):
                self._refuse_running_command(number, lap)
                self._command(number, lap).forget()
                self._rollings.enter(number, lap.n, Stage.HEALING, duty)
            return self._roll(number, duty)

    def take_up(self, number: int, duty: DutyHandle) -> Rolling:
        """Go on with one whose controller is gone; ``duty`` is had already. Who wants it stopped does so still. Raises
        UsageError where it does not run any more, LeaseLostError, JournalLostError."""
        with keeping(duty):
            self._rollings.taken_up(number, self._ordered, duty)
            self._say(f"rolling maintenance {number} is gone on with here")
            return self._roll(number, duty)

    def _roll(self, number: int, duty: DutyHandle) -> Rolling:
        steps = {
            Stage.WAITING: self._look_before,
            Stage.EMPTYING: self._empty,
            Stage.COMMAND: self._mind_command,
            Stage.HEALING: self._await_health,
            Stage.RETURNING: self._bring_home,
        }
        while (lap := (found := self._rollings.get(number)).current) is not None:
            self._tell(found)
            try:
                self._refuse_leaving()
                self._refuse_unwanted(found, lap)
                steps[lap.stage](found, lap, duty)
            except (LeaseLostError, JournalLostError):
                raise
            except ControllerEndsError:
                raise _left(found, lap) from None
            except KeyboardInterrupt:
                still = "; its command goes on there" if lap.stage is Stage.COMMAND else ""
                self._rollings.stop(number, lap.n, f"{lap.host}: it was interrupted here{still}", duty)
                return self._rollings.get(number)
            except MudanzaError as error:
                self._rollings.stop(number, lap.n, f"{lap.host}: {error}", duty)
                return self._rollings.get(number)
        self._rollings.finish(number, RollingState.DONE, f"{len(found.laps)} hosts are done", duty)
        return self._rollings.get(number)

    def _refuse_unwanted(self, found: Rolling, lap: Lap) -> None:
        """Raise MigrationFailedError where somebody wants it stopped. A command is waited for, unless whoever has begun
        all of it waits no longer: then it goes on at its host, and is looked for there by whoever goes on."""
        wish = self._halt.stop_by or (found.wish_by if lap.stage is not Stage.COMMAND else "")
        if wish:
            still = "; its command goes on there" if lap.stage is Stage.COMMAND and lap.begun else ""
            raise MigrationFailedError(f"{wish} wanted it stopped{still}")

    def _refuse_leaving(self) -> None:
        if self._halt.leaving:
            raise ControllerEndsError("this controller ends")

    # The steps. Each looks first, and can be done again.

    def _look_before(self, found: Rolling, lap: Lap, duty: DutyHandle) -> None:
        host = self._seen(lap.host)
        if not host.seen:
            raise BlockedError(f"it was not seen: {host.error}")
        before = as_before(host, closed=host.entry.maintenance)
        self._rollings.enter(found.id, lap.n, Stage.EMPTYING, duty, before=before)

    def _empty(self, found: Rolling, lap: Lap, duty: DutyHandle) -> None:
        self._finish_left(ENTERING, lap.host)
        order = found.order
        wanted = maintenance.enter(
            self._means, lap.host, order.cannot_go, order.policy, self._say, lambda _: CannotGo.REFUSE
        )
        if wanted.still_on:
            raise MigrationFailedError(f"{wanted.still_on} VMs were to be shut down, and are still on")
        if wanted.plan.moves:
            _refuse_unfinished(self._carrying.carry_out(wanted))
        if order.cannot_go is not CannotGo.STAY:
            self._refuse_running(lap.host)
        self._refuse_running_command(found.id, lap)
        boot = self._command(found.id, lap).prepare(order.text)
        self._heard = clock.monotonic()
        afresh = {"begun_at": None, "exit_code": None, "output": "", "taken": 0}
        self._rollings.enter(found.id, lap.n, Stage.COMMAND, duty, boot=boot, **afresh)

    def _mind_command(self, found: Rolling, lap: Lap, duty: DutyHandle) -> None:
        command = self._command(found.id, lap)
        seen = seen_or_none(command, lap.taken)
        self._heard = clock.monotonic() if seen is not None else self._heard
        if seen is not None and self._take(found, lap, seen, duty):
            return
        verdict = decide(found.order, lap, seen, clock.monotonic() - self._heard)
        match verdict.next:
            case Next.BEGIN:
                self._begin(found, lap, command, duty)
            case Next.WAIT:
                clock.sleep(LOOK_EVERY)
            case Next.AGAIN:
                self._say(f"{lap.host}: {verdict.said}")
                self._until_well(found, lap)
                self._rollings.enter(found.id, lap.n, Stage.EMPTYING, duty)
            case Next.GO_ON:
                self._say(f"{lap.host}: {verdict.said}")
                self._rollings.ended(found.id, lap.n, seen.exit_code if seen is not None else None, duty)
                self._rollings.enter(found.id, lap.n, Stage.HEALING, duty)
                command.forget()
            case Next.SILENT:
                raise MigrationFailedError(verdict.said)
            case Next.END | Next.FAULT:
                self._fail(found, lap, command, seen, verdict, duty)

    def _begin(self, found: Rolling, lap: Lap, command: HostCommand, duty: DutyHandle) -> None:
        """Begin a command; where nobody says whether that was done, it is looked for. Raises HypervisorError and
        HostUnreachableError where it was not."""
        try:
            command.begin(found.order.interpreter)
        except (HypervisorError, HostUnreachableError) as error:
            seen = seen_or_none(command, lap.taken)
            if seen is not None and seen.state is CommandState.READY and seen.boot == lap.boot:
                raise
            self._say(f"{lap.host}: {error}; whether its command has begun is looked for there")
            return
        self._rollings.begun(found.id, lap.n, duty)

    def _take(self, found: Rolling, lap: Lap, seen: Seen, duty: DutyHandle) -> bool:
        """Write down what a command has printed since; return whether there is more to be read at once."""
        has_begun = seen.state not in (CommandState.ABSENT, CommandState.READY)
        if has_begun and not lap.begun and seen.boot == lap.boot:
            self._rollings.begun(found.id, lap.n, duty)  # by one that died before it could write that down
            return True
        if not seen.output:
            return False
        text, size = whole(seen.output, last=seen.state is not CommandState.RUNS)
        for line in text.splitlines():
            self._say(f"{lap.host} | {line}")
        self._rollings.printed(found.id, lap, text, size, duty)
        return len(seen.output) == MOST_AT_ONCE

    def _fail(
        self, found: Rolling, lap: Lap, command: HostCommand, seen: Seen | None, verdict: Verdict, duty: DutyHandle
    ) -> None:
        """Raise what is the matter with a command, once it does not run any more; gone on with, it is begun anew."""
        if verdict.next is Next.END:
            command.stop()
        self._rollings.ended(found.id, lap.n, seen.exit_code if seen is not None else None, duty)
        self._rollings.enter(found.id, lap.n, Stage.EMPTYING, duty)
        raise MigrationFailedError(verdict.said)

    def _await_health(self, found: Rolling, lap: Lap, duty: DutyHandle) -> None:
        assert lap.before is not None
        self._until_well(found, lap)
        if not lap.before.closed:
            self._check_way_home(found.order, lap.host)
        self._rollings.enter(found.id, lap.n, Stage.RETURNING, duty)

    def _until_well(self, found: Rolling, lap: Lap) -> None:
        """Wait until a host is as it was. Raises MigrationFailedError where it is not in time, ControllerEndsError."""
        assert lap.before is not None
        until = clock.monotonic() + found.order.healthy
        while why := unwell(lap.before, self._seen(lap.host)):
            if clock.monotonic() >= until:
                raise MigrationFailedError(f"it is not as it was before: {why}")
            self._refuse_leaving()
            clock.sleep(WELL_EVERY)

    def _check_way_home(self, order: Order, host: str) -> None:
        """Raise BlockedError where a VM could not come back as it left."""
        names = {uuid: name for uuid, (name, _) in self._plans.away_from(host).items()}
        with self._means.connections() as connections:
            judge, cluster = judge_of(self._means, connections, arrivals_of(self._means))
            cluster = _open(cluster, host)
            at_home = [vm.uuid for vm in cluster.vms_on(host)]
            plan = way_home(cluster, self._means.inventory.rules(), host, names, at_home)
            blocked = in_the_way(plan, cluster, judge)
        if blocked and order.cannot_go is not CannotGo.COLD:  # who went switched off comes so
            raise BlockedError(
                "VMs could not come back: " + "; ".join(f"{each.vm.name}: {each.why}" for each in blocked),
                findings=tuple(finding for each in blocked for finding in each.findings),
            )

    def _bring_home(self, found: Rolling, lap: Lap, duty: DutyHandle) -> None:
        assert lap.before is not None
        if not lap.before.closed:
            self._finish_left(BRINGING_HOME, lap.host)
            cold = found.order.cannot_go is CannotGo.COLD
            how = CannotGo.COLD if cold else CannotGo.STAY
            wanted = maintenance.leave(self._means, lap.host, how, found.order.policy, self._say)
            if wanted is not None and wanted.plan.moves:
                _refuse_unfinished(self._carrying.carry_out(wanted))
            if missing := [name for name, _ in self._plans.away_from(lap.host).values()]:
                raise MigrationFailedError(f"not back yet: {', '.join(missing)}")
        self._rollings.enter(found.id, lap.n, Stage.DONE, duty)

    # What they share.

    def _finish_left(self, kind: str, host: str) -> None:
        """Go on with a plan of that kind for a host that was begun earlier."""
        for run in self._plans.unfinished():
            if (run.kind, run.subject) == (kind, host):
                _refuse_unfinished(self._carrying.go_on(run.id))

    def _command(self, number: int, lap: Lap) -> HostCommand:
        return command_of(self._means, number, lap, self._new_command)

    def _refuse_running_command(self, number: int, lap: Lap) -> None:
        if self._command(number, lap).look(0).state is CommandState.RUNS:
            raise BlockedError("its command runs there still")

    def _refuse_running(self, host: str) -> None:
        with Connections([self._means.inventory.host(host)]) as connections:
            cluster = read_cluster(connections.entries, timeout=self._means.limits.read, connections=connections)
        if not cluster.host(host).seen:
            raise BlockedError(f"it was not seen: {cluster.host(host).error}")
        if running := [vm.name for vm in cluster.vms_on(host) if vm.state.active]:
            raise MigrationFailedError(f"there still run: {', '.join(running)}")

    def _seen(self, name: str) -> Host:
        with Connections([self._means.inventory.host(name)]) as connections:
            found = read_cluster(connections.entries, timeout=self._means.limits.read, connections=connections)
        return found.host(name)


def _left(found: Rolling, lap: Lap) -> ControllerEndsError:
    """Return what is told where a controller ends over it."""
    still = ", and its command goes on there" if lap.stage is Stage.COMMAND else ""
    return ControllerEndsError(
        f"this controller ends: rolling maintenance {found.id} is left at {lap.host}, which {lap.stage.value}{still}",
        vm_state="a plan that has begun goes on",
        remedy=f"the next daemon goes on with it; or: mudanza rolling --resume {found.id}",
    )


def whole(output: bytes, *, last: bool) -> tuple[str, int]:
    """Return the text that so many bytes are, without what may be the beginning of one more character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(output, final=last)
    return text, len(output) - len(decoder.getstate()[0])


def _open(cluster: Cluster, host: str) -> Cluster:
    """Return the cluster as it is once that host takes newcomers."""
    hosts = [
        replace(each, entry=replace(each.entry, maintenance=False)) if each.name == host else each
        for each in cluster.hosts
    ]
    return replace(cluster, hosts=tuple(hosts))


def _refuse_unfinished(run: Run) -> None:
    """Raise MigrationFailedError where a plan has not done all that it was to do."""
    if run.ended_at is None:
        raise MigrationFailedError(f"plan {run.id} is paused")
    if run.exit_code:
        raise MigrationFailedError(f"plan {run.id} is {run.state.value}: {run.outcome}")
