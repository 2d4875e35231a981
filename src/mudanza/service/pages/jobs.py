"""The page of one move, while it happens and afterwards."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request, Response

from mudanza.journal.job import Job
from mudanza.service import jobs as api
from mudanza.service.pages.live import lasting
from mudanza.service.pages.plot import plot
from mudanza.service.pages.session import Mover, Visitor
from mudanza.service.pages.site import page, render, see
from mudanza.service.parameters import MOST_NUMBER
from mudanza.service.sight import find_job
from mudanza.service.watcher import share_of

router = APIRouter()
Number = Annotated[int, Path(ge=1, le=MOST_NUMBER)]


@router.get("/jobs/{number}")
def job(request: Request, visitor: Visitor, number: Number) -> Response:
    """Show one move."""
    found = find_job(request.app.state.desk, visitor, number)
    return page(request, "job.html", visitor, **_seen(request.app, found))


@router.get("/live/jobs/{number}")
async def live_job(request: Request, visitor: Visitor, number: Number) -> Response:
    """Send how it goes, each time that this changes; when it has ended the page is to be loaded anew."""
    desk = request.app.state.desk

    def drawn() -> str:
        return render(request, "_job.html", visitor, **_seen(request.app, find_job(desk, visitor, number)))

    return lasting(request, drawn, lambda: find_job(desk, visitor, number).ended_at is not None)


def _seen(app: FastAPI, found: Job) -> dict[str, Any]:
    samples = app.state.hands.course(found.id)
    now = samples[-1] if samples else None
    share = 1.0 if found.ended_at and not found.exit_code else share_of(now) if now is not None else 0.0
    return {"job": found, "now": now, "share": share, "plot": plot(samples), "report": found.report}


@router.post("/jobs/{number}/cancel")
def cancel(request: Request, visitor: Mover, number: Number) -> Response:
    """Ask whoever works on it to cancel it."""
    api.cancel(request.app.state.desk, visitor, number)
    return see(f"/jobs/{number}")
