"""Logging in, with a token or by an OpenID Connect provider, and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mudanza.service.access import Failures
from mudanza.service.pages.oidc import Oidc
from mudanza.service.pages.session import keep, log_in, log_out
from mudanza.service.pages.site import Fields, page, see
from mudanza.service.problems import NotThereError, TooManyError, UnknownAskerError
from mudanza.service.sight import audited

BEGUN = "__Host-mudanza-oidc"
"""The cookie that ties a log-in at the provider to the browser that began it."""

router = APIRouter()
Next = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/login")
def login(request: Request, where: Next = "/") -> Response:
    """Show where one logs in: all that a stranger sees."""
    return _login(request, "", _ours(where))


@router.post("/login")
def enter(request: Request, fields: Fields) -> Response:
    """Log in with a token."""
    where = _ours(fields.get("next", "/"))
    response = see(where)
    try:
        log_in(request, response, fields.get("token", ""))
    except (UnknownAskerError, TooManyError) as error:
        many = isinstance(error, TooManyError)
        return _login(request, "many" if many else "bad", where, status=429 if many else 401)
    return response


@router.post("/logout")
def leave(request: Request) -> Response:
    """Log out."""
    response = see("/login")
    log_out(request, response)
    return response


def _ours(where: str) -> str:
    """Return a path of ours, whatever somebody wants us to send people to."""
    return where if where.startswith("/") and not where.startswith(("//", "/\\")) else "/"


def _login(request: Request, error: str, where: str, *, told: str = "", status: int = 200) -> Response:
    oidc: Oidc | None = request.app.state.oidc
    provider = oidc.name if oidc is not None else ""
    return page(request, "login.html", status=status, error=error, told=told, where=where, provider=provider)


def _oidc(request: Request) -> Oidc:
    found: Oidc | None = request.app.state.oidc
    if found is None:
        raise NotThereError("nobody is let in here by a provider", remedy="see [oidc] of the settings")
    return found


@router.get("/oidc/begin")
def begin(request: Request, where: Next = "/") -> Response:
    """Send somebody to the provider."""
    uri, key = _oidc(request).begin(f"{request.base_url}oidc/back", _ours(where))
    response = see(uri)
    response.set_cookie(BEGUN, key, secure=True, httponly=True, samesite="lax", path="/")
    return response


@router.get("/oidc/back")
def back(request: Request) -> Response:
    """Let in whom the provider has sent back, if its word is good and one of their groups may do something."""
    oidc, failures = _oidc(request), _failures(request)
    address = str(request.client.host) if request.client else ""
    try:
        failures.refuse_many(address)
        asker, where, subject = oidc.finish(request.cookies.get(BEGUN, ""), request.query_params)
    except UnknownAskerError as error:
        failures.note(address)
        return _login(request, "told", "/", told=str(error), status=401)
    except TooManyError:
        return _login(request, "many", "/", status=429)
    response = see(where)
    with audited(request.app.state.desk, asker, "login", oidc.provider.issuer, subject):
        keep(request, response, asker)
    response.delete_cookie(BEGUN, secure=True, httponly=True, samesite="lax", path="/")
    return response


def _failures(request: Request) -> Failures:
    found: Failures = request.app.state.failures
    return found
