"""``mudanza serve``: the daemon, which does all that the journal asks for, keeps balance, and answers by HTTP."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import __version__, clock
from mudanza.cli.auditing import audited
from mudanza.cli.balance import balancer_of, measuring
from mudanza.cli.carrying import elsewhere_of
from mudanza.cli.context import App, app_of
from mudanza.cli.finishers import finisher_of
from mudanza.cli.ha import guard_of
from mudanza.cli.host_power import saver_of
from mudanza.cli.output import Format, say
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand, Parallel, ending_at_signals, forget_old
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.operations.checking import arrivals_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mudanza.hypervisor.connections import Connections
    from mudanza.service.desk import Desk, Finisher
    from mudanza.service.notifying import Notifier
    from mudanza.service.pages.oidc import Oidc
    from mudanza.service.picture import Photographer, Picture
    from mudanza.service.watcher import Watcher

SWITCH_EVERY = 0.001
"""Seconds for which one thread may compute while others want to: whoever answers a request wants to a dozen times, and
each time waits for so long for everybody before it."""
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
"""Seconds between two looks whether somebody wants the daemon to end."""
FIGURES_EVERY = 1.0
"""Seconds between two looks at the moves under way."""
FORGET_EVERY = 6 * 3600.0
"""Seconds between two looks for what is older than the settings keep."""
WITHOUT_PICTURE = 10.0
"""Times the usual way from one picture of the cluster to the next, after which the daemon is not well."""

Socket = Annotated[
    Path | None, typer.Option("--socket", metavar="PATH", help="Where it answers; else service.socket of the settings.")
]
Balance = Annotated[
    bool, typer.Option("--balance/--no-balance", help="Also measure loads and keep the cluster in balance.")
]


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("serve")(serve)


@audited
def serve(context: typer.Context, socket: Socket = None, balance: Balance = True, parallel: Parallel = 2) -> None:
    """Run the daemon: do what is queued, finish what was left behind, keep balance, answer by HTTP at a local socket.

    Several may serve one PostgreSQL database: each job, plan and round is done by one of them. Ctrl-C or SIGTERM:
    begins nothing more and ends when what it does has ended; a second one cancels that.
    """
    try:
        import wsproto  # noqa: F401 - uvicorn takes it by name, once it serves

        from mudanza.service.api import api_of
        from mudanza.service.pages.dashboard import with_pages
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the daemon needs the Python package {error.name}, which is not installed",
            remedy='install it for this mudanza: pip install "mudanza[service]"',
        ) from error
    from mudanza.cli.hands import OwnHands
    from mudanza.journal.sessions import Sessions
    from mudanza.service.supervisor import notify
    from mudanza.service.watcher import Watcher

    sys.setswitchinterval(SWITCH_EVERY)
    app = app_of(context)
    stop, cancel = clock.new_event(), clock.new_event()
    with ending_at_signals(stop, cancel):
        photographer = _photographer(app)
        app.keeps = photographer.known
        watcher = Watcher(app.jobs, app.inventory.hosts, connect=app.loaded.settings.limits.connect)
        desk = _desk(app, photographer, watcher)
        front = with_pages(api_of(desk), Sessions(app.database), OwnHands(desk, watcher), _oidc(app))
        with _answering(app, front, socket):
            wound_up = desk.under_way.wound_up
            _work(
                app, photographer, watcher, stop, cancel, balance=balance, parallel=parallel, orders_wound_up=wound_up
            )
            notify("STOPPING=1")


@contextmanager
def _answering(app: App, api: ASGIApp, socket: Path | None) -> Iterator[None]:
    """Answer at the local socket, and at an address if the settings name one. Raises UsageError where it cannot."""
    from mudanza.service.server import LocalServer, NetworkServer

    settings = app.loaded.settings.service
    path = socket or Path(settings.socket)
    with ExitStack() as stack:
        local = LocalServer(api, path)
        stack.callback(local.stop)
        local.start()
        say(f"answering at {path}")
        if settings.listen:
            if not (settings.certificate and settings.key):
                raise UsageError(
                    f"to answer at {settings.listen} takes a certificate: by TLS alone tokens are safe",
                    remedy="name service.certificate and service.key in the settings",
                )
            network = NetworkServer(api, settings.listen, Path(settings.certificate), Path(settings.key))
            stack.callback(network.stop)
            network.start()
            say(f"answering at https://{settings.listen.rpartition(':')[0]}:{network.port}")
        yield


def _photographer(app: App) -> Photographer:
    from mudanza.journal.sightings import Sightings
    from mudanza.service.picture import Photographer

    limits = app.loaded.settings.limits
    remember = Sightings(app.database).keep
    return Photographer(app.inventory.hosts, connect=limits.connect, read=limits.read, say=say, remember=remember)


def _desk(app: App, photographer: Photographer, watcher: Watcher) -> Desk:
    from mudanza.journal.balance import Balances
    from mudanza.journal.fences import Fences
    from mudanza.journal.plans import Plans
    from mudanza.journal.tokens import Tokens
    from mudanza.service.desk import Desk

    def newest() -> Picture | None:
        return photographer.newest

    database = app.database
    parts = (app.jobs, Plans(database), Balances(database), app.audit, Tokens(database))

    def finisher(connections: Connections, kind: str) -> Finisher:
        return finisher_of(app, connections, kind, lambda _: None)

    settings = app.loaded.settings
    usual = {"shutdown_limit": settings.limits.shutdown, "guest_clock": settings.guest.clock}
    return Desk(
        *parts, newest, __version__, app, watcher.standing, usual, settings.balance.every, finisher,
        fence_tests=Fences(database).tests,
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


def _notifier(app: App, photographer: Photographer) -> Notifier:
    from mudanza.service.notifying import Notifier

    told = app.loaded.settings.notify
    return Notifier(app.database, told.known(), lambda: photographer.newest, told.host_down, say)


def _work(
    app: App,
    photographer: Photographer,
    watcher: Watcher,
    stop: clock.Event,
    cancel: clock.Event,
    *,
    balance: bool,
    parallel: int,
    orders_wound_up: Callable[[], bool] = lambda: True,
) -> None:
    """Do everything until ``stop`` is set, and what was begun has ended. ``orders_wound_up`` has no
    more of them begun, and tells whether those that were have ended."""
    from mudanza.fleet.minding import Minder
    from mudanza.hypervisor.bounded import Task
    from mudanza.journal.plans import Plans
    from mudanza.migration.worker import Worker
    from mudanza.operations.replicating import Replicator

    settings = app.loaded.settings
    errand = Errand(app, arrivals_of(app), LineView(), Format.NAME, cancel, watcher.hear)
    minder = Minder(Plans(app.database), app.jobs, stop, say, elsewhere_of(app))
    worker = Worker(app.jobs, errand.carry_out, parallel, stop, say)
    beside: list[tuple[str, Callable[[], object]]] = [
        ("inventory", lambda: photographer.run(settings.service.refresh, stop)),
        ("figures", lambda: watcher.run(FIGURES_EVERY, stop)),
        ("plans", minder.watch),
        (REPLICAS, lambda: Replicator(app, app.asked_by(), say, _tell_failed).run(stop)),
        ("housekeeping", lambda: _forget(app, stop)),
    ]
    beside.append((GUARD, lambda: guard_of(app).run(stop)))
    if settings.power.saving != "off":
        beside.append((POWER, lambda: saver_of(app).run(stop)))
    if settings.notify.webhooks:
        beside.append(("notify", lambda: _notifier(app, photographer).run(stop)))
    if balance:
        balancer = balancer_of(app, Format.NAME)
        beside.append(("balance", lambda: balancer.run(settings.balance.every, stop, measuring(app))))
    tasks = {name: Task(partial(_reporting, name, work, stop)) for name, work in beside}
    working = Task(lambda: worker.run(once=False))
    _watch(photographer, settings.service.refresh, stop, lambda: working.ended)
    stop.set()
    while minder.busy or not working.ended:
        clock.sleep(LOOK_EVERY)
    working.wait(0)
    while not orders_wound_up() and not cancel.is_set():
        clock.sleep(LOOK_EVERY)
    for name, task in tasks.items():
        try:
            task.wait(LEAVING)
        except TimeoutError:
            if name not in LEFT:
                raise
            say(f"! {LEFT[name]}")


def _reporting(name: str, work: Callable[[], object], stop: clock.Event) -> None:
    """Do one of the daemon's duties; the daemon ends with it where it fails, for whoever supervises to start anew."""
    try:
        work()
    except Exception as error:
        say(f"! {name} failed, and the daemon ends: {type(error).__name__}: {error}")
        stop.set()
        raise


def _tell_failed(error: MudanzaError) -> None:
    say(f"! {error}")


def _watch(photographer: Photographer, refresh: float, stop: clock.Event, gone: Callable[[], bool]) -> None:
    """Tell the supervisor that the daemon is ready, and then that it lives, as long as it does."""
    from mudanza.service.supervisor import notify, watchdog

    wanted = watchdog()
    begun, told, ready = clock.monotonic(), 0.0, False
    while not stop.wait(LOOK_EVERY) and not gone():
        if not ready and photographer.newest is not None:
            notify(f"READY=1\nSTATUS={len(photographer.newest.cluster.hosts)} hosts")
            ready = True
        fresh = clock.monotonic() - (photographer.took_last or begun) < WITHOUT_PICTURE * max(refresh, 1.0)
        if wanted is not None and fresh and clock.monotonic() - told > wanted / 3:
            notify("WATCHDOG=1")
            told = clock.monotonic()


def _forget(app: App, stop: clock.Event) -> None:
    from mudanza.journal.errors import JournalLostError

    while not stop.is_set():
        with suppress(JournalLostError):  # it can wait; whoever works on the queue tells of it
            forget_old(app)
        stop.wait(FORGET_EVERY)
