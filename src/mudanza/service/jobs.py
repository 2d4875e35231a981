"""Jobs by HTTP: asking for moves, following them, cancelling them, changing their limits, having them gone on with."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from mudanza.journal.jobs import Filter, Job, NewJob
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.journal.requests import Request as Once
from mudanza.migration.asked import put_down
from mudanza.model.access import Asker, Scope
from mudanza.model.errors import BlockedError
from mudanza.model.plain import plain
from mudanza.operations import jobs as operations
from mudanza.service.access import Mover, Reader, may_still
from mudanza.service.desk import Desk
from mudanza.service.ending import ending_of
from mudanza.service.orders import CloseOrder, MoveOrder, TuneOrder
from mudanza.service.parameters import MOST_NUMBER, PROBLEMS, AtDesk, Key, Limit, Number, OnceKey
from mudanza.service.problems import NotAllowedError, NotReadyError
from mudanza.service.sight import audited, find_host, find_job, find_vm, may_see_job

OF_REPLICAS = ("protect", "failover", "test failover", "reprotect", "recovery", "cold start", "site stop")
"""Kinds of jobs that are no moves."""
LOOK_EVERY = 0.5
"""Seconds between two looks at a job that somebody watches."""
UNREAD = frozenset({"steps", "events"})
"""Fields that jobs of a list are told without."""
NAMES = tuple(field.name for field in fields(Job))
AS_WRITTEN = frozenset({"asked", "report"})
"""Fields that were JSON in the journal, and are told as they are."""
router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.post("/vms/{key}/moves", status_code=202, tags=["jobs"])
def move(
    desk: AtDesk, asker: Mover, response: Response, key: Key, order: MoveOrder, idempotency_key: OnceKey = None
) -> Any:
    """Put a move into the queue, and return its job. It is checked when it begins; nothing is touched before.

    Sent again with the same Idempotency-Key, it is the same job.
    """
    vm = find_vm(desk, asker, key, order.to)
    if order.to is not None:
        find_host(desk, asker, order.to)
    elif asker.hosts:
        raise NotAllowedError(
            f"{asker.name} is for certain hosts only, and the best one may be another", remedy="say where to: to"
        )
    asked = put_down(order.options(desk.usual), order.to)
    new = NewJob(QUEUED_MOVE, vm.uuid, vm.name, vm.host, order.to or "", asked, asker.name)
    words = order.model_dump_json(exclude_defaults=True)
    digest = hashlib.sha256(f"{vm.uuid} {words}".encode()).hexdigest()
    request = Once(asker.name, idempotency_key, digest) if idempotency_key else None
    with audited(desk, asker, "move", vm.uuid, words):
        number = desk.jobs.put_down(new, request)
    response.headers["Location"] = f"/api/v1/jobs/{number}"
    return plain(desk.jobs.get(number))


@router.get("/jobs", response_model=Mapping[str, Any], tags=["jobs"])
def jobs(
    desk: AtDesk,
    asker: Reader,
    vm: Annotated[str | None, Query(max_length=255, description="Only those of this VM (name or UUID).")] = None,
    state: Annotated[str | None, Query(max_length=100, description="A state; also: unfinished, abandoned.")] = None,
    within: Annotated[float | None, Query(gt=0, description="Only those begun in the last so many seconds.")] = None,
    before: Annotated[int, Query(ge=1, le=MOST_NUMBER, description="Only those below this number.")] = MOST_NUMBER,
    limit: Limit = 50,
    steps: Annotated[bool, Query(description="Also the steps and events of each, as `/jobs/N` has them.")] = False,
) -> Response:
    """Return the jobs, the newest first; ``next`` is what the next page is ``before``.

    Without their steps and events, unless these are asked for.
    """
    found = desk.jobs.latest(limit + 1, Filter(vm, state, within, before), brief=not steps)
    left_out = frozenset() if steps else UNREAD
    shown = [_told(job, left_out) for job in found[:limit] if may_see_job(desk, asker, job)]
    return JSONResponse({"jobs": shown, "next": found[limit - 1].id if len(found) > limit else None})


def _told(job: Job, left_out: frozenset[str]) -> Mapping[str, Any]:
    told = {name: getattr(job, name) for name in NAMES if name not in left_out}
    return {name: value if name in AS_WRITTEN else plain(value) for name, value in told.items()}


@router.get("/jobs/{number}", response_model=Any, tags=["jobs"])
def job(desk: AtDesk, asker: Reader, number: Number) -> Response:
    """Return one job with its steps and what happened to it."""
    return JSONResponse(plain(find_job(desk, asker, number)))


@router.post("/jobs/{number}/cancel", status_code=202, tags=["jobs"])
def cancel(desk: AtDesk, asker: Reader, number: Number) -> Any:
    """Ask whoever works on a job to cancel it, and return it. Its VM stays where it is, unless it is too late.

    One that has not begun ends at once.
    """
    found = _find_mine(desk, asker, number)
    with audited(desk, asker, "cancel job", str(number)):
        return plain(operations.cancel(desk.jobs, found, asker.name))


@router.patch("/jobs/{number}", tags=["jobs"])
def tune(desk: AtDesk, asker: Mover, number: Number, order: TuneOrder) -> Any:
    """Change the limits of a live move while it runs, or before it begins, and return its job.

    Whoever works on it takes them up within a second or two.
    """
    find_job(desk, asker, number)
    words = order.model_dump_json(exclude_none=True)
    with audited(desk, asker, "tune job", str(number), words):
        operations.tune(desk.jobs, number, order.changes(), asker.name)
    return plain(find_job(desk, asker, number))


@router.post("/jobs/{number}/resume", status_code=202, tags=["jobs"])
def resume(desk: AtDesk, asker: Reader, number: Number) -> Any:
    """Have a job gone on with whose controller is gone, or that was left to a person who has looked; a cold move that
    failed, too, from where it stopped. Return it."""
    found = _find_mine(desk, asker, number)
    with audited(desk, asker, "resume job", str(number)):
        if not operations.goes_on(found):
            raise BlockedError(
                f"job {number} has ended: {found.outcome}", remedy=f"see what it left: mudanza job show {number}"
            )
        operations.hand_on(desk.jobs, found)
    return plain(find_job(desk, asker, number))


@router.post("/jobs/{number}/cleanup", tags=["jobs"])
def clean_up(desk: AtDesk, asker: Reader, number: Number) -> Any:
    """Try once more to delete what an ended job has left, and return what went, what stays, and why."""
    found = _find_mine(desk, asker, number)
    if found.ended_at is None:
        raise BlockedError(f"job {number} has not ended: {found.state}", remedy=found.way_out)
    with desk.at_work() as means, audited(desk, asker, "clean up job", str(number)):
        if desk.finisher is None:
            raise NotReadyError("this daemon deletes nothing itself")
        with means.connections() as connections:
            return plain(desk.finisher(connections, found.kind).clean_up(number))


@router.post("/jobs/{number}/close", tags=["jobs"])
def close(desk: AtDesk, asker: Reader, number: Number, _order: CloseOrder) -> Mapping[str, list[str]]:
    """Close a job that needs a person, once somebody has looked. Nothing is touched but its claim on the VM.

    Prefer to have it gone on with, which asks both hosts. 409 while its controller lives.
    """
    _find_mine(desk, asker, number)
    said: list[str] = []
    with desk.at_work() as means, audited(desk, asker, "close job", str(number)):
        told = operations.close(means, number, asker.name, said.append)
    return {"said": [*said, told]}


def _find_mine(desk: Desk, asker: Asker, number: int) -> Job:
    """Return a job that somebody may have a say in: in one about replicas those who may bring VMs up from them, who may
    in the move that brings one home, too."""
    found = find_job(desk, asker, number)
    scope = Scope.FAILOVER if found.kind in OF_REPLICAS else Scope.MIGRATE
    goes_home = found.asked.get("epoch") is not None
    if not asker.may(scope) and not (goes_home and asker.may(Scope.FAILOVER)):
        raise NotAllowedError(
            f"{asker.name} may not {scope.value}, and job {number} is a {found.kind}",
            remedy="ask for a token with that scope",
        )
    return found


@router.get("/jobs/{number}/progress", tags=["jobs"])
def progress(desk: AtDesk, asker: Reader, number: Number) -> Any:
    """Return how a job stands now, with the newest figures of its move, without its steps."""
    return plain(desk.standing(find_job(desk, asker, number)))


@router.get("/jobs/{number}/events", response_class=EventSourceResponse, tags=["jobs"])
async def events(
    request: Request,
    desk: AtDesk,
    asker: Reader,
    number: Number,
    last_event_id: Annotated[str | None, Header(max_length=100, description="The last one that was seen.")] = None,
) -> EventSourceResponse:
    """Return the job each time that something is written of it, until it has ended, as server-sent events.

    Each one holds the whole job, so that nothing is lost to whoever comes back with the id of the last one seen.
    """
    await asyncio.to_thread(find_job, desk, asker, number)
    ending = ending_of(request)
    return EventSourceResponse(_story(desk, number, last_event_id, lambda: not ending() and may_still(request)))


async def _story(
    desk: Desk, number: int, seen: str | None, may_still: Callable[[], bool]
) -> AsyncIterator[ServerSentEvent]:
    """Yield what is new until the job has ended, whoever listens may not any more, or the daemon is about to end."""

    def news() -> tuple[str | None, Job | None]:
        """Return the job's mark, and the job, where something was written of it; None: it was forgotten."""
        mark = desk.jobs.mark(number)
        return mark, desk.jobs.find(number) if mark != seen or is_first else None

    is_first = True
    while await asyncio.to_thread(may_still):
        mark, found = await asyncio.to_thread(news)
        if found is not None and mark != seen:
            text = json.dumps(plain(found), ensure_ascii=False)
            yield ServerSentEvent(text, event="ended" if found.ended_at else "job", id=mark)
        if mark is None or (found is not None and found.ended_at is not None):
            return
        seen, is_first = mark, False
        await asyncio.sleep(LOOK_EVERY)
