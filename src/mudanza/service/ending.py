"""Telling answers that last that the server is about to end, so that they end by themselves, and cleanly."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

_ENDING = "ending"


def told_of_ending(app: ASGIApp, is_ending: Callable[[], bool]) -> ASGIApp:
    """Return the application as one whose answers can ask whether the server is about to end."""

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {**scope.get("state", {}), _ENDING: is_ending}}, receive, send)

    return told


def ending_of(request: Request) -> Callable[[], bool]:
    """Return what tells whether the server that answers a request is about to end."""
    found: Callable[[], bool] = request.scope.get("state", {}).get(_ENDING, lambda: False)
    return found
