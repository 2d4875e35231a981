"""Sending parts of a page each time that they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from mudanza.model.errors import MudanzaError
from mudanza.service.ending import ending_of

LOOK_EVERY = 1.0
"""Seconds between two looks whether something has changed."""


def lasting(
    request: Request,
    draw: Callable[[], str],
    over: Callable[[], bool] = lambda: False,
    mark: Callable[[], object] = object,
) -> Response:
    """Return what ``draw`` returns, as server-sent events, each time that it is something else.

    ``over``: whether the page is to be loaded anew instead, after which nothing more is sent; ``mark``: what is the
    same as long as what would be drawn is, and found out sooner.
    """
    return EventSourceResponse(changes(draw, over, mark, ending_of(request)))


async def changes(
    draw: Callable[[], str],
    over: Callable[[], bool],
    mark: Callable[[], object] = object,
    ending: Callable[[], bool] = lambda: False,
) -> AsyncIterator[ServerSentEvent]:
    """Yield each change, until it is over or the daemon is about to end: browsers ask anew then."""
    sent, marked = "", object()

    def look() -> tuple[bool, str, object]:
        now = mark()
        return over(), (sent if now == marked else draw()), now

    while not ending():
        try:
            ended, drawn, marked = await asyncio.to_thread(look)
        except MudanzaError:  # what it was about is gone, or the journal does not answer: the page itself tells
            await asyncio.sleep(LOOK_EVERY)
            continue
        if drawn != sent:
            yield ServerSentEvent(drawn, event="drawn")
            sent = drawn
        if ended:
            yield ServerSentEvent("", event="anew")
            return
        await asyncio.sleep(LOOK_EVERY)
