"""The page of what was done, with search, and as a file to take away."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from starlette.responses import JSONResponse

from mudanza.journal.jobs import Filter, Job
from mudanza.model.access import Asker
from mudanza.service.desk import Desk
from mudanza.service.pages.session import Visitor
from mudanza.service.pages.site import page
from mudanza.service.parameters import MOST_NUMBER
from mudanza.service.sight import may_see_job

SHOWN = 50
EXPORTED = 5000
COLUMNS = (
    "id", "vm_name", "vm_uuid", "source", "target", "kind", "state", "outcome", "asked_by", "started_at", "ended_at",
    "total_time", "downtime", "memory_bytes", "disk_bytes",
)  # fmt: skip
"""Of a file to take away: of the job, and then of its report; times in seconds since the epoch, sizes in bytes."""

router = APIRouter()
Wanted = Annotated[str, Query(alias="q", max_length=255)]
Before = Annotated[int, Query(ge=1, le=MOST_NUMBER)]


@router.get("/history")
def history(request: Request, visitor: Visitor, wanted: Wanted = "", before: Before = MOST_NUMBER) -> Response:
    """Show what was moved, the newest first; a search is for a VM's name or UUID."""
    found, last = _found(request.app, visitor, wanted, before, SHOWN)
    return page(request, "history.html", visitor, jobs=found, wanted=wanted, last=last)


@router.get("/history.json")
def as_json(request: Request, visitor: Visitor, wanted: Wanted = "") -> Response:
    """Return it as JSON."""
    found, _ = _found(request.app, visitor, wanted, MOST_NUMBER, EXPORTED)
    return JSONResponse([_row(job) for job in found], headers=_as_file("json"))


@router.get("/history.csv")
def as_csv(request: Request, visitor: Visitor, wanted: Wanted = "") -> Response:
    """Return it as CSV (RFC 4180)."""
    found, _ = _found(request.app, visitor, wanted, MOST_NUMBER, EXPORTED)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({name: _safe(value) for name, value in _row(job).items()} for job in found)
    return Response(text.getvalue(), media_type="text/csv", headers=_as_file("csv"))


def _found(app: FastAPI, visitor: Asker, wanted: str, before: int, most: int) -> tuple[Sequence[Job], int | None]:
    """Return jobs, and the number of the last one looked at if there are more."""
    desk: Desk = app.state.desk
    found = desk.jobs.latest(most + 1, Filter(wanted.strip() or None, below=before), brief=True)
    shown = [job for job in found[:most] if may_see_job(desk, visitor, job)]
    return shown, found[most - 1].id if len(found) > most else None


def _row(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) if hasattr(job, name) else job.report.get(name) for name in COLUMNS}


def _safe(value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula: a name may begin as one does."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _as_file(ending: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="mudanza-history.{ending}"'}
