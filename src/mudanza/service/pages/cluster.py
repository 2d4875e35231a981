"""The first page, *Cluster*, and adding a host."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response

from mudanza.journal.jobs import Filter, Job
from mudanza.model.access import Asker
from mudanza.model.carrying import Run
from mudanza.model.errors import MudanzaError
from mudanza.service.desk import Desk
from mudanza.service.pages.drawing import draw
from mudanza.service.pages.hands import Hands
from mudanza.service.pages.live import lasting
from mudanza.service.pages.session import Admin, Visitor
from mudanza.service.pages.site import Fields, page, render, see
from mudanza.service.pages.timeline import bars
from mudanza.service.sight import audited, known_hosts, known_vms, may_see_job

HOSTS = 40
"""On one page."""
MOST_JOBS = 200
MOST_FOUND = 200
MOST_PLANS = 3
"""That are open, and shown before and after."""

router = APIRouter()
Page = Annotated[int, Query(alias="page", ge=1, le=10_000)]


@router.get("/")
def cluster(request: Request, visitor: Visitor, number: Page = 1) -> Response:
    """Show the hosts with their VMs, and what is under way."""
    return page(request, "cluster.html", visitor, **_seen(request.app, visitor, number))


@router.get("/live/cluster")
async def live_cluster(request: Request, visitor: Visitor, number: Page = 1) -> Response:
    """Send the picture each time that it changes."""
    return lasting(request, partial(_drawn, request, visitor, number), mark=partial(_mark, request.app, visitor))


def _drawn(request: Request, visitor: Asker, number: int) -> str:
    return render(request, "_cluster.html", visitor, **_seen(request.app, visitor, number))


def _mark(app: FastAPI, visitor: Asker) -> object:
    """Return what differs when the picture does."""
    jobs = [(job.id, job.state, job.target) for job in _under_way(app, visitor)]
    plans = [(run.id, run.state, [move.state for move in run.moves]) for run in _open_plans(app, visitor)]
    return app.state.desk.newest(), jobs, plans, dict(app.state.hands.shares())


def _open_plans(app: FastAPI, visitor: Asker) -> tuple[Run, ...]:
    """Return those that wait for a yes or are being carried out, for who may know of all hosts."""
    desk: Desk = app.state.desk
    return () if visitor.is_limited else desk.plans.unfinished()[-MOST_PLANS:]


def _under_way(app: FastAPI, visitor: Asker) -> list[Job]:
    desk: Desk = app.state.desk
    unfinished = desk.jobs.latest(MOST_JOBS, Filter(state="unfinished"), brief=True)
    return [job for job in unfinished if may_see_job(desk, visitor, job)]


def _seen(app: FastAPI, visitor: Asker, number: int) -> dict[str, Any]:
    desk: Desk = app.state.desk
    picture, hosts, vms = desk.picture(), known_hosts(desk, visitor), known_vms(desk, visitor)
    shown = hosts[(number - 1) * HOSTS : number * HOSTS]
    jobs = _under_way(app, visitor)
    names = {host.name for host in shown}
    hands: Hands = app.state.hands
    return {
        "drawing": draw(shown, [vm for vm in vms if vm.host in names], jobs, hands.shares()),
        "hosts": hosts,
        "vms": {vm.uuid for vm in vms},  # one that moves live is listed at both its hosts
        "jobs": jobs,
        "open_plans": [
            (run, bars([each for each in run.plan.outlooks if each.host in names])) for run in _open_plans(app, visitor)
        ],
        "number": number,
        "pages": -(-len(hosts) // HOSTS),
        "taken_at": picture.taken_at,
        "memory": sum(host.memory_total for host in hosts),
        "promised": sum(vm.memory for vm in vms if vm.state.active),
        "cpus": sum(host.cpus for host in hosts),
        "vcpus": sum(vm.vcpus for vm in vms if vm.state.active),
    }


@router.get("/vms")
def vms(request: Request, visitor: Visitor, wanted: Annotated[str, Query(alias="q", max_length=255)] = "") -> Response:
    """Show the VMs whose name, host or tags have a word in them."""
    word = wanted.strip().lower()
    every = sorted(known_vms(request.app.state.desk, visitor), key=lambda vm: (vm.name, vm.host))
    found = [vm for vm in every if any(word in text.lower() for text in (vm.name, vm.uuid, vm.host, *vm.tags))]
    return page(request, "vms.html", visitor, vms=found[:MOST_FOUND], found=len(found), wanted=wanted)


@router.get("/hosts/new")
def new_host(request: Request, visitor: Admin) -> Response:
    """Show the form that adds a host."""
    return page(request, "host.html", visitor, error=None, given={})


@router.post("/hosts/new")
def add_host(request: Request, visitor: Admin, fields: Fields) -> Response:
    """Add a host, if it answers."""
    name, uri = fields.get("name", "").strip(), fields.get("uri", "").strip()
    try:
        with audited(request.app.state.desk, visitor, "host add", name, uri):
            request.app.state.hands.add_host(name, uri, force=fields.get("force") == "yes")
    except MudanzaError as error:
        return page(request, "host.html", visitor, status=409, error=error, given=fields)
    return see("/")
