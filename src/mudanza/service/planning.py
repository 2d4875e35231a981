"""Plans by HTTP: making them, having them carried out, saying yes to them."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import APIRouter, Response

from mudanza.journal.requests import Request as Once
from mudanza.model.plain import plain
from mudanza.operations import planning
from mudanza.service.access import Planner, refuse_limited
from mudanza.service.orders import ApplyOrder, Pace, PlanWanted
from mudanza.service.parameters import PROBLEMS, AtDesk, Number, OnceKey
from mudanza.service.sight import audited, find_plan

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.post("/proposals", tags=["plans"])
def propose(desk: AtDesk, asker: Planner, order: PlanWanted) -> Any:
    """Say where VMs should be, and why. Nothing is touched, and nothing is kept: POST /plans has a plan carried out."""
    refuse_limited(asker)
    with desk.at_work() as means:
        proposal = planning.propose(means, order.wanted())
        return {"plan": proposal.plan.as_data(), "explanations": plain(proposal.explanations)}


@router.post("/plans", status_code=202, tags=["plans"])
def apply(desk: AtDesk, asker: Planner, response: Response, order: ApplyOrder, idempotency_key: OnceKey = None) -> Any:
    """Have exactly the plan carried out that was proposed, if the world still is as it was then; return its run.

    Sent again with the same Idempotency-Key, it is the same run.
    """
    refuse_limited(asker)
    plan, policy = order.read(), order.pace.policy()
    digest = "plan " + hashlib.sha256(f"{plan.as_json()} {order.pace.model_dump_json()}".encode()).hexdigest()
    request = Once(asker.name, idempotency_key, digest) if idempotency_key else None
    with desk.at_work() as means, audited(desk, asker, "apply plan", plan.summary):
        number = planning.put_down(means, plan, policy, asker.name, request)
    response.headers["Location"] = f"/api/v1/plans/{number}"
    return plain(desk.plans.get(number))


@router.post("/plans/{number}/approve", status_code=202, tags=["plans"])
def approve(desk: AtDesk, asker: Planner, number: Number, order: Pace) -> Any:
    """Have a plan carried out that waits for somebody's yes, if the world still is as it was when it was proposed."""
    refuse_limited(asker)
    find_plan(desk, number)
    with desk.at_work() as means, audited(desk, asker, "approve plan", str(number)):
        planning.approve(means, number, order.policy(), asker.name)
    return plain(find_plan(desk, number))
