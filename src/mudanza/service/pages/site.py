"""The pages' application: what is common to all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from mudanza.journal.sessions import Sessions
from mudanza.model.access import Asker, Scope
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.units import format_duration, format_rate, format_size
from mudanza.service.access import Failures
from mudanza.service.desk import Desk
from mudanza.service.pages.session import StrangerError
from mudanza.service.pages.words import in_language, language_of
from mudanza.service.problems import problem_of

POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""What browsers are to do for our pages: nothing that does not come from here."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MOST_FIELDS = 2000

_TEMPLATES = Environment(
    loader=PackageLoader("mudanza.service.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _written(write: Callable[[float], str]) -> Any:
    @pass_context
    def written(context: Context, value: float | None) -> str:
        if value is None:
            return "–"
        return write(value).replace(".", ",") if context["language"] == "es" else write(value)

    return written


_TEMPLATES.filters.update(
    size=_written(format_size), rate=_written(format_rate), duration=_written(format_duration), quoted=quote
)


def pages_of(desk: Desk, failures: Failures, sessions: Sessions) -> FastAPI:
    """Return the application that has what is common, and no page yet."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.desk, app.state.failures, app.state.sessions = desk, failures, sessions
    app.mount("/static", StaticFiles(packages=[("mudanza.service.pages", "static")]))
    app.add_exception_handler(StrangerError, _to_log_in)
    app.add_exception_handler(MudanzaError, _tell)
    app.add_exception_handler(RequestValidationError, _tell_wrong)
    app.add_exception_handler(HTTPException, _tell_wrong)
    app.middleware("http")(_with_headers)
    return app


async def _with_headers(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await go_on(request)
    for name, value in HEADERS.items():
        response.headers[name] = value
    if not request.url.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-store"
        response.headers["Vary"] = "Accept-Language, Cookie"
    return response


def render(request: Request, template: str, visitor: Asker | None = None, **known: Any) -> str:
    """Return a template, filled, in the browser's language."""
    language = language_of(request.headers.get("accept-language", ""))
    may = {scope.value: visitor is not None and visitor.may(scope) for scope in Scope}
    common = {
        "language": language,
        "_": in_language(language),
        "visitor": visitor,
        "may": may,
        "here": request.url.path,
    }
    return _TEMPLATES.get_template(template).render(common | known)


def page(request: Request, template: str, visitor: Asker | None = None, *, status: int = 200, **known: Any) -> Response:
    """Return a page."""
    return HTMLResponse(render(request, template, visitor, **known), status)


def see(where: str) -> Response:
    """Return what makes a browser look elsewhere, after an order."""
    return RedirectResponse(where, 303)


async def _fields(request: Request) -> Mapping[str, str]:
    """Return what a form has sent; of several values the last one."""
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise UsageError(f"this is no form: {error}") from error


Fields = Annotated[Mapping[str, str], Depends(_fields)]


async def _to_log_in(request: Request, _error: Exception) -> Response:
    where = request.url.path if request.method == "GET" and not request.url.path.startswith("/live/") else "/"
    return see(f"/login?next={quote(where)}")


async def _tell(request: Request, error: Exception) -> Response:
    if not isinstance(error, MudanzaError):
        raise error
    status, problem = problem_of(error)
    return page(request, "problem.html", status=status, problem=problem)


async def _tell_wrong(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 422
    detail = str(error.detail) if isinstance(error, HTTPException) else "the request is not as it should be"
    problem = {"status": status, "detail": detail, "remedy": "", "vm_state": "", "findings": ()}
    return page(request, "problem.html", status=status, problem=problem)
