"""What each of the daemon's processes does: one answers by HTTP, the others do what the journal asks for."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mudanza import __version__, clock
from mudanza.cli.balance import balancer_of, measuring
from mudanza.cli.carrying import elsewhere_of
from mudanza.cli.context import App
from mudanza.cli.finishers import finisher_of
from mudanza.cli.ha import guard_of
from mudanza.cli.hands import OwnHands
from mudanza.cli.output import Format, say
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand, forget_old
from mudanza.hypervisor.bounded import Task
from mudanza.journal.sessions import Sessions
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.operations.checking import arrivals_of
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.pages.dashboard import with_pages
from mudanza.service.picture import Photographer
from mudanza.service.processes import Line
from mudanza.service.rolling_left import LeftRollings
from mudanza.service.server import LocalServer, NetworkServer
from mudanza.service.sharing import Publisher, Subscriber
from mudanza.service.watcher import Watcher

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mudanza.hypervisor.connections import Connections
    from mudanza.service.desk import Finisher
    from mudanza.service.notifying import Notifier
    from mudanza.service.pages.oidc import Oidc
    from mudanza.service.picture import Picture

LEAVING = 30.0
"""Seconds that each of the daemon's duties may take to end."""
REPLICAS = "replicas"
GUARD = "availability"
POWER = "power"
LEFT = {
    REPLICAS: "a round of replication is left as it is: the next one begins anew from the last restore point",
    POWER: "a host that is being switched is left as it is: the next one goes on from what is found",
    GUARD: "a host that is being fenced is left as it is: nothing is proven, and the next one begins anew",
}
"""Duties that may take longer, and what is told where they do."""
LOOK_EVERY = 0.5
"""Seconds between two looks whether somebody wants a process to end, and between two of its signs of life."""
FIGURES_EVERY = 1.0
"""Seconds between two looks at the moves under way."""
COLLECT_EVERY = 300.0
"""Seconds between two times that the process that answers looks through all it has for garbage that refers to itself.
With ten thousand VMs that takes 0.2 s, in which nobody is answered; by itself Python does it after every picture."""
NEVER_BY_ITSELF = 1_000_000
"""Collections of younger garbage until it does."""
FORGET_EVERY = 6 * 3600.0
"""Seconds between two looks for what is older than the settings keep."""
WITHOUT_PICTURE = 10.0
"""Times the usual way from one picture of the cluster to the next, after which the daemon is not well."""


@dataclass(frozen=True, slots=True)
class Place:
    """A worker, and where the daemon's other processes ask it what it sees and does."""

    name: str
    address: str
    listening: socket.socket


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the daemon answers. It listens there before any process is started, so that nobody is turned away while the
    one that answers is started again."""

    path: Path
    local: socket.socket
    address: str = ""
    network: socket.socket | None = None
    certificate: Path = field(default_factory=Path)
    key: Path = field(default_factory=Path)


# --- the process that answers ---


def answer(app: App, doors: Doors, workers: tuple[Place, ...], line: Line) -> None:
    """Answer by HTTP until the line says to stop. Raises UsageError where that cannot be."""
    gc.set_threshold(*gc.get_threshold()[:2], NEVER_BY_ITSELF)
    watcher = Watcher(app.jobs, app.inventory.hosts, connect=app.loaded.settings.limits.connect)
    told = [Subscriber(place.address, watcher.hear) for place in workers]
    app.keeps = told[0].known
    desk = _desk(app, lambda: told[0].newest, watcher)
    front = with_pages(api_of(desk), Sessions(app.database), OwnHands(desk, watcher), _oidc(app))
    with _answering(front, doors):
        for each in told:
            clock.start_thread(partial(each.run, LOOK_EVERY, line.stop), "hear of others")
        clock.start_thread(partial(LeftRollings(desk, say).watch, line.stop), "left rollings")
        figures = Task(lambda: watcher.run(FIGURES_EVERY, line.stop))
        line.ready()
        collected = clock.monotonic()
        while not line.stop.wait(LOOK_EVERY):
            if figures.ended:
                figures.wait(0)  # raises what has ended it
            if clock.monotonic() - collected > COLLECT_EVERY:
                gc.collect()
                collected = clock.monotonic()
            line.alive()
        while not desk.under_way.wound_up() and not line.cancel.is_set():
            clock.sleep(LOOK_EVERY)
            line.alive()


@contextmanager
def _answering(api: ASGIApp, doors: Doors) -> Iterator[None]:
    with ExitStack() as stack:
        local = LocalServer(api, doors.path, doors.local)
        stack.callback(local.stop)
        local.start()
        if doors.network is not None:
            network = NetworkServer(api, doors.address, doors.certificate, doors.key, doors.network)
            stack.callback(network.stop)
            network.start()
        yield


def _desk(app: App, newest: Callable[[], Picture | None], watcher: Watcher) -> Desk:
    from mudanza.journal.balance import Balances
    from mudanza.journal.fences import Fences
    from mudanza.journal.plans import Plans
    from mudanza.journal.standbys import Standbys
    from mudanza.journal.tokens import Tokens

    database = app.database
    parts = (app.jobs, Plans(database), Balances(database), app.audit, Tokens(database))

    def finisher(connections: Connections, kind: str) -> Finisher:
        return finisher_of(app, connections, kind, lambda _: None)

    settings = app.loaded.settings
    usual = {"shutdown_limit": settings.limits.shutdown, "guest_clock": settings.guest.clock}
    return Desk(
        *parts, newest, __version__, app, watcher.standing, usual, settings.balance.every, finisher,
        fence_tests=Fences(database).tests, standbys=Standbys(database).all,
    )  # fmt: skip


def _oidc(app: App) -> Oidc | None:
    """Return the way in by a provider, if the settings name one. Raises UsageError."""
    provider = app.loaded.settings.oidc.as_provider()
    if provider is None:
        return None
    if find_spec("authlib") is None:
        raise UsageError(
            "logging in by a provider needs the Python package authlib, which is not installed",
            remedy='install it for this mudanza: pip install "mudanza[service]"',
        )
    from mudanza.service.pages.oidc import Oidc

    return Oidc(provider)


# --- the processes that work ---


def lead(app: App, place: Place, line: Line, *, balance: bool, parallel: int) -> None:
    """Look at the hosts and do all that one does for all, and work on the queue, until the line says to stop and what
    was begun has ended."""
    photographer = _photographer(app)
    app.keeps = photographer.known
    publisher = Publisher(lambda: photographer.newest)
    publisher.start(place.listening)
    refresh, begun = app.loaded.settings.service.refresh, clock.monotonic()

    def is_well() -> bool:
        return clock.monotonic() - (photographer.took_last or begun) < WITHOUT_PICTURE * max(refresh, 1.0)

    def seen() -> str:
        return f"{len(photographer.newest.cluster.hosts)} hosts" if photographer.newest is not None else ""

    duties = _duties(app, photographer, line.stop, balance=balance)
    _work(app, publisher, line, parallel, duties, is_well, seen)


def follow(app: App, place: Place, leader: Place, line: Line, *, parallel: int) -> None:
    """Work on the queue, until the line says to stop and what was begun has ended."""
    app.keeps = Subscriber(leader.address).known_now
    publisher = Publisher(lambda: None)
    publisher.start(place.listening)
    _work(app, publisher, line, parallel, {}, lambda: True, lambda: f"{place.name} works")


def _photographer(app: App) -> Photographer:
    from mudanza.journal.sightings import Sightings

    limits = app.loaded.settings.limits
    remember = Sightings(app.database).keep
    return Photographer(app.inventory.hosts, connect=limits.connect, read=limits.read, say=say, remember=remember)


def _duties(
    app: App, photographer: Photographer, stop: clock.Event, *, balance: bool
) -> Mapping[str, Callable[[], object]]:
    """Return what goes on beside the jobs, by name, until ``stop`` is set."""
    from mudanza.operations.replicating import Replicator
    from mudanza.operations.standby import Keeper

    settings = app.loaded.settings
    found: dict[str, Callable[[], object]] = {
        "inventory": lambda: photographer.run(settings.service.refresh, stop),
        REPLICAS: lambda: Replicator(app, app.asked_by(), say, _tell_failed).run(stop),
        "standby": lambda: Keeper(app, say, _tell_failed).run(stop),
        "housekeeping": lambda: _forget(app, stop),
        GUARD: lambda: guard_of(app).run(stop),
    }
    if settings.power.saving != "off":
        from mudanza.operations.saving import saver_of

        found[POWER] = lambda: saver_of(app, app.asked_by(), say).run(stop)
    if settings.notify.webhooks:
        found["notify"] = lambda: _notifier(app, photographer).run(stop)
    if balance:
        balancer = balancer_of(app, Format.NAME)
        found["balance"] = lambda: balancer.run(settings.balance.every, stop, measuring(app))
    return found


def _notifier(app: App, photographer: Photographer) -> Notifier:
    from mudanza.service.notifying import Notifier

    told = app.loaded.settings.notify
    return Notifier(app.database, told.known(), lambda: photographer.newest, told.host_down, say)


def _work(
    app: App,
    publisher: Publisher,
    line: Line,
    parallel: int,
    duties: Mapping[str, Callable[[], object]],
    is_well: Callable[[], bool],
    seen: Callable[[], str],
) -> None:
    """Carry out jobs and plans, and ``duties`` beside them, until the line says to stop, and what was begun has ended.

    ``is_well``: whether that is to be told; ``seen``: what is, once there is something.
    """
    from mudanza.fleet.minding import Minder
    from mudanza.journal.plans import Plans
    from mudanza.migration.worker import Worker

    stop = line.stop
    errand = Errand(app, arrivals_of(app), LineView(), Format.NAME, line.cancel, publisher.hear)
    minder = Minder(Plans(app.database), app.jobs, stop, say, elsewhere_of(app))
    worker = Worker(app.jobs, errand.carry_out, parallel, stop, say)
    beside = {"plans": minder.watch, **duties}
    tasks = {name: Task(partial(_reporting, name, work, stop)) for name, work in beside.items()}
    working = Task(lambda: worker.run(once=False))
    is_ready = False
    while not stop.wait(LOOK_EVERY) and not working.ended:
        if not is_ready and seen():
            line.ready(seen())
            is_ready = True
        elif is_well():
            line.alive()
    stop.set()
    while minder.busy or not working.ended:
        clock.sleep(LOOK_EVERY)
        line.alive()
    working.wait(0)
    _leave(tasks)


def _leave(tasks: Mapping[str, Task[None]]) -> None:
    """Wait until all duties have ended, as far as they are waited for."""
    for name, task in tasks.items():
        try:
            task.wait(LEAVING)
        except TimeoutError:
            if name not in LEFT:
                raise
            say(f"! {LEFT[name]}")


def _reporting(name: str, work: Callable[[], object], stop: clock.Event) -> None:
    """Do one of the daemon's duties; the process ends with it where it fails, and another one takes its place."""
    try:
        work()
    except Exception as error:
        say(f"! {name} failed, and its process ends: {type(error).__name__}: {error}")
        stop.set()
        raise


def _tell_failed(error: MudanzaError) -> None:
    say(f"! {error}")


def _forget(app: App, stop: clock.Event) -> None:
    from mudanza.journal.errors import JournalLostError

    while not stop.is_set():
        with suppress(JournalLostError):  # it can wait; whoever works on the queue tells of it
            forget_old(app)
        stop.wait(FORGET_EVERY)
