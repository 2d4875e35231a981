"""The page of one VM: what it is, where it may go, and what can be done with it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import ValidationError

from mudanza.journal.jobs import Filter
from mudanza.model.errors import UsageError
from mudanza.service import jobs as api
from mudanza.service.orders import MoveOrder
from mudanza.service.pages.session import Mover, Visitor
from mudanza.service.pages.site import Fields, page, see
from mudanza.service.problems import NotAllowedError
from mudanza.service.sight import audited, find_host, find_vm, known_hosts, may_see_job

JOBS = 10
"""Of this VM, the newest ones."""
MODES = ("auto", "live", "cold")

router = APIRouter(prefix="/vms/{key}")
Key = Annotated[str, Path(min_length=1, max_length=255)]


@router.get("")
def vm(request: Request, visitor: Visitor, key: Key, said: str = "") -> Response:
    """Show one VM; ``said``: what was just asked for."""
    desk = request.app.state.desk
    found = find_vm(desk, visitor, key)
    newest = desk.jobs.latest(JOBS, Filter(vm=found.uuid), brief=True)
    jobs = [job for job in newest if may_see_job(desk, visitor, job)]
    others = [host for host in known_hosts(desk, visitor) if host.name != found.host]
    shown: dict[str, Any] = {
        "vm": found,
        "host": find_host(desk, visitor, found.host),
        "others": others,
        "jobs": jobs,
        "busy": next((job for job in jobs if job.ended_at is None), None),
        "modes": MODES,
        "said": said,
    }
    return page(request, "vm.html", visitor, **shown)


@router.get("/ways")
def ways(request: Request, visitor: Mover, key: Key) -> Response:
    """Show where it may go, with all that stands against it, and what the move will be like. Takes some seconds."""
    desk = request.app.state.desk
    found = find_vm(desk, visitor, key)
    if visitor.is_limited:
        raise NotAllowedError(f"{visitor.name} is for certain hosts or VMs only, and this is about all hosts")
    check, outlook = request.app.state.hands.ways(found.uuid)
    foreseen = {each.target: each.forecast for each in outlook.targets}
    return page(request, "ways.html", visitor, vm=found, check=check, foreseen=foreseen)


@router.post("/move")
def move(request: Request, visitor: Mover, key: Key, fields: Fields) -> Response:
    """Put a move into the queue, and show its job."""
    try:
        probe = fields.get("probe", "").strip() or None
        asked = {"to": fields.get("to") or None, "mode": fields.get("mode") or "auto", "probe": probe}
        order = MoveOrder.model_validate(asked)
    except ValidationError as error:
        raise UsageError("this is no move that could be made") from error
    job = api.move(request.app.state.desk, visitor, Response(), key, order)
    return see(f"/jobs/{job['id']}")


@router.post("/start")
def start(request: Request, visitor: Mover, key: Key) -> Response:
    """Start it."""
    found = find_vm(request.app.state.desk, visitor, key)
    with audited(request.app.state.desk, visitor, "start", found.uuid):
        request.app.state.hands.start(found.uuid)
    return see(f"/vms/{found.uuid}?said=start")


@router.post("/shutdown")
def shutdown(request: Request, visitor: Mover, key: Key) -> Response:
    """Ask it to shut down."""
    found = find_vm(request.app.state.desk, visitor, key)
    with audited(request.app.state.desk, visitor, "shutdown", found.uuid):
        request.app.state.hands.shut_down(found.uuid)
    return see(f"/vms/{found.uuid}?said=shutdown")
