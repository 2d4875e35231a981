"""A twin with VMs on it, and controllers that work on them by the same code the command line uses."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.hypervisor.twin.files import CHUNK, File
from mudanza.hypervisor.twin.guests import write_stamp
from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.scheduler import Choose
from mudanza.hypervisor.twin.threads import Controller
from mudanza.hypervisor.twin.world import Twin
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import JobHandle, Jobs
from mudanza.journal.reports import PastMoves
from mudanza.migration.arrivals import Arrivals
from mudanza.migration.cold.migration import ColdLimits, ColdMigration
from mudanza.migration.forecast.measuring import Foresight, Wishes
from mudanza.migration.live.migration import Limits, LiveMigration
from mudanza.migration.prepare import Judge
from mudanza.model.errors import MudanzaError
from mudanza.model.hook import Hook
from mudanza.model.migration import MigrationOptions, MigrationReport, Mode, Progress
from mudanza.model.units import MIB

IMAGES = "/var/lib/libvirt/images"
SHARED = "/srv/shared"
DISK = 2 * MIB
"""Bytes of a VM's disk: more than goes through a controller, and little enough to be hashed often."""
WRITES = (
    "begin",
    "claim",
    "become",
    "intend",
    "note",
    "done",
    "finish",
    "enter",
    "let_go",
    "renew",
    "take_over",
    "reopen",
)


@dataclass
class Attempt:
    """What one controller was asked to do, and how it says that it went."""

    controller: Controller
    job: int | None = None
    report: MigrationReport | None = None
    error: BaseException | None = None
    stop: clock.Event | None = None
    over: bool = False

    @property
    def exit_code(self) -> int | None:
        """What the command would leave with; None: it did not end by itself."""
        if self.report is not None:
            return 0
        return self.error.exit_code if isinstance(self.error, MudanzaError) else None


@dataclass(frozen=True)
class Holder:
    """Who took a job."""

    controller: Controller
    handle: JobHandle


@dataclass
class Scene:
    """The world and who works on it."""

    twin: Twin
    database: str
    """A path, or the URL of a PostgreSQL database."""
    attempts: list[Attempt] = field(default_factory=list)
    on_finish: Callable[[int], None] = lambda _job: None
    """Told of every job that is closed or left to a person, at that very instant."""
    handles: dict[Controller, JobHandle] = field(default_factory=dict)
    """The job that each controller took last."""
    holders: dict[int, Holder] = field(default_factory=dict)
    """Who took each job last."""
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    """Those of every controller's settings."""
    written: int = 0
    """How often anybody has written anything about any job."""

    def __post_init__(self) -> None:
        self.engine = open_database(self.database)
        self.inventory = Inventory(self.engine)
        self.jobs = Jobs(self.engine)
        for entry in self.twin.entries():
            self.inventory.add_host(entry)

    # Making and looking.

    def make_vm(
        self,
        name: str,
        host: str,
        *,
        shared: bool = False,
        disks: int = 1,
        run: bool = True,
        autostart: bool = False,
        wired: bool = False,
    ) -> str:
        """Put a VM on a host and return its UUID."""
        there = self.twin.hosts[host]
        paths = [f"{SHARED if shared else IMAGES}/{name}-{n}.qcow2" for n in range(disks)]
        for path in paths:
            put_image(there, path)
        for each in self.twin.hosts.values():
            for pool in each.pools.values():
                pool.seen = dict.fromkeys(each.system_of(pool.path).names_in(pool.path), "qcow2")
        key = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        self.do(lambda: self._define(there, vm_xml(name, key, paths, wired=wired), run=run, autostart=autostart))
        return key

    def _define(self, there: TwinHost, xml: str, *, run: bool, autostart: bool) -> None:
        line = self.twin.open(f"qemu+tls://{there.name}/system")
        domain = line.defineXML(xml)
        domain.setAutostart(int(autostart))
        if run:
            domain.create()
        line.close()

    def do(self, work: Callable[[], Any], name: str = "stranger", *, points: int = 200, beside: bool = False) -> Any:
        """Have somebody do something at once, and return what comes of it. ``points``: how long others may go on, at
        the most, when it is done; ``beside``: what it has begun besides goes on, and is not waited for."""
        found: list[Any] = []
        failures: list[BaseException] = []
        ended: list[bool] = []

        def doing() -> None:
            try:
                found.append(work())
            except Exception as error:
                failures.append(error)
            ended.append(True)

        controller = Controller(name)
        self.twin.scheduler.start(doing, name, controller)
        while controller.threads and not (beside and ended):
            if not self.twin.scheduler.advance(points=points):
                break
        if failures:
            raise failures[0]
        return found[0] if found else None

    # Controllers.

    def migrate(
        self,
        uuid: str,
        target: str,
        options: MigrationOptions | None = None,
        *,
        name: str = "",
        foreseeing: bool = False,
    ) -> Attempt:
        """Have a new controller begin to move a VM, and foresee before how it will go, if that is wanted."""
        options = options or MigrationOptions()
        return self._attempt(name, lambda attempt: self._migrate(attempt, uuid, target, options, foreseeing))

    def _migrate(
        self, attempt: Attempt, uuid: str, target: str, options: MigrationOptions, foreseeing: bool
    ) -> MigrationReport:
        with Connections(self.inventory.hosts()) as connections:
            arrivals = Arrivals(self.jobs)
            connections.open_all()
            expected = arrivals.expected()
            cluster = read_cluster(self.inventory.hosts(), connections=connections)
            judge = Judge(connections, self.inventory, self.jobs, cluster, arrivals, expected, self.hooks)
            prepared = judge.prepare(cluster.find(uuid), target, options)
            if foreseeing:
                foresight = Foresight(connections, prepared.vm, PastMoves(self.engine), self.inventory, Wishes())
                foreseen = foresight.of(prepared.source, prepared.chosen, options)
                prepared = replace(prepared, forecast=foreseen)
            kind = "cold" if options.is_cold(active=prepared.vm.state.active) else "live"
            mover = self._mover(connections, kind)
            assert attempt.stop is not None
            return mover.migrate(prepared, attempt.controller.name, attempt.stop)

    def resume(self, job: int, *, name: str = "") -> Attempt:
        """Have a new controller go on with a job."""
        return self._attempt(name, lambda attempt: self._resume(attempt, job))

    def _resume(self, attempt: Attempt, job: int) -> MigrationReport:
        attempt.job = job
        with Connections(self.inventory.hosts()) as connections:
            assert attempt.stop is not None
            return self._mover(connections, self.jobs.get(job).kind).resume(job, attempt.stop)

    def _mover(self, connections: Connections, kind: str) -> LiveMigration | ColdMigration:
        def on_progress(_progress: Progress) -> None:
            return

        if kind == "cold":
            return ColdMigration(connections, self.inventory, self.jobs, ColdLimits(), on_progress, self.hooks)
        return LiveMigration(connections, self.inventory, self.jobs, Limits(), on_progress, self.hooks)

    def _attempt(self, name: str, work: Callable[[Attempt], MigrationReport]) -> Attempt:
        attempt = Attempt(Controller(name or f"c{len(self.attempts) + 1}"))
        self.attempts.append(attempt)

        def working() -> None:
            attempt.stop = clock.new_event()
            try:
                attempt.report = work(attempt)
            except Exception as error:
                attempt.error = error
            attempt.over = True
            self.twin.scheduler.halt()

        self.twin.scheduler.start(working, attempt.controller.name, attempt.controller)
        return attempt

    def finish(self, attempt: Attempt, *, limit: float = 4000.0) -> Attempt:
        """Let time pass until a controller has ended."""
        until = self.twin.scheduler.now + limit
        while attempt.controller.threads and not attempt.over and self.twin.scheduler.now < until:
            if not self.twin.scheduler.advance(points=2000):
                break
        return attempt


@cache
def new_journal() -> bytes:
    """Return an empty journal as a file: making its tables costs more than all else that happens in a sequence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mudanza.db")
        open_database(str(path)).dispose()
        return path.read_bytes()


def put_image(host: TwinHost, path: str, size: int = DISK) -> None:
    """Put a qcow2 image on a host on which some guest has written once."""
    at = host.twin.scheduler.time()
    file = File(size, at)
    file.make_qcow2(4 * size, "", at)
    file.write(10 * CHUNK, b"data" * 1024, at)
    write_stamp(file, 0, at)
    host.system_of(path).files[path] = file


def vm_xml(name: str, key: str, paths: list[str], *, wired: bool = False) -> str:
    """Return the definition of a VM with these disks; ``wired``: and a card on the bridge."""
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='{path}'/>"
        f"<target dev='vd{chr(97 + n)}' bus='virtio'/></disk>"
        for n, path in enumerate(paths)
    )
    if wired:
        mac = f"52:54:00:{key[:2]}:{key[2:4]}:{key[4:6]}"
        card = f"<mac address='{mac}'/><source bridge='br0'/><model type='virtio'/>"
        disks += f"<interface type='bridge'>{card}</interface>"
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{key}</uuid><memory unit='MiB'>16</memory>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{disks}"
        f"<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    )


@contextmanager
def scene(choose: Choose, folder: Path, hosts: int = 2) -> Iterator[Scene]:
    """Have a twin with hosts and an empty journal while the block runs."""
    journal = folder / "mudanza.db"
    journal.write_bytes(new_journal())
    with scene_on(str(journal), choose, hosts) as the:
        yield the


@contextmanager
def scene_on(database: str, choose: Choose, hosts: int = 2) -> Iterator[Scene]:
    """Have a twin with hosts, and this journal, while the block runs."""
    twin = Twin(choose, hosts)
    with twin.installed():
        the = Scene(twin, database)
        with journal_writes_are_points(the):
            try:
                yield the
            finally:
                twin.scheduler.close()
                the.engine.dispose()


@contextmanager
def journal_writes_are_points(the: Scene) -> Iterator[None]:
    """Let a controller die before and after whatever it writes into its journal."""

    def with_points(write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def writing(*arguments: Any, **named: Any) -> Any:
            label = f"{write.__name__} {arguments[1] if len(arguments) > 1 else ''}"
            the.twin.scheduler.point(f"before {label}")
            result = write(*arguments, **named)
            the.written += 1
            if isinstance(result, JobHandle):
                controller = the.twin.scheduler.controller
                the.handles[controller], the.holders[result.id] = result, Holder(controller, result)
            if write.__name__ in ("finish", "let_go"):
                the.on_finish(arguments[0].id)
            the.twin.scheduler.point(f"after {label}")
            return result

        return writing

    owners = [(owner, name) for owner in (JobHandle, Jobs) for name in WRITES if hasattr(owner, name)]
    patches = [patch.object(owner, name, with_points(getattr(owner, name))) for owner, name in owners]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def options(**wishes: Any) -> MigrationOptions:
    """Return what is asked of a move."""
    return replace(MigrationOptions(), **wishes)


COLD = MigrationOptions(mode=Mode.COLD)
