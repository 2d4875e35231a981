"""Who looks at the pages: the user at the other end of the local socket, or who has logged in with a token."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.requests import HTTPConnection

from mudanza.model.access import Asker, Scope
from mudanza.model.errors import MudanzaError
from mudanza.service.access import LOCAL, Failures
from mudanza.service.problems import NotAllowedError, UnknownAskerError

COOKIE = "__Host-mudanza"
"""Browsers take one of that name by TLS only, and send it to this very host alone."""


class StrangerError(MudanzaError):
    """Whoever asks for a page has to log in first."""


def visitor_of(request: HTTPConnection) -> Asker:
    """Return who looks. Raises StrangerError."""
    if local := request.scope.get("state", {}).get(LOCAL):
        address = str(request.client.host) if request.client else str(local)
        return Asker(address, frozenset({Scope.ADMIN}))
    opens = request.cookies.get(COOKIE, "")
    found = request.app.state.sessions.whose(opens) if opens else None
    if found is None:
        raise StrangerError("log in first")
    return found  # type: ignore[no-any-return]


def visitor_for(scope: Scope) -> object:
    """Return what lets only those order something who may."""

    def check(visitor: Visitor) -> Asker:
        if not visitor.may(scope):
            raise NotAllowedError(f"{visitor.name} may not {scope.value}", remedy="ask for a token with that scope")
        return visitor

    return Depends(check)


Visitor = Annotated[Asker, Depends(visitor_of)]
Mover = Annotated[Asker, visitor_for(Scope.MIGRATE)]
Rescuer = Annotated[Asker, visitor_for(Scope.FAILOVER)]
Planner = Annotated[Asker, visitor_for(Scope.PLAN)]
Admin = Annotated[Asker, visitor_for(Scope.ADMIN)]


def log_in(request: Request, response: Response, opens: str) -> Asker:
    """Begin a session with a token. Raises UnknownAskerError, or TooManyError."""
    address = str(request.client.host) if request.client else ""
    failures: Failures = request.app.state.failures
    failures.refuse_many(address)
    found = request.app.state.desk.tokens.whose(opens.strip()) if opens.strip() else None
    if found is None:
        failures.note(address)
        raise UnknownAskerError("this token is not good")
    keep(request, response, found, opens.strip())
    return found  # type: ignore[no-any-return]


def keep(request: Request, response: Response, asker: Asker, key: str | None = None) -> None:
    """Begin a session, and have the browser keep what opens it."""
    cookie = request.app.state.sessions.begin(asker, key)
    response.set_cookie(COOKIE, cookie, secure=True, httponly=True, samesite="lax", path="/")


def log_out(request: Request, response: Response) -> None:
    """End the session."""
    if opens := request.cookies.get(COOKIE):
        request.app.state.sessions.end(opens)
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax", path="/")
