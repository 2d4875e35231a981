"""The daemon's API over a scene: each request is answered by a thread of the simulation, as by one of the daemon's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from mudanza import clock
from mudanza.cli.carrying import elsewhere_of
from mudanza.cli.context import App
from mudanza.cli.finishers import finisher_of
from mudanza.cli.output import Format
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand
from mudanza.fleet.minding import Minder
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.balance import Balances
from mudanza.journal.plans import Plans
from mudanza.journal.tokens import Tokens
from mudanza.migration.worker import Worker
from mudanza.operations.checking import arrivals_of
from mudanza.service.access import LOCAL
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.picture import Picture
from mudanza.service.watcher import Watcher
from tests.twin.scene import Scene


class InProcess(httpx.BaseTransport):
    """Carries requests to an application of this process, as from a user of this machine who may ask for everything."""

    def __init__(self, app: Callable[..., Awaitable[None]], *, local: bool = True) -> None:
        self._app = app
        self._local = local

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the whole answer."""
        return asyncio.run(self._ask(request))

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        async def local(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            await self._app({**scope, "state": {LOCAL: self._local}}, receive, send)

        transport = httpx.ASGITransport(local, client=("somebody@localhost", 1))
        answer = await transport.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(await answer.aread()))


LATER = 0.1
"""Simulated seconds that pass before each request."""


class Passing(InProcess):
    """Lets time pass before each request, so that what the daemon does goes on; and tells of each answer.

    What the daemon prints meanwhile is no business of the command's.
    """

    def __init__(self, the: Scene, desk: Desk, watcher: Watcher) -> None:
        super().__init__(api_of(desk))
        self.desk = desk
        self.watcher = watcher
        self._the = the
        self._log = StringIO()
        self.on_answer: Callable[[httpx.Request, httpx.Response], None] = lambda *_: None
        """Told of each answer; what it raises comes in place of that."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the whole answer, after a while."""
        self.let_pass(LATER)
        with redirect_stdout(self._log), redirect_stderr(self._log):
            answer = super().handle_request(request)
        answer.read()
        self.on_answer(request, answer)
        return answer

    def let_pass(self, seconds: float) -> None:
        """Let time pass."""
        with redirect_stdout(self._log), redirect_stderr(self._log):
            self._the.twin.scheduler.advance(seconds=seconds)


def desk_over(the: Scene, folder: Path, watcher: Watcher | None = None) -> Desk:
    """Return what the API works on; its picture is always of now. ``watcher`` knows how jobs stand."""
    settings = folder / "daemon.toml"
    settings.write_text(f"database = {the.database!r}\n")
    app = App(settings, debug=False)

    def newest() -> Picture:
        return Picture(read_cluster(the.inventory.hosts()), 1000.0, 0.1)

    database = app.database
    parts = (app.jobs, Plans(database), Balances(database), app.audit, Tokens(database))
    desk = Desk(*parts, newest, "1.2.3", app, finisher=lambda at, kind: finisher_of(app, at, kind, lambda _: None))
    return replace(desk, standing=watcher.standing) if watcher is not None else desk


@contextmanager
def answered_in(the: Scene) -> Iterator[None]:
    """Have the simulation answer requests, which else the server's own pool of threads does."""

    async def in_the_scene(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return the.do(partial(work, *given, **named), "daemon", points=5, beside=True)

    with (
        patch("fastapi.routing.run_in_threadpool", in_the_scene),
        patch("fastapi.dependencies.utils.run_in_threadpool", in_the_scene),
    ):
        yield


def work_in(the: Scene, folder: Path, watcher: Watcher) -> Controller:
    """Have a daemon carry out jobs and plans in the simulation, for as long as that lasts."""
    settings, controller = folder / "worker.toml", Controller("worker")
    settings.write_text(f"database = {the.database!r}\n")

    def work() -> None:
        app, never = App(settings, debug=False), clock.new_event()
        said: list[str] = []
        errand = Errand(app, arrivals_of(app), LineView(said.append), Format.NAME, never, watcher.hear)
        minder = Minder(Plans(app.database), app.jobs, never, said.append, elsewhere_of(app))
        clock.start_thread(minder.watch, "plans")
        Worker(app.jobs, errand.carry_out, 2, never, said.append).run(once=False)

    the.twin.scheduler.start(work, "worker", controller)
    return controller


@contextmanager
def asking(the: Scene, folder: Path) -> Iterator[httpx.Client]:
    """Ask the API over a scene."""
    desk = desk_over(the, folder)
    with answered_in(the), httpx.Client(transport=InProcess(api_of(desk)), base_url="http://local/api/v1") as client:
        yield client
