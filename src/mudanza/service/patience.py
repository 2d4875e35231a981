"""HTTP/1.1 and WebSockets for clients that may be slow: whoever keeps the daemon waiting is hung up on, and takes
nobody's place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

REQUEST_LIMIT = 20.0
"""Seconds from the first sign of a client to the last byte of its request."""
READ_LIMIT = 30.0
"""Seconds for which a client may leave unread what was sent to it, while more is to come."""


class Patience(H11Protocol):
    """A connection whose client may take its time, up to a limit."""

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*args, **named)  # type: ignore[arg-type]
        self._asking: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """Take what comes; once that is a whole request, it is waited for no more."""
        super().data_received(data)
        if self._is_whole() or self.transport.get_protocol() is not self:
            self._asking = _end(self._asking)
        elif self._asking is None:
            self._wait_for_request()

    def on_response_complete(self) -> None:
        """Wait for the rest of a request that has come behind this one, if one has."""
        super().on_response_complete()
        if not self._is_whole() and self._asking is None and not self.transport.is_closing():
            self._wait_for_request()

    def pause_writing(self) -> None:
        """Begin to wait until the client reads on."""
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(READ_LIMIT, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._reading = _end(self._reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._asking, self._reading = _end(self._asking), _end(self._reading)
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        give_up: Callable[[], None] = self.transport.abort
        self._asking = self.loop.call_later(REQUEST_LIMIT, give_up)

    def _is_whole(self) -> bool:
        """Whether a request has come to its end and is being answered, or was and nothing has come since."""
        if self.cycle is None:
            return False
        if not self.cycle.response_complete:
            return not self.cycle.more_body
        return self.timeout_keep_alive_task is not None  # it rests: uvicorn waits for the next one


class PatientSocket(WSProtocol):
    """A WebSocket whose client may take its time to read, up to the same limit; whether it is there at all uvicorn asks
    by itself."""

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*args, **named)  # type: ignore[arg-type]
        self._reading: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Begin to wait until the client reads on."""
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(READ_LIMIT, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._reading = _end(self._reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._reading = _end(self._reading)
        super().connection_lost(exc)


def _end(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Have a timer do nothing any more; return what stands for it then."""
    if timer is not None:
        timer.cancel()
    return None
