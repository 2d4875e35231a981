"""A guest's serial console on a page: what it writes, and what is typed, over a WebSocket. The first message says that
it is open, which takes a login at the guest's host.

Who may is looked at again while it lasts, for a console stays open when somebody's token is taken away.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, WebSocket, WebSocketDisconnect

from mudanza import clock
from mudanza.journal.errors import JournalLostError
from mudanza.model.access import Asker, Scope
from mudanza.model.errors import BlockedError, HypervisorError, MudanzaError
from mudanza.model.vm import Vm
from mudanza.service.pages.hands import Hands, Screen
from mudanza.service.pages.session import Mover, visitor_of
from mudanza.service.pages.site import page
from mudanza.service.problems import NotAllowedError, TooManyError
from mudanza.service.sight import audited, find_vm

MOST_CONSOLES = 16
"""Open at one time, of all guests."""
LOOK_AGAIN = 10.0
"""Seconds between two looks whether whoever has it open may still."""
OVER, REFUSED = 1000, 1008
"""How a WebSocket is closed (RFC 6455, 7.4.1)."""
MOST_REASON = 120
"""Bytes that say why; a frame that closes has room for 123."""

router = APIRouter(prefix="/vms/{key}/console")
Key = Annotated[str, Path(min_length=1, max_length=255)]


class Places:
    """How many consoles may be open."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MOST_CONSOLES)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have a place while the block runs. Raises TooManyError."""
        if not self._free.acquire(blocking=False):
            raise TooManyError("as many consoles are open as may be", remedy="close one")
        try:
            yield
        finally:
            self._free.release()


@router.get("")
def console(request: Request, visitor: Mover, key: Key) -> Response:
    """Show the console of a guest that runs."""
    return page(request, "console.html", visitor, vm=find_vm(request.app.state.desk, visitor, key))


@router.websocket("/stream")
async def stream(socket: WebSocket, key: Key) -> None:
    """Bring what the guest writes, and take what is typed."""
    try:
        visitor, vm = await asyncio.to_thread(_allowed, socket, key)
    except MudanzaError:
        await socket.close(REFUSED)  # nothing was accepted: a browser is told no more than that
        return
    await socket.accept()
    talk = Talk(socket, visitor, vm, asyncio.get_running_loop())
    guest = _in_own_thread(talk.listen, f"console of {vm.name}")
    here = [asyncio.create_task(each) for each in (talk.take_typed(), talk.watch())]
    try:
        await asyncio.wait([guest, *here], return_when=asyncio.FIRST_COMPLETED)
    finally:  # also where the daemon ends, and nothing can be waited for any more
        for each in here:
            each.cancel()
        clock.start_thread(talk.leave, "end of a console")
    why = ""
    try:
        await guest
    except MudanzaError as error:
        why = str(error)
    with suppress(RuntimeError, WebSocketDisconnect):  # the browser has gone first
        await socket.close(REFUSED if why else OVER, why.encode()[:MOST_REASON].decode(errors="ignore"))


def _allowed(socket: WebSocket, key: str) -> tuple[Asker, Vm]:
    """Return who asks, and the guest. Raises what says why not."""
    visitor = visitor_of(socket)
    if not visitor.may(Scope.MIGRATE):
        raise NotAllowedError(f"{visitor.name} may not {Scope.MIGRATE.value}")
    return visitor, find_vm(socket.app.state.desk, visitor, key)


def _in_own_thread(work: Callable[[], None], name: str) -> asyncio.Future[None]:
    """Do what waits for long in a thread that nobody else waits for."""
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()  # nobody can call it off any more

    def doing() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as failure:  # handed over to whoever waits
            done.set_exception(failure)

    clock.start_thread(doing, name)
    return asyncio.wrap_future(done)


class Talk:
    """Somebody at one guest's console."""

    def __init__(self, socket: WebSocket, visitor: Asker, vm: Vm, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = socket
        self._visitor = visitor
        self._vm = vm
        self._loop = loop
        self._screen: Screen | None = None
        self._opened = asyncio.Event()
        self._left = False

    def listen(self) -> None:
        """Send what the guest writes, until either end goes. Raises what keeps the console from being opened."""
        state, vm = self._socket.app.state, self._vm
        hands: Hands = state.hands
        if not vm.state.active:
            raise BlockedError(f"VM {vm.name!r} is off")
        with (
            state.consoles.taken(),
            audited(state.desk, self._visitor, "console", vm.uuid),
            hands.console(vm.uuid, vm.host) as screen,
        ):
            self._screen = screen
            self._loop.call_soon_threadsafe(self._opened.set)
            self._send(b"")  # it is open
            while not self._left and (data := screen.receive()):
                self._send(data)

    def _send(self, data: bytes) -> None:
        """Wait until a browser has taken it, so that it does not pile up here."""
        try:
            asyncio.run_coroutine_threadsafe(self._socket.send_bytes(data), self._loop).result()
        except (RuntimeError, WebSocketDisconnect):
            self._left = True

    async def take_typed(self) -> None:
        """Pass on what is typed, once it is open, until the browser goes or the guest takes no more."""
        await self._opened.wait()
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            typed, screen = message.get("bytes") or (message.get("text") or "").encode(), self._screen
            if screen is None or not typed:
                continue
            try:
                await asyncio.to_thread(screen.send, typed)
            except HypervisorError:
                return

    async def watch(self) -> None:
        """Return once whoever has it open may not any more, or the guest is gone."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            try:
                await asyncio.to_thread(_allowed, self._socket, self._vm.uuid)
            except JournalLostError:
                continue
            except MudanzaError:
                return

    def leave(self) -> None:
        """Let the console go; ``listen`` ends then."""
        self._left = True
        if self._screen is not None:
            self._screen.close()
