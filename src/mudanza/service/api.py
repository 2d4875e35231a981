"""The HTTP API: what is where, what is done and was, and asking for moves."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from mudanza.model.carrying import Run, RunState
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.plain import plain
from mudanza.model.vm import Vm
from mudanza.service import (
    admin,
    availability,
    cpus,
    fleet,
    hands,
    host_power,
    jobs,
    ordering,
    planning,
    protecting,
    recovery,
    rescuing,
    rolling,
)
from mudanza.service.access import Failures, Planner, Reader, refuse_limited
from mudanza.service.desk import Desk
from mudanza.service.metrics import exposition
from mudanza.service.orders import PlanOrder
from mudanza.service.parameters import PROBLEMS, AtDesk, Key, Limit, Number
from mudanza.service.picture import Picture, place
from mudanza.service.problems import KIND, MEDIA_TYPE, problem_of, wrong_input
from mudanza.service.sight import (
    audited,
    find_host,
    find_plan,
    find_vm,
    known_hosts,
    known_vms,
)

MOST_BODY = 64 * 1024
"""Bytes that the body of a request may have."""
MOST_PLAN = 1024 * 1024
"""Bytes that a plan may have which is to be carried out, one of some thousand moves; and the file of a cluster."""
LARGE = ("/api/v1/plans", "/api/v1/cluster")
"""Where such a body is sent to."""
MOST_HEADERS = 16 * 1024
"""Bytes that all headers of a request may have."""
router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


def api_of(desk: Desk) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        routes=list(_routes()),
        title="mudanza",
        version=desk.version,
        description="Moves virtual machines between plain libvirt/QEMU hosts while they run.",
        redoc_url=None,
        docs_url=None,  # they load their scripts from the internet
        openapi_url=None,
    )
    app.state.desk = desk
    app.state.failures = Failures()
    app.add_exception_handler(MudanzaError, _tell)
    app.add_exception_handler(RequestValidationError, _tell_wrong_input)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(Exception, _tell_unexpected)
    app.add_middleware(Bounded)
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return what can be asked for: what FastAPI makes of it once it is, which takes long, is for all applications."""
    whole = APIRouter()
    rooms = (jobs, planning, fleet, ordering, protecting, rescuing, recovery, availability, host_power, cpus, rolling)
    for each in (*rooms, hands, admin):
        whole.include_router(each.router)
    whole.include_router(router)
    whole.add_api_route("/openapi.json", description, methods=["GET"], include_in_schema=False)
    whole.add_api_route("/metrics", metrics, methods=["GET"], response_class=Response, tags=["daemon"])
    return tuple(whole.routes)


class Bounded:
    """Takes nothing that is larger than any order is, and no body of unknown length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope["path"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def _refusal(path: str, headers: Headers) -> Response | None:
    """Return what is answered to a request that is too large; None: it is not."""
    if sum(len(name) + len(value) for name, value in headers.raw) > MOST_HEADERS:
        # What reads them stops at this size, too, but only where they come in pieces.
        return _too_large(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"all headers have at most {MOST_HEADERS} bytes")
    length = headers.get("content-length", "0")
    most = MOST_PLAN if path in LARGE else MOST_BODY
    if "transfer-encoding" in headers or not length.isdecimal() or int(length) > most:
        detail = f"a body has at most {most} bytes, and says beforehand how many"
        return _too_large(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    return None


def _too_large(status: HTTPStatus, detail: str) -> Response:
    body = {"type": f"{KIND}too-large", "title": "The request is too large", "status": status, "detail": detail}
    return JSONResponse(body, status, media_type=MEDIA_TYPE)


async def _tell(_request: Request, error: Exception) -> Response:
    if not isinstance(error, MudanzaError):
        raise error
    status, body = problem_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(body, status, media_type=MEDIA_TYPE, headers=headers)


async def _tell_wrong_input(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    body = wrong_input([dict(each) for each in error.errors()])
    return JSONResponse(body, body["status"], media_type=MEDIA_TYPE)


async def _tell_http(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    body = {"type": "about:blank", "title": str(error.detail), "status": error.status_code}
    return JSONResponse(body, error.status_code, media_type=MEDIA_TYPE, headers=error.headers)


async def _tell_unexpected(_request: Request, error: Exception) -> Response:
    """Say that nobody expected it; it is raised again behind us, and the server logs where it comes from."""
    status, body = problem_of(MudanzaError(type(error).__name__, remedy="the daemon's log tells where it arose"))
    return JSONResponse(body, status, media_type=MEDIA_TYPE)


@router.get("/health", tags=["daemon"])
def health(desk: AtDesk, asker: Reader) -> Mapping[str, Any]:
    """Say whether the daemon is well: how old its picture of the hosts is, and who was not seen."""
    picture = desk.picture()
    hosts = known_hosts(desk, asker)
    unseen = {host.name: host.error for host in hosts if not host.seen}
    duty = desk.balances.on_duty()
    return {
        "version": desk.version,
        "picture": {"taken_at": picture.taken_at, "took": picture.took},
        "hosts": len(hosts),
        "vms": len(known_vms(desk, asker)),
        "unseen": unseen,
        "balanced_by": duty.owner if duty is not None and duty.alive else None,
    }


@router.get("/hosts", response_model=list[Any], tags=["cluster"])
def hosts(desk: AtDesk, asker: Reader) -> Response:
    """Return the hosts with what they have and what is free."""
    texts = ",".join(map(desk.picture().told, known_hosts(desk, asker)))
    return Response(f"[{texts}]", media_type="application/json")


@router.get("/hosts/{name}", response_model=Any, tags=["cluster"])
def host(desk: AtDesk, asker: Reader, name: Key) -> Response:
    """Return one host."""
    return Response(desk.picture().told(find_host(desk, asker, name)), media_type="application/json")


@router.get("/vms", response_model=Mapping[str, Any], tags=["cluster"])
def vms(
    desk: AtDesk,
    asker: Reader,
    on: Annotated[str | None, Query(alias="host", description="Only those on this host.")] = None,
    tag: Annotated[list[str] | None, Query(description="Only those with one of these tags.")] = None,
    after: Annotated[str, Query(description="Only those behind this one: the last name and UUID of a page.")] = "",
    limit: Limit = 100,
) -> Response:
    """Return the VMs and where they are, by their names; ``next`` is what the next page is ``after``."""
    picture = desk.picture()
    wanted = (vm for vm in _behind(picture, on, after) if asker.may_see(vm) and _is_tagged(vm, tag))
    found = list(islice(wanted, limit + 1))
    page = found[:limit]
    following = json.dumps(place(page[-1]) if len(found) > limit else None)
    texts = ",".join(map(picture.told, page))
    return Response(f'{{"vms":[{texts}],"next":{following}}}', media_type="application/json")


def _behind(picture: Picture, on: str | None, after: str) -> Iterable[Vm]:
    """Return the VMs behind a place, in order; those of one host, if one is named."""
    if on is None:
        return islice(picture.in_order, bisect_right(picture.places, after), None)
    return (vm for vm in picture.by_host.get(on, ()) if place(vm) > after)


def _is_tagged(vm: Vm, tags: list[str] | None) -> bool:
    return not tags or bool(set(tags) & set(vm.tags))


@router.get("/vms/{key}", response_model=Any, tags=["cluster"])
def vm(desk: AtDesk, asker: Reader, key: Key) -> Response:
    """Return everything known about one VM."""
    return Response(desk.picture().told(find_vm(desk, asker, key)), media_type="application/json")


@router.get("/plans", tags=["plans"])
def plans(desk: AtDesk, asker: Reader, limit: Limit = 50) -> list[Any]:
    """Return the plans that are or were carried out, or wait for a yes, the newest first."""
    refuse_limited(asker)
    return [plain(run) for run in desk.plans.latest(limit)]


@router.get("/plans/{number}", tags=["plans"])
def plan(desk: AtDesk, asker: Reader, number: Number) -> Any:
    """Return one plan with its moves."""
    refuse_limited(asker)
    return plain(find_plan(desk, number))


@router.post("/plans/{number}/{order}", status_code=202, tags=["plans"])
def order_plan(desk: AtDesk, asker: Planner, number: Number, order: PlanOrder) -> Any:
    """Pause a plan, go on with it, or cancel it, and return it."""
    refuse_limited(asker)
    _refuse_asked(find_plan(desk, number), order)
    with audited(desk, asker, f"{order.value} plan", str(number)):
        desk.plans.wish(number, order.wish, asker.name)
    return plain(find_plan(desk, number))


def _refuse_asked(run: Run, order: PlanOrder) -> None:
    """Raise BlockedError for a plan that waits for a yes: it can only be cancelled."""
    if run.state is RunState.ASKED and order is not PlanOrder.CANCEL:
        raise BlockedError(
            f"plan {run.id} waits for a yes", remedy=f"have it carried out: mudanza run approve {run.id}; or cancel it"
        )


@router.get("/balance", tags=["plans"])
def balance(desk: AtDesk, asker: Reader, limit: Limit = 20) -> Mapping[str, Any]:
    """Return who keeps the cluster in balance, and what the last rounds came to, the oldest first."""
    refuse_limited(asker)
    return {"on_duty": plain(desk.balances.on_duty()), "rounds": plain(desk.balances.rounds(limit))}


def metrics(desk: AtDesk, asker: Reader) -> Response:
    """Return figures for a Prometheus server."""
    refuse_limited(asker)
    return Response(*exposition(desk))


def description(request: Request, _asker: Reader) -> Any:
    """Return what all of this is, as OpenAPI has it."""
    return request.app.openapi()
