"""Finding out who asks, and what they may."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from mudanza import clock
from mudanza.model.access import Asker, Scope
from mudanza.service.desk import Desk
from mudanza.service.problems import NotAllowedError, TooManyError, UnknownAskerError

LOCAL = "local"
"""Where in a request's state it stands that the kernel told who asks, and who that is."""
MOST_FAILURES = 10
"""Times an address may come with what is no good token..."""
FAILURES_COUNT_FOR = 60.0
"""... within so many seconds, before it has to wait."""
MOST_ADDRESSES = 10_000
"""Addresses that are remembered; when there are more, those whose time has passed go, and then the first to come."""


class Failures:
    """Who has come with what is no good token, and how often of late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, list[float]] = {}

    def refuse_many(self, address: str) -> None:
        """Raise TooManyError where an address has failed too often of late."""
        with self._lock:
            if len(self._recent(address)) >= MOST_FAILURES:
                raise TooManyError(
                    "too many requests without a good token came from there", remedy="try again in a minute"
                )

    def note(self, address: str) -> None:
        """Count one more."""
        with self._lock:
            if len(self._since) >= MOST_ADDRESSES:
                self._since = {each: found for each in self._since if (found := self._recent(each))}
                while len(self._since) >= MOST_ADDRESSES:
                    del self._since[next(iter(self._since))]
            self._since[address] = [*self._recent(address), clock.monotonic()][-MOST_FAILURES:]

    def _recent(self, address: str) -> list[float]:
        begin = clock.monotonic() - FAILURES_COUNT_FOR
        return [at for at in self._since.get(address, ()) if at > begin]


def asker_of(request: Request) -> Asker:
    """Return who asks: the user at the other end of the local socket, or whose token it is.

    Raises UnknownAskerError, or TooManyError.
    """
    address = str(request.client.host) if request.client else ""
    if request.scope.get("state", {}).get(LOCAL):
        return Asker(address, frozenset({Scope.ADMIN}))
    desk: Desk = request.app.state.desk
    failures: Failures = request.app.state.failures
    failures.refuse_many(address)
    kind, _, opens = request.headers.get("authorization", "").partition(" ")
    found = desk.tokens.whose(opens.strip()) if kind.lower() == "bearer" and opens.strip() else None
    if found is None:
        failures.note(address)
        raise UnknownAskerError(
            "this needs a token that is good",
            remedy="send it: Authorization: Bearer TOKEN; have one made: mudanza token make NAME --scope read",
        )
    return found


def may_still(request: Request) -> bool:
    """Whether somebody whose request was granted would be let in again: whose token was not taken away since."""
    if request.scope.get("state", {}).get(LOCAL):
        return True
    desk: Desk = request.app.state.desk
    found = desk.tokens.whose(request.headers.get("authorization", "").partition(" ")[2].strip())
    return found is not None


def needs(scope: Scope) -> Callable[[Request], Asker]:
    """Return what lets only those in who may ask for such things."""

    def check(request: Request) -> Asker:
        asker = asker_of(request)
        if not asker.may(scope):
            raise NotAllowedError(f"{asker.name} may not {scope.value}", remedy="ask for a token with that scope")
        return asker

    return check


Reader = Annotated[Asker, Depends(needs(Scope.READ))]
Mover = Annotated[Asker, Depends(needs(Scope.MIGRATE))]
Admin = Annotated[Asker, Depends(needs(Scope.ADMIN))]
Protector = Annotated[Asker, Depends(needs(Scope.FAILOVER))]
Fencer = Annotated[Asker, Depends(needs(Scope.FENCE))]
Planner = Annotated[Asker, Depends(needs(Scope.PLAN))]


def refuse_limited(asker: Asker) -> None:
    """Raise NotAllowedError for somebody who may not know of all hosts and VMs: what is asked for is about all."""
    if asker.is_limited:
        raise NotAllowedError(
            f"{asker.name} is for certain hosts or VMs only, and this is about all of them",
            remedy="ask for a token without --host and --tag",
        )
