"""Many VMs on simulated hosts, a queue of moves, and controllers that work on it as ``mudanza work`` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.output import Format
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand
from mudanza.hypervisor.twin.domain import Domain
from mudanza.hypervisor.twin.guests import read_stamp
from mudanza.hypervisor.twin.threads import Controller
from mudanza.hypervisor.xml.claims import read_claims
from mudanza.journal.jobs import Job, NewJob
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.migration.asked import put_down
from mudanza.migration.worker import Worker
from mudanza.model.migration import MigrationOptions
from mudanza.operations.checking import arrivals_of
from tests.twin.promises import CALLS
from tests.twin.scene import IMAGES, Scene

PARALLEL = 3
"""Jobs that one controller works on at once."""


@dataclass(frozen=True)
class Vm:
    """One VM, and how it was made."""

    name: str
    uuid: str
    shared: bool
    runs: bool
    autostart: bool


@dataclass
class Fleet:
    """VMs, the moves that were asked for, and who works on them."""

    the: Scene
    folder: Path
    vms: dict[str, Vm] = field(default_factory=dict)
    """By UUID."""
    goals: dict[str, str] = field(default_factory=dict)
    """Where each VM is to go."""
    stale: list[str] = field(default_factory=list)
    """What was done to a VM by a controller that had lost its job."""
    said: list[str] = field(default_factory=list)
    _vms_of: dict[int, str] = field(default_factory=dict)
    """By job."""
    _no_more: dict[Controller, clock.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.the.twin.on_order = self._note_order

    # VMs and moves.

    def populate(self, count: int) -> None:
        """Spread VMs over the hosts: every third one on shared storage, every fourth one switched off."""
        hosts = list(self.the.twin.hosts)
        for n in range(count):
            shared, runs, autostart = n % 3 == 0, n % 4 != 1, n % 2 == 0
            name = f"vm{n:02}"
            uuid = self.the.make_vm(name, hosts[n % len(hosts)], shared=shared, run=runs, autostart=autostart)
            self.vms[uuid] = Vm(name, uuid, shared, runs, autostart)

    def ask_for(self, uuid: str, target: str) -> int:
        """Put a move into the queue, as ``mudanza migrate --detach`` does."""
        [source] = self.places(uuid)
        self.goals[uuid] = target
        asked = put_down(MigrationOptions(), target)
        return self.the.jobs.put_down(NewJob(QUEUED_MOVE, uuid, self.vms[uuid].name, source, target, asked, "ana"))

    def places(self, uuid: str) -> list[str]:
        """Return the hosts that know a VM."""
        return [name for name, host in self.the.twin.hosts.items() if uuid in host.domains]

    # Controllers.

    def start(self, name: str) -> Controller:
        """Start a controller that works until it is told to end."""
        settings = self.folder / f"{name}.toml"
        settings.write_text(f"database = {self.the.database!r}\n")
        controller = Controller(name)
        no_more = self._no_more[controller] = clock.new_event()

        def work() -> None:
            app = App(settings, debug=False)
            errand = Errand(app, arrivals_of(app), LineView(self.said.append), Format.TABLE, clock.new_event())
            try:
                Worker(app.jobs, errand.carry_out, PARALLEL, no_more, self.said.append).run(once=False)
            finally:
                app.database.dispose()

        self.the.twin.scheduler.start(work, name, controller)
        return controller

    def end(self, controller: Controller) -> None:
        """Have a controller take nothing more."""
        self._no_more[controller].set()

    def advance_until(self, condition: Callable[[], bool], what: str, *, limit: float = 4000.0) -> None:
        """Let time pass until something is so."""
        scheduler = self.the.twin.scheduler
        until = scheduler.now + limit
        while not condition():
            assert scheduler.now < until, what
            scheduler.advance(seconds=5.0)

    def advance_to(self, controller: Controller, instant: str, *, times: int = 1, limit: float = 4000.0) -> None:
        """Let time pass until a controller has come to an instant for the n-th time."""
        scheduler, seen = self.the.twin.scheduler, 0

        def look(label: str) -> None:
            nonlocal seen
            if label.startswith(instant) and scheduler.controller is controller:
                seen += 1
                if seen == times:
                    scheduler.halt()

        scheduler.on_point = look
        until = scheduler.now + limit
        try:
            while seen < times:
                assert scheduler.now < until, f"{controller.name} never came to {instant!r}"
                scheduler.advance(seconds=limit)
        finally:
            scheduler.on_point = lambda _label: None

    def _note_order(self, controller: Controller, call: str, what: str) -> None:
        vm = next((each for each in self.vms.values() if what in (each.uuid, f"{each.name}-0.qcow2")), None)
        if vm is None or call not in CALLS or controller.name in self.the.twin.strangers:
            return
        mine = [number for number in self.the.holders if self._vm_of(number) == vm.uuid]
        holder = self.the.holders[max(mine)].controller if mine else None
        if holder is not controller:
            owner = holder.name if holder is not None else "nobody"
            self.stale.append(f"{controller.name} has {call} done to {vm.name}, whose job is {owner}'s")

    def _vm_of(self, number: int) -> str:
        if number not in self._vms_of:
            self._vms_of[number] = self.the.jobs.get(number).vm_uuid
        return self._vms_of[number]

    # What must be so.

    def held_by(self, controller: Controller) -> list[Job]:
        """Return the unfinished jobs that a controller took last."""
        mine = {job for job, holder in self.the.holders.items() if holder.controller is controller}
        return [job for job in self.the.jobs.unfinished() if job.id in mine]

    def ends(self) -> Counter[int]:
        """Return how often each job ended."""
        jobs = self.the.jobs.latest(10_000)
        return Counter(job.id for job in jobs for event in job.events if event.state in ("done", "failed", "down"))

    def faults(self) -> list[str]:
        """Return in words whatever is not as it must be once everybody has ended."""
        self.the.twin.catch_up()
        found = [str(each) for each in self.the.twin.oracle.violations] + self.stale
        for vm in self.vms.values():
            found += [f"{vm.name}: {fault}" for fault in self._faults_of(vm)]
        for name, host in self.the.twin.hosts.items():
            there = {f"{vm.name}-0.qcow2" for vm in self.vms.values() if not vm.shared and vm.uuid in host.domains}
            found += [f"{name}: {file} is left over" for file in host.own.names_in(IMAGES) if file not in there]
        return found

    def _faults_of(self, vm: Vm) -> list[str]:
        places = self.places(vm.uuid)
        if places != [self.goals[vm.uuid]]:
            return [f"it is at {places}, and was to be at {self.goals[vm.uuid]}"]
        domain = self.the.twin.hosts[places[0]].domains[vm.uuid]
        found = [] if self._whole(vm, domain) else ["its disk is not as its guest wrote it last"]
        running = self.the.twin.oracle.runs_on(vm.uuid)
        found += [] if running == (places if vm.runs else []) else [f"it runs at {running}"]
        found += [] if domain.autostart == vm.autostart else [f"autostart: {domain.autostart}"]
        for xml in filter(None, (domain.definition, domain.live)):
            found += [f"it is claimed still: {claim.in_words}" for claim in read_claims(etree.fromstring(xml))]
        return found if domain.definition else [*found, "it is not defined"]

    def _whole(self, vm: Vm, domain: Domain) -> bool:
        file = domain.host.file(f"{'/srv/shared' if vm.shared else IMAGES}/{vm.name}-0.qcow2")
        return file is not None and read_stamp(file) == self.the.twin.oracle.truth(vm.uuid).counter
