"""``mudanza serve``: the daemon, which does all that the journal asks for, keeps balance, and answers by HTTP."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.output import say
from mudanza.cli.work import Parallel, ending_at_signals
from mudanza.model.errors import UsageError

if TYPE_CHECKING:
    from mudanza.cli.serving import Doors, Place
    from mudanza.service.processes import Line, Part

SWITCH_EVERY = 0.001
"""Seconds for which one thread may compute while others want to: whoever answers a request wants to a dozen times, and
each time waits for so long for everybody before it."""

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

        from mudanza.cli import serving  # noqa: F401 - all that the processes need is loaded once, before they part
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the daemon needs the Python package {error.name}, which is not installed",
            remedy='install it for this mudanza: pip install "mudanza[service]"',
        ) from error
    from mudanza.operations.reigning import refuse_replaced
    from mudanza.service.processes import Processes

    app = app_of(context)
    refuse_replaced(app)
    stop, cancel = clock.new_event(), clock.new_event()
    with ending_at_signals(stop, cancel), listening(app, socket) as doors:
        front, workers = parts_of(app, doors, balance=balance, parallel=parallel)
        Processes(front, workers, say, app.database.dispose).run(stop, cancel)


@contextmanager
def listening(app: App, path: Path | None) -> Iterator[Doors]:
    """Listen at the local socket, and at an address if the settings name one. Raises UsageError where it cannot."""
    from mudanza.cli.serving import Doors
    from mudanza.service.server import listen_at, listen_at_path

    settings = app.loaded.settings.service
    if settings.listen and not (settings.certificate and settings.key):
        raise UsageError(
            f"to answer at {settings.listen} takes a certificate: by TLS alone tokens are safe",
            remedy="name service.certificate and service.key in the settings",
        )
    place = path or Path(settings.socket)
    network = listen_at(settings.listen) if settings.listen else None
    local = listen_at_path(place)
    try:
        say(f"answering at {place}")
        if network is not None:
            say(f"answering at https://{settings.listen.rpartition(':')[0]}:{network.getsockname()[1]}")
        yield Doors(place, local, settings.listen, network, Path(settings.certificate), Path(settings.key))
    finally:
        local.close()
        with suppress(OSError):
            place.unlink()
        if network is not None:
            network.close()


def parts_of(app: App, doors: Doors, *, balance: bool, parallel: int) -> tuple[Part, Sequence[Part]]:
    """Return what the daemon's processes do: the one that answers, and those that work, the first of which also looks
    at the hosts and does what one does for all."""
    from mudanza.cli import serving
    from mudanza.service.processes import Part
    from mudanza.service.sharing import new_address

    many = min(app.loaded.settings.service.workers, parallel)
    places: list[Place] = [serving.Place(f"worker {n + 1}", *new_address()) for n in range(many)]
    shares = [len(range(n, parallel, many)) for n in range(many)]

    def part(name: str, work: Callable[[App, Line], None]) -> Part:
        return Part(name, lambda line: _alone(app, line, work))

    leader = part(
        places[0].name,
        lambda own, line: serving.lead(own, places[0], line, balance=balance, parallel=shares[0]),
    )
    followers = [
        part(place.name, partial(_follow, place, places[0], share))
        for place, share in zip(places[1:], shares[1:], strict=True)
    ]
    front = part("http", lambda own, line: serving.answer(own, doors, tuple(places), line))
    return front, (leader, *followers)


def _follow(place: Place, leader: Place, share: int, app: App, line: Line) -> None:
    from mudanza.cli import serving

    serving.follow(app, place, leader, line, parallel=share)


def _alone(app: App, line: Line, work: Callable[[App, Line], None]) -> None:
    """Do a process's work, with a database and connections of its own."""
    sys.setswitchinterval(SWITCH_EVERY)
    work(app.anew(), line)
