"""One VM, two or three hosts, and everything that can happen to a move of it: a model that hypothesis plays against."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.scheduler import Controller
from mudanza.journal.jobs import LEASE, Job
from mudanza.model.errors import MigrationFailedError, MudanzaError, VmDownError
from mudanza.model.migration import MigrationOptions, Mode, Verify
from mudanza.model.units import MIB
from tests.twin.scene import IMAGES, SHARED, Attempt, Scene, put_image, scene

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
    *(
        f"phase {phase} of {what}"
        for what in ("web", "mudanza-carrier")
        for phase in ("PREPARED", "DISKS", "MEMORY", "STOPPED", "HANDED_OVER", "FINISHING", "CONFIRMED")
    ),
)
_LIVE_INSTANTS = tuple(each for each in INSTANTS if each.endswith("of web"))
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


class World(RuleBasedStateMachine):
    """The model."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="twin", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.the: Scene
        self.vm = ""
        self.wants_to_run = True
        self.disturbed: set[str] = set()
        """What happened that may have brought the VM down, or moved it by hand."""
        self.began: dict[int, bool] = {}
        self.stale: list[str] = []
        self.ends: list[End] = []
        """Of jobs, since the last look."""
        self.troubled_at = 0.0
        self.at_work = False
        """Whether there is a job that has not ended."""

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
        attempt = self.the.migrate(self.vm, target, wishes)
        self.twin.note(f"{attempt.controller.name} is to move it to {target}: {wishes.mode} keep={wishes.keep_source}")

    def _place(self) -> str:
        homes = self.homes()
        return homes[0].host if homes else "h1"

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

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0, 31.0, 120.0]))
    def later(self, seconds: float) -> None:
        self.twin.scheduler.advance(seconds=seconds)

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
    @rule(seconds=st.sampled_from([3.0, 45.0, 200.0]))
    def stop_controller(self, seconds: float) -> None:
        self.twin.scheduler.stop(self._alive()[0].controller, seconds)

    # What befalls hosts.

    @precondition(lambda self: self.at_work)
    @rule(host=st.sampled_from(["h1", "h2"]))
    def kill_host(self, host: str) -> None:
        self.troubled_at = self.twin.scheduler.now
        self.disturbed.add("host")
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

    def _note_order(self, controller: Controller, call: str) -> None:
        """See whether who has a host do something owns the job that it does it for."""
        handle = self.the.handles.get(controller)
        if handle is None or call not in CALLS:
            return
        job = self.the.jobs.get(handle.id)
        if job.epoch != handle.epoch:
            self.stale.append(f"{controller.name} has epoch {handle.epoch} of job {job.id}, and does: {call}")

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
        """Once after each rule, for preconditions are looked at often."""
        self.at_work = bool(self._open_jobs())

    def _hold_to_the_truth(self, end: End) -> None:
        job = end.job
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
            self.twin.scheduler.advance(seconds=LEASE + 1)
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
        self.twin.scheduler.advance(seconds=40)
        for host in self.twin.hosts.values():
            host.start_libvirtd()
        self.twin.scheduler.advance(seconds=300)

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
        assert two or self.disturbed & {"stranger"}, f"nobody needs to look, and yet: {last!r}\n{self.story()}"

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

    def _job_of(self, attempt: Attempt) -> Job | None:
        jobs = [
            job for job in self.the.jobs.latest(99) if job.id == attempt.job or job.asked_by == attempt.controller.name
        ]
        return jobs[0] if jobs else None

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
    from mudanza.hypervisor.twin import definitions
    from mudanza.hypervisor.twin.guests import read_stamp

    domain = host.domains.get(vm)
    if domain is None:
        return False
    if domain.qemu is not None and domain.qemu.incoming and not domain.qemu.has_booted:
        return False
    found = definitions.disks(domain.live or domain.definition or "<domain/>")
    files = [host.file(disk["path"]) for disk in found]
    return len(files) == disks and all(file is not None and read_stamp(file) == counter for file in files)
