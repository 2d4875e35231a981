"""What stands before the pages and the API: which of them is meant, and who may not even ask."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mudanza.service.access import LOCAL
from mudanza.service.problems import MEDIA_TYPE, NotAllowedError, problem_of

_READING = ("GET", "HEAD", "OPTIONS")
_API = ("/api/", "/metrics", "/openapi.json")


class Front:
    """Gives requests to the API or to the pages.

    Browsers send orders, with what opens a session, for any page that somebody looks at. So what changes something is
    refused where another site's page asks for it; and at the local socket, which some forward to a port of their own
    machine, everything that asks for a name of the internet, which may be any site's.
    """

    def __init__(self, api: ASGIApp, pages: ASGIApp) -> None:
        self._api = api
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._api(scope, receive, send)
            return
        if refusal := _refusal(HTTPConnection(scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})  # before it is accepted: 403
                return
            status, body = problem_of(NotAllowedError(refusal))
            await JSONResponse(body, status, media_type=MEDIA_TYPE)(scope, receive, send)
            return
        meant = self._api if scope["path"].startswith(_API) else self._pages
        await meant(scope, receive, send)


def _refusal(request: HTTPConnection) -> str:
    """Return why a request is not even looked at; empty: it is."""
    host = request.headers.get("host", "")
    if request.scope.get("state", {}).get(LOCAL) and not _is_local(host):
        return "at the local socket only this machine is asked for: http://localhost"
    if request.scope.get("method") not in _READING and _is_foreign(request, host):
        return "another site's page has asked for that"
    return ""


def _is_local(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("127.0.0.1", "::1") or not set(".:") & set(name)


def _is_foreign(request: HTTPConnection, host: str) -> bool:
    """Whether a page of another site has sent it; what is not a browser says nothing of that."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc != host
