"""The pages of plans: having one made, looking at it, applying it or some of its moves, and how that goes."""

from __future__ import annotations

import secrets
import threading
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request, Response

from mudanza.model.access import Asker
from mudanza.model.errors import UsageError
from mudanza.model.plan import Goal, Plan
from mudanza.service import api
from mudanza.service.access import refuse_limited
from mudanza.service.desk import Desk
from mudanza.service.orders import PlanOrder
from mudanza.service.pages.live import lasting
from mudanza.service.pages.session import Planner, Visitor
from mudanza.service.pages.site import Fields, page, render, see
from mudanza.service.pages.timeline import bars, timeline
from mudanza.service.parameters import MOST_NUMBER
from mudanza.service.problems import NotThereError
from mudanza.service.sight import audited, find_plan

GOALS = (Goal.BALANCE, Goal.CONSOLIDATE, Goal.REPAIR, Goal.DRAIN)
RUNS = 30
MOST_KEPT = 50
"""Proposals that are remembered, the newest ones."""

router = APIRouter(prefix="/plans")
Number = Annotated[int, Path(ge=1, le=MOST_NUMBER)]
Key = Annotated[str, Path(min_length=1, max_length=100)]


class Proposals:
    """Plans that were shown and not applied yet: what was shown is what is applied."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[str, Plan]] = {}

    def keep(self, whose: str, plan: Plan) -> str:
        """Remember a plan for whoever had it made; return under which word."""
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[key] = (whose, plan)
            while len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return key

    def find(self, whose: str, key: str) -> Plan:
        """Return a plan. Raises NotThereError for one that is somebody else's, or forgotten."""
        with self._lock:
            owner, plan = self._kept.get(key, ("", None))
        if plan is None or owner != whose:
            raise NotThereError("this plan is not remembered any more", remedy="have it made again")
        return plan


@router.get("")
def plans(request: Request, visitor: Visitor) -> Response:
    """Show the plans that are or were carried out, or wait for a yes, and have new ones made."""
    refuse_limited(visitor)
    desk: Desk = request.app.state.desk
    hosts = [host.name for host in desk.picture().cluster.hosts]
    return page(request, "plans.html", visitor, runs=desk.plans.latest(RUNS), goals=GOALS, hosts=hosts)


@router.post("/new")
def new(request: Request, visitor: Planner, fields: Fields) -> Response:
    """Have a plan made, and show it. Nothing is touched."""
    refuse_limited(visitor)
    wanted = fields.get("goal", "")
    if wanted not in GOALS:
        raise UsageError("there is no such goal")
    goal = Goal(wanted)
    plan = request.app.state.hands.plan(goal, fields.get("host", "") if goal is Goal.DRAIN else "")
    return see(f"/plans/proposed/{request.app.state.proposals.keep(visitor.name, plan)}")


@router.get("/proposed/{key}")
def proposed(request: Request, visitor: Planner, key: Key) -> Response:
    """Show a plan that was made."""
    plan = request.app.state.proposals.find(visitor.name, key)
    return page(
        request, "proposal.html", visitor, plan=plan, key=key, timeline=timeline(plan), bars=bars(plan.outlooks)
    )


@router.post("/proposed/{key}/apply")
def apply(request: Request, visitor: Planner, key: Key, fields: Fields) -> Response:
    """Have those of its moves carried out that are ticked."""
    plan: Plan = request.app.state.proposals.find(visitor.name, key)
    left_out = {move.uuid for move in plan.moves if fields.get(f"vm-{move.uuid}") != "yes"}
    if len(left_out) == len({move.uuid for move in plan.moves}):
        raise UsageError("no move is ticked", remedy="tick those that are to be made")
    with audited(request.app.state.desk, visitor, "apply", plan.summary, *sorted(left_out)):
        number = request.app.state.hands.apply(plan, left_out, visitor.name)
    return see(f"/plans/{number}")


@router.get("/{number}")
def run(request: Request, visitor: Visitor, number: Number) -> Response:
    """Show how a plan goes."""
    return page(request, "run.html", visitor, **_seen(request.app, visitor, number))


@router.get("/{number}/live")
async def live_run(request: Request, visitor: Visitor, number: Number) -> Response:
    """Send how it goes, each time that this changes; when it has ended the page is to be loaded anew."""

    def seen() -> dict[str, Any]:
        return _seen(request.app, visitor, number)

    def drawn() -> str:
        return render(request, "_run.html", visitor, **seen())

    return lasting(request, drawn, lambda: seen()["run"].ended_at is not None)


def _seen(app: FastAPI, visitor: Asker, number: int) -> dict[str, Any]:
    refuse_limited(visitor)
    run = find_plan(app.state.desk, number)
    return {"run": run, "timeline": timeline(run.plan), "bars": bars(run.plan.outlooks)}


@router.post("/{number}/approve")
def approve(request: Request, visitor: Planner, number: Number) -> Response:
    """Have a plan carried out that waits for a yes, at the pace that it was proposed with."""
    refuse_limited(visitor)
    find_plan(request.app.state.desk, number)
    with audited(request.app.state.desk, visitor, "approve plan", str(number)):
        request.app.state.hands.approve(number, visitor.name)
    return see(f"/plans/{number}")


@router.post("/{number}/{order}")
def order(request: Request, visitor: Planner, number: Number, order: PlanOrder) -> Response:
    """Pause it, go on with it, or cancel it."""
    api.order_plan(request.app.state.desk, visitor, number, order)
    return see(f"/plans/{number}")
