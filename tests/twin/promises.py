"""What must hold in the model's world: at every moment, at the instant at which a job ends, and in the end."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine, invariant

from mudanza.hypervisor.twin import definitions
from mudanza.hypervisor.twin.guests import read_stamp
from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.threads import Controller
from mudanza.hypervisor.twin.world import Twin
from mudanza.journal.jobs import LEASE, Job
from mudanza.model.errors import MigrationFailedError, MudanzaError, VmDownError
from tests.twin.hooking import Programs, faults_of
from tests.twin.scene import IMAGES, Attempt, Scene

CALLS = (
    "define",
    "undefine",
    "start",
    "destroy",
    "create volume",
    "delete volume",
    "migrate",
    "resume",
    "set autostart",
    "suspend",
)
CALM = 60.0
"""Seconds after the last trouble with a host or a way that everything should have come right again by itself."""
FOREIGN = f"{IMAGES}/foreign.qcow2"


@dataclass(frozen=True)
class Home:
    """A host that holds the whole VM: its definition and its disks as they were last written."""

    host: str


@dataclass(frozen=True)
class End:
    """How a job ended, and how things really were at that instant."""

    job: Job
    homes: tuple[str, ...]
    running: tuple[str, ...]
    is_calm: bool
    """All hosts had answered for a while, and nothing happened to the VM that is for a person to judge."""


class Promises(RuleBasedStateMachine):
    """A world with one VM, and whatever must be so in it, at every moment and in the end."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="twin", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.the: Scene
        self.twin: Twin
        self.vm = ""
        self.wants_to_run = True
        self.disturbed: set[str] = set()
        """What happened that may have brought the VM down, or moved it by hand."""
        self.fell: set[str] = set()
        """Hosts on which it, or all, died since the last move began."""
        self.stale: list[str] = []
        self.programs: Programs
        self.ends: list[End] = []
        """Of jobs, since the last look."""
        self.troubled_at = 0.0
        self.at_work = False
        """Whether there is a job that has not ended."""
        self.looked_at = 0
        self.shared = False
        self.autostart = False
        self.disks = 1
        self.paths: list[str] = []

    # What must hold.

    def homes(self) -> list[Home]:
        """Return which hosts hold the whole VM."""
        self.twin.catch_up()
        counter = self.twin.oracle.truth(self.vm).counter
        return [Home(name) for name, host in self.twin.hosts.items() if holds(host, self.vm, self.disks, counter)]

    @invariant()
    def never_in_two_places(self) -> None:
        ours = [each for each in self.twin.oracle.violations if each.actor not in ("", *self.twin.strangers)]
        assert not ours, f"{ours[0]}\n{self.story()}"

    @invariant()
    def never_lost(self) -> None:
        if not self.vm or self.twin.oracle.truth(self.vm).spoiled:
            return
        assert self.homes(), f"no host holds the whole VM\n{self.story()}"

    @invariant()
    def nothing_foreign_is_touched(self) -> None:
        if self.vm:
            for host in self.twin.hosts.values():
                assert host.file(FOREIGN) is not None, f"{FOREIGN} is gone from {host.name}\n{self.story()}"

    def _note_end(self, job: int) -> None:
        homes = tuple(home.host for home in self.homes())
        answer = all(host.answers and self.twin.reachable(host) for host in self.twin.hosts.values())
        is_calm = (
            answer and not self.twin.is_cut and not self.disturbed and self.twin.scheduler.now - self.troubled_at > CALM
        )
        is_calm = is_calm and not self.twin.oracle.violations
        self.ends.append(End(self.the.jobs.get(job), homes, tuple(self.twin.oracle.runs_on(self.vm)), is_calm))

    def _note_order(self, controller: Controller, call: str, _what: str) -> None:
        """See whether who has a host do something owns the job that it does it for."""
        handle = self.the.handles.get(controller)
        if handle is None or call not in CALLS:
            return
        self.programs.acted.setdefault(handle.id, []).append(call)
        if handle is not self.the.holders[handle.id].handle:
            self.stale.append(f"{controller.name} has epoch {handle.epoch} of job {handle.id}, and does: {call}")

    @invariant()
    def no_stale_controller_acts(self) -> None:
        assert not self.stale, f"{self.stale[0]}\n{self.story()}"

    @invariant()
    def the_truth_is_told(self) -> None:
        ends, self.ends = self.ends, []
        for end in ends:
            self._hold_to_the_truth(end)
        for attempt in self.the.attempts if self.vm else ():
            if attempt.error is not None and not isinstance(attempt.error, MudanzaError):
                raise AssertionError(f"{attempt.controller.name} broke down\n{self.story()}") from attempt.error

    @invariant()
    def look_at_the_journal(self) -> None:
        """After each rule in which anything was written, for preconditions are looked at often."""
        if self.vm and self.looked_at != self.the.written:
            self.at_work, self.looked_at = bool(self._open_jobs()), self.the.written

    def _hold_to_the_truth(self, end: End) -> None:
        job = end.job
        if job.ended_at is not None:
            unclear = bool(self.disturbed) or self.twin.oracle.truth(self.vm).spoiled
            faults = list(faults_of(job, self.programs.runs, disturbed=unclear))
            assert not faults, f"hooks of job {job.id}: {faults}\n{self.story()}"
        if self.twin.oracle.truth(self.vm).spoiled or "stranger" in self.disturbed:
            return
        if job.exit_code == 0:
            assert job.target in end.homes, f"job {job.id} says it moved; it is at {end.homes}\n{self.story()}"
            assert job.source not in end.running, (
                f"job {job.id} says it moved; it runs at {end.running}\n{self.story()}"
            )
        elif job.exit_code == MigrationFailedError.exit_code:
            assert job.source in end.homes, f"job {job.id} says it stayed; it is at {end.homes}\n{self.story()}"
            assert job.target not in end.running, (
                f"job {job.id} says it stayed; it runs at {end.running}\n{self.story()}"
            )
        elif job.ended_at is None:
            assert not end.is_calm, f"job {job.id} is left to a person for nothing\n{self.story()}"
        elif job.exit_code == VmDownError.exit_code:
            assert end.homes, f"job {job.id} says its disks are whole\n{self.story()}"

    def teardown(self) -> None:
        try:
            if self.vm:
                self.come_to_rest()
        finally:
            self.close()

    def close(self) -> None:
        """Take the world away."""
        self._stack.close()

    def come_to_rest(self) -> None:
        """Heal everything, let everybody end, resume every open job to its end, and look."""
        self._recover()
        for attempt in self._alive():
            self.the.finish(attempt)
        self._check_all()
        last: MudanzaError | None = None
        for _ in range(4):
            jobs = self._open_jobs()
            if not jobs:
                break
            self._let_pass(LEASE + 1)
            attempt = self.the.finish(self.the.resume(jobs[0].id))
            self._check_all()
            last = attempt.error if isinstance(attempt.error, MudanzaError) else None
        if self._open_jobs():
            self._only_where_a_person_must_look(last)
            return
        self._nothing_is_left_over()
        self._starts_by_itself_where_it_is()
        if self.wants_to_run and not self.disturbed and not self.twin.oracle.truth(self.vm).spoiled:
            running = self.twin.oracle.runs_on(self.vm)
            assert len(running) == 1, f"it ran before, and now runs at {running}\n{self.story()}"

    def _check_all(self) -> None:
        self.never_in_two_places()
        self.never_lost()
        self.no_stale_controller_acts()
        self.nothing_foreign_is_touched()
        self.the_truth_is_told()

    def _recover(self) -> None:
        self.heal_everything()
        self._let_pass(40)
        for host in self.twin.hosts.values():
            host.start_libvirtd()
        self._let_pass(300)

    def _let_pass(self, seconds: float) -> None:
        """Let so much time pass; the simulation stops for every controller that ends meanwhile."""
        scheduler = self.twin.scheduler
        until = scheduler.now + seconds
        while scheduler.now < until:
            scheduler.advance(seconds=until - scheduler.now)

    def _starts_by_itself_where_it_is(self) -> None:
        """An operator's wish outlives the moves, and holds at one place only."""
        if self.twin.oracle.truth(self.vm).spoiled or "stranger" in self.disturbed:
            return
        last = self.the.jobs.latest(1)
        place = "h1" if not last else last[0].target if last[0].exit_code == 0 else last[0].source
        if last and (last[0].exit_code == VmDownError.exit_code or "autostart" in str(last[0].report)):
            return  # it may be at either place; or it could not be switched on, and was told so
        for name, host in self.twin.hosts.items():
            domain = host.domains.get(self.vm)
            if domain is not None:
                wanted = self.autostart and name == place
                assert domain.autostart == wanted, f"autostart at {name}: {domain.autostart}\n{self.story()}"

    def heal_everything(self) -> None:
        """Mend whatever is broken."""
        self.troubled_at = self.twin.scheduler.now
        self.twin.heal()
        for host in self.twin.hosts.values():
            host.power_on()

    def _only_where_a_person_must_look(self, last: MudanzaError | None) -> None:
        two = [each for each in self.twin.oracle.violations if not each.actor]
        must_look = two or self._nobody_knows_where_it_ran_last() or "stranger" in self.disturbed
        assert must_look, f"nobody needs to look, and yet: {last!r}\n{self.story()}"

    def _nobody_knows_where_it_ran_last(self) -> bool:
        """Whether a guest ended over a live move, and both hosts know the VM: it may have run at the target before."""
        over_a_live_move = bool(self.fell) and all(job.kind == "live" for job in self._open_jobs())
        both_know = all(self.vm in host.domains for host in self.twin.hosts.values())
        return over_a_live_move and both_know and not self.twin.oracle.runs_on(self.vm)

    def _nothing_is_left_over(self) -> None:
        """Whatever lies about of it at another place was told of."""
        if self.shared or self.twin.oracle.truth(self.vm).spoiled or "stranger" in self.disturbed:
            return
        homes = [home.host for home in self.homes()]
        told = {
            str(where)
            for job in self.the.jobs.latest(99)
            for key in ("left", "kept")
            for where in job.report.get(key, ())
        }
        for name, host in self.twin.hosts.items():
            found = {f"{name}:{path}" for path in self.paths if host.file(path) is not None}
            if name not in homes:
                assert found <= told, f"left over and not told of: {found - told}\n{self.story()}"

    # Helpers.

    def _host(self, name: str) -> TwinHost:
        return self.twin.hosts[name]

    def _alive(self) -> list[Attempt]:
        return [each for each in self.the.attempts if not each.over and each.controller.alive] if self.vm else []

    def _open_jobs(self) -> list[Job]:
        return list(self.the.jobs.unfinished()) if self.vm else []

    def story(self) -> str:
        """Return what happened, for a person to read."""
        lines = [*self.twin.log[-60:], ""]
        for job in self.the.jobs.latest(9):
            lines.append(
                f"job {job.id} {job.kind} {job.source} → {job.target}: {job.state} {job.exit_code}, epoch {job.epoch}: "
                f"{job.outcome}"
            )
            for step in job.steps:
                intent = {key: value for key, value in step.intent.items() if len(str(value)) < 100}
                outcome = None if step.outcome is None else {k: v for k, v in step.outcome.items() if len(str(v)) < 200}
                lines.append(f"   {step.n} {step.at % 1e6:.3f} {step.name} {intent} → {outcome}")
        for attempt in self.the.attempts:
            lines.append(
                f"{attempt.controller.name}: over={attempt.over} report={attempt.report is not None} {attempt.error!r}"
            )
        for name, host in self.twin.hosts.items():
            domain = host.domains.get(self.vm)
            seen = (
                None
                if domain is None
                else (domain.state, domain.reason, domain.definition is not None, domain.autostart)
            )
            lines.append(f"{name}: powered={host.powered} libvirtd={host.libvirtd} isolated={host.isolated} {seen}")
        lines += [str(each) for each in self.twin.oracle.violations]
        return "\n".join(lines)


def holds(host: TwinHost, vm: str, disks: int, counter: int) -> bool:
    """Whether a host has the VM's definition and all its disks as a guest wrote to them last."""
    domain = host.domains.get(vm)
    if domain is None:
        return False
    if domain.qemu is not None and domain.qemu.incoming and not domain.qemu.has_booted:
        return False
    found = definitions.disks(domain.live or domain.definition or "<domain/>")
    files = [host.file(disk["path"]) for disk in found]
    return len(files) == disks and all(file is not None and read_stamp(file) == counter for file in files)
