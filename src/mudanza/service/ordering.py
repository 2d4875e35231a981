"""Orders that are carried out beside the request that began them: answered as they stand, and looked at by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from mudanza.model.access import Asker
from mudanza.operations.means import Means, Say
from mudanza.service.access import Reader
from mudanza.service.desk import Desk
from mudanza.service.parameters import PROBLEMS, AtDesk, Number
from mudanza.service.problems import MEDIA_TYPE
from mudanza.service.sight import audited
from mudanza.service.under_way import Order

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/orders/{number}", tags=["orders"])
def order(
    desk: AtDesk,
    asker: Reader,
    number: Number,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Without so many that were told first.")] = 0,
) -> Any:
    """Return how an order stands that is carried out beside the request that began it, and what was said on the way.

    ``said``: sentences; ``events``: what has happened, for programs; ``heard``: how many of both there are so far;
    where ``carrier`` is another one than before, all is told anew. ``state``: running; ended, with its ``result`` or
    its ``problem``; left, where another daemon carries it out, or did so until it ended or died. ``may_stop``: whether
    it can be stopped halfway; ``stop_by``: who wants that. It is there for whoever has asked for it, and for those who
    may do everything.
    """
    return desk.under_way.find(desk.audit, asker, number).told(after)


@router.post("/orders/{number}/stop", status_code=202, tags=["orders"])
def stop(desk: AtDesk, asker: Reader, number: Number) -> Any:
    """Have an order begin nothing more, and end when what is under way has ended; return how it stands.

    409 where it has ended, or is of those that are brought to their end in any case (``may_stop`` tells).
    """
    found = desk.under_way.find(desk.audit, asker, number)
    with audited(desk, asker, "stop order", str(number)):
        found.stop(asker.name)
    return found.told()


def begun(
    desk: Desk, asker: Asker, command: Sequence[str], work: Callable[[Means, Say], Any], key: str | None
) -> JSONResponse:
    """Have an order carried out; answer with how it stands, and with its problem where it has failed already."""
    return _answer(desk.begin(asker, command, work, key))


def begun_stoppable(
    desk: Desk,
    asker: Asker,
    command: Sequence[str],
    work: Callable[[Means, Order], Any],
    key: str | None,
    *,
    goes_on: bool = False,
) -> JSONResponse:
    """The same of one that can be stopped: see ``Desk.begin_stoppable``."""
    return _answer(desk.begin_stoppable(asker, command, work, key, goes_on=goes_on))


def _answer(found: Order) -> JSONResponse:
    where = {"Location": f"/api/v1/orders/{found.number}"}
    if found.problem is not None:
        found.end_was_told = True
        return JSONResponse(found.problem, found.problem["status"], media_type=MEDIA_TYPE, headers=where)
    return JSONResponse(found.told(), 202, headers=where)
