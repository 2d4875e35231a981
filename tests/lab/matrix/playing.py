"""Playing a cell: the move begins, the fault strikes, is mended, the job is finished, and all of it is looked at."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.errors import UsageError
from mudanza.model.units import MIB
from tests.lab import dying
from tests.lab.command import Mudanza, Result, Running
from tests.lab.conftest import await_true
from tests.lab.matrix.cells import Cell
from tests.lab.matrix.copies import Copies
from tests.lab.matrix.faults import FAULTS, Fault, Stage
from tests.lab.matrix.moments import Moment, Suspension, death_of, has_come, is_boundary, moment_of, suspension
from tests.lab.matrix.subjects import HOSTS, Subject, left_over, whereabouts
from tests.lab.test_migrate import expire_leases

RATE = 10 * MIB
"""Bytes per second over the wire until the fault has struck: slow enough that it strikes in its phase."""
MOMENT_LIMIT = 240.0
"""Seconds until a moment must have come."""
END_LIMIT = 420.0
"""Seconds that a command may take: an order to cancel that goes unheeded is waited for 180 s, a host 90 s more."""
CLEAN_LIMIT = 60.0
"""Seconds until a host that was mended must have let go of what a broken move has left there."""
DOWN = 6


@dataclass
class Seen:
    """What came of a cell."""

    command: int
    resumed: tuple[int, ...] = ()
    """Exit codes of ``job resume``, in their order."""
    after: int | None = None
    """The exit code that the job has in the end."""
    said: str = ""
    """What the command said last."""

    @property
    def words(self) -> str:
        """Write it for people."""
        told = " ".join(("killed" if self.command < 0 else str(self.command), *(f"→ {code}" for code in self.resumed)))
        return f"{told} (job: {self.after})" if self.resumed else told


class Player:
    """Plays one cell with one VM, between the two HOSTS or to ``target``.

    ``fault`` and ``moment`` are those of the cell's names, unless they are given.
    """

    def __init__(
        self,
        cell: Cell,
        lab: Lab,
        mudanza: Mudanza,
        subject: Subject,
        *,
        target: str | None = None,
        fault: Fault | None = None,
        moment: Moment | None = None,
    ) -> None:
        self._cell, self._lab, self._mudanza, self._subject = cell, lab, mudanza, subject
        (here,) = whereabouts(subject)
        there = target or next(host for host in HOSTS if host != here)
        self._stage = Stage(lab, subject.uuid, here, there, cold=cell.cold, postcopy=cell.kind == "post-copy")
        self._fault = fault or FAULTS[cell.fault]
        self._moment = moment
        self._seen = Seen(0)
        self._started = False
        """By a person, because it could not be told from what both hosts say where it belongs."""

    def play(self) -> Seen:
        """Play it and return what was seen. Raises AssertionError where that is not what has to be."""
        with Copies(self._lab, self._subject.uuid) as copies:
            with self._subject.watched():
                self._bring_about()
                self._finish()
            self._look()
        assert not copies.twice, f"two copies ran: {copies.twice}"
        assert copies.looks > 0
        return self._seen

    def repeat(self) -> None:
        """Move it once more: to where it was to go, or back. Raises AssertionError where that does not go well."""
        subject, place = self._subject, self._place
        self.start_again()
        other = self._other(place)
        with subject.watched():
            moved = self._mudanza("migrate", subject.uuid, "--to", other, *subject.options, expect=None)
        if moved.code != 0:
            assert "until the VM has been shut down and started again" in moved.err, moved.err
            self._start_anew(place)
            with subject.watched():
                self._mudanza("migrate", subject.uuid, "--to", other, *subject.options)
        assert whereabouts(subject) == {other: "running" if subject.runs else "shut off"}
        subject.assert_whole(other, off=not subject.runs, undisturbed=not self._cell.cold)
        assert not (left := list(left_over(subject, other))), f"left over after a plain move: {left}"

    def start_again(self) -> None:
        """Start it if the fault has killed it: nothing else does so unasked."""
        if self._subject.runs and self._is_off:
            self._mudanza("start", self._subject.uuid)
            self._subject.await_up()

    def _start_anew(self, place: str) -> None:
        """Do what a person is told to do for a QEMU that a broken move has left damaged."""
        virsh(self._lab.cell(place), "destroy", self._subject.uuid)
        virsh(self._lab.cell(place), "start", self._subject.uuid)
        self._subject.await_up()

    # ---- the move and the fault ----

    def _bring_about(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._lab.set_uplink, self._stage.source, None)
            if is_boundary(self._cell.kind, self._cell.moment):
                ended = self._begin(stack, "KILL", *death_of(self._cell.moment)).end(None, END_LIMIT)
            else:
                ended = self._struck(stack).end(None, END_LIMIT)
        self._seen.command = ended.code
        self._seen.said = said(ended)
        assert ended.code in self._cell.command, f"the command ended with {ended.code}: {self._seen.said or ended.err}"

    def _struck(self, stack: ExitStack) -> Running:
        """Begin, and strike when the moment has come. Return the command, which the fault may outlive."""
        stage, fault = self._stage, self._fault
        moment = self._moment or moment_of(self._cell.kind, self._cell.moment)
        listening = self._listening(stack) if moment.suspended is not None else None
        if not moment.stop:
            self._lab.set_uplink(stage.source, RATE)
        stage.running = running = self._begin(stack, *(("STOP", *moment.stop) if moment.stop else ()))
        stack.callback(fault.mend, stage)
        if moment.stop:
            await_true(lambda: running.is_stopped, " ".join(moment.stop), MOMENT_LIMIT)
        elif moment.after is not None:
            running.until_event(lambda event: event["event"] == "start", "start")
            time.sleep(moment.after)  # what chance has chosen
        elif listening is None:
            running.until_event(lambda event: has_come(moment, event), moment.phase)
        if moment.runs_there:
            await_true(lambda: whereabouts(self._subject).get(stage.target) == "running", "it runs there", MOMENT_LIMIT)
        strike = fault.aim(stage)
        if listening is not None:
            listening.wait()
            time.sleep(moment.suspended or 0.0)  # this very time is what the cell is about
        try:
            strike()
        except UsageError:
            # Left to chance, there may be nothing to be hit, or not any more.
            assert moment.after is not None, f"{self._cell.fault}: there was nothing to be hit"
        if moment.stop:
            running.send(signal.SIGCONT)
        if fault.lasts is not None:
            time.sleep(fault.lasts)  # so long the fault lasts
            fault.mend(stage)
        self._lab.set_uplink(stage.source, None)
        return running

    def _listening(self, stack: ExitStack) -> Suspension:
        return stack.enter_context(suspension(self._lab.cell(self._stage.source), self._subject.uuid))

    def _begin(self, stack: ExitStack, *death: str) -> Running:
        """Begin the move, by a controller that dies or stands still somewhere if that is said."""
        order = ["migrate", *self._order, "-o", "json"]
        argv = [sys.executable, dying.__file__, *death, *order] if death else self._mudanza.argv(*order)
        running = self._mudanza.start_argv(argv)
        stack.callback(running.abandon)
        return running

    @property
    def _order(self) -> tuple[str, ...]:
        means = ("--policy", "now") if self._stage.postcopy else ()
        return (self._subject.uuid, "--to", self._stage.target, *self._subject.options, *means)

    # ---- what is left to do ----

    def _newest_job(self) -> dict[str, Any] | None:
        found: list[dict[str, Any]] = self._mudanza("jobs", "-o", "json").data
        return next((job for job in found if job["vm_uuid"] == self._subject.uuid), None)

    @property
    def _job(self) -> dict[str, Any]:
        found = self._newest_job()
        assert found is not None
        return found

    def _finish(self) -> None:
        """Finish the job as an operator would, until there is nothing of it to be done any more."""
        job = self._job
        if job["ended_at"] is None:
            self._seen.resumed += (self._resume(job["id"]).code,)
        elif job["report"].get("left") or job["report"].get("undeleted"):
            await_true(lambda: self._cleans_up(job["id"]), "what was left behind is gone", CLEAN_LIMIT)
            self._seen.resumed += (0,)
        job = self._job
        if job["ended_at"] is None and self._cell.off is not False:
            self._act_as_person(job["id"])
        job = self._job
        assert job["ended_at"] is not None, f"the job is still open: {job['state']}; {self._seen}"
        came = f"the job ended with {job['exit_code']}: {job['outcome']}; {self._seen}"
        assert job["exit_code"] in self._cell.after, came
        for what in ("left", "undeleted"):
            assert not job["report"].get(what), f"{what}: {job['report'][what]}"
        self._seen.after = job["exit_code"]
        if self._seen.after == DOWN and self._place == self._stage.target:
            self._throw_away_kept()

    def _resume(self, job: int) -> Result:
        expire_leases(self._mudanza)
        return self._mudanza("job", "resume", str(job), "-o", "json", expect=None, limit=END_LIMIT)

    def _cleans_up(self, job: int) -> bool:
        """Try once more to clean up: a host that has just come back may still hold what its libvirt had begun."""
        return self._mudanza("job", "resume", str(job), "-o", "json", expect=None).code == 0

    def _act_as_person(self, job: int) -> None:
        """Look: the VM is off, at the target only. Start it, and finish the job: it keeps what lies at the source."""
        subject, target = self._subject, self._stage.target
        assert whereabouts(subject) == {target: "shut off"}
        self._started = True
        self._mudanza("start", subject.uuid)
        subject.await_up()
        self._seen.resumed += (self._resume(job).code,)
        self._throw_away_kept()

    def _throw_away_kept(self) -> None:
        """Delete, as a person, what was kept at the source of a VM that is at the target."""
        kept = [place.removeprefix(f"{self._stage.source}:") for place in self._job["report"]["kept"]]
        assert set(kept) <= self._subject.files
        self._lab.cell(self._stage.source).run(["rm", "-f", "--", *kept])

    # ---- looking at it ----

    @property
    def _place(self) -> str:
        """The host where the VM has to be, by what the job says; one that is down is where its QEMU was killed."""
        stage = self._stage
        killed_there = stage.postcopy or self._cell.fault.startswith("target")
        at_target = killed_there if self._seen.after == DOWN else self._seen.after == 0
        return stage.target if at_target else stage.source

    def _other(self, place: str) -> str:
        stage = self._stage
        return stage.target if place == stage.source else stage.source

    @property
    def _is_off(self) -> bool:
        if not self._subject.runs or self._seen.after == DOWN:
            return True
        if self._started:
            return False
        if self._cell.off is None:
            return whereabouts(self._subject) == {self._place: "shut off"}
        return self._cell.off

    def _look(self) -> None:
        subject, place = self._subject, self._place
        assert whereabouts(subject) == {place: "shut off" if self._is_off else "running"}
        undisturbed = not (self._is_off or self._started) and not self._cell.cold
        subject.assert_whole(place, off=self._is_off, undisturbed=undisturbed)
        other = self._other(place)
        self._mudanza("check", subject.uuid, "--to", other, expect=None)  # it sweeps away what is thrown away
        assert not (left := list(left_over(subject, place))), f"left over: {left}"


def said(result: Result) -> str:
    """Return what a command said in the end."""
    errors = [event for event in result.events if event["event"] == "error"]
    return str(errors[-1]["message"]) if errors else ""
