"""Somebody at a guest's console or display: what comes from it, and what is typed, over a WebSocket, in messages of
bytes. The first one, which is empty, says that it is open, which takes a login at the guest's host; one of text says
why it is not.

Who may is looked at again while it lasts, for it stays open when somebody's token is taken away.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from fastapi import WebSocket, WebSocketDisconnect

from mudanza import clock
from mudanza.journal.errors import JournalLostError
from mudanza.model.access import Asker, Scope
from mudanza.model.errors import BlockedError, HypervisorError, MudanzaError
from mudanza.model.vm import Vm
from mudanza.service.pages.hands import Hands, Screen
from mudanza.service.pages.session import visitor_of
from mudanza.service.problems import NotAllowedError, TooManyError
from mudanza.service.sight import audited, find_vm

MOST_OPEN = 16
"""Open at one time, of all guests, consoles and displays."""
LASTS = 12 * 3600.0
"""Seconds for which one may be open."""
LOOK_AGAIN = 10.0
"""Seconds between two looks whether whoever has it open may still."""
OVER, REFUSED = 1000, 1008
"""How a WebSocket is closed (RFC 6455, 7.4.1)."""
MOST_REASON = 120
"""Bytes that say why; a frame that closes has room for 123."""

Open = Callable[[Hands, Vm], Screen]
"""Opens a guest's console, or its display."""


class Places:
    """How many may be open."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MOST_OPEN)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have a place while the block runs. Raises TooManyError."""
        if not self._free.acquire(blocking=False):
            raise TooManyError("as many consoles and displays are open as may be", remedy="close one")
        try:
            yield
        finally:
            self._free.release()


async def talk(socket: WebSocket, key: str, what: str, opens: Open) -> None:
    """Bring what comes from a guest, and take what is typed; ``what`` is opened of it, in the audit's word."""
    try:
        visitor, vm = await asyncio.to_thread(_allowed, socket, key)
    except MudanzaError:
        await socket.close(REFUSED)  # nothing was accepted: a browser is told no more than that
        return
    await socket.accept()
    somebody = Talk(socket, visitor, vm, asyncio.get_running_loop())
    guest = _in_own_thread(lambda: somebody.listen(what, opens), f"{what} of {vm.name}")
    here = [asyncio.create_task(each) for each in (somebody.take_typed(), somebody.watch())]
    try:
        await asyncio.wait([guest, *here], return_when=asyncio.FIRST_COMPLETED)
    finally:  # also where the daemon ends, and nothing can be waited for any more
        for each in here:
            each.cancel()
        clock.start_thread(somebody.leave, f"end of a {what}")
    why = ""
    try:
        await guest
    except MudanzaError as error:
        why = f"{error}: {error.remedy}" if error.remedy else str(error)
    with suppress(RuntimeError, WebSocketDisconnect):  # the browser has gone first
        if why:
            await socket.send_text(why)
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
    """Somebody at one guest."""

    def __init__(self, socket: WebSocket, visitor: Asker, vm: Vm, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = socket
        self._visitor = visitor
        self._vm = vm
        self._loop = loop
        self._screen: Screen | None = None
        self._opened = asyncio.Event()
        self._left = False

    def listen(self, what: str, opens: Open) -> None:
        """Send what comes from the guest, until either end goes. Raises what keeps it from being opened."""
        state, vm = self._socket.app.state, self._vm
        hands: Hands = state.hands
        if not vm.state.active:
            raise BlockedError(f"VM {vm.name!r} is off")
        with (
            state.consoles.taken(),
            audited(state.desk, self._visitor, what, vm.uuid),
            opens(hands, vm) as screen,
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
        """Return once whoever has it open may not any more, the guest is gone, or it was open for long enough."""
        until = clock.monotonic() + LASTS
        while clock.monotonic() < until:
            await asyncio.sleep(LOOK_AGAIN)
            try:
                await asyncio.to_thread(_allowed, self._socket, self._vm.uuid)
            except JournalLostError:
                continue
            except MudanzaError:
                return

    def leave(self) -> None:
        """Let the guest go; ``listen`` ends then."""
        self._left = True
        if self._screen is not None:
            self._screen.close()
