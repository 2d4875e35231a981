"""Plans for recovery by HTTP: kept, shown, checked, carried out. They are about many VMs, so not for limited tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mudanza.journal.recovery_plans import Kept
from mudanza.model.errors import UsageError
from mudanza.model.plain import plain
from mudanza.operations import recovery_plans
from mudanza.operations.means import Means, Say
from mudanza.service.access import Protector, Reader, refuse_limited
from mudanza.service.desk import Desk
from mudanza.service.ordering import begun
from mudanza.service.parameters import PROBLEMS, AtDesk, Key, OnceKey
from mudanza.service.problems import NotThereError
from mudanza.service.protection_orders import (
    AnswerOrder,
    RecoveryCheckOrder,
    RecoveryOrder,
    RecoveryPlanOrder,
    SiteStartOrder,
    SiteStopOrder,
)
from mudanza.service.sight import audited

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/recovery/plans", tags=["recovery"])
def plans(desk: AtDesk, asker: Reader) -> list[Any]:
    """Return all plans, with their texts, by name."""
    refuse_limited(asker)
    with desk.at_work() as means:
        return [plain(each) for each in recovery_plans.kept(means)]


@router.get("/recovery/plans/{name}", tags=["recovery"])
def plan(desk: AtDesk, asker: Reader, name: Key) -> Any:
    """Return one plan."""
    refuse_limited(asker)
    return plain(_find(desk, name))


@router.put("/recovery/plans/{name}", tags=["recovery"])
def keep(desk: AtDesk, asker: Protector, name: Key, order: RecoveryPlanOrder) -> Mapping[str, list[str]]:
    """Keep a plan, in place of one of that name."""
    refuse_limited(asker)
    with desk.at_work() as means, audited(desk, asker, "recovery import", name):
        return {"said": [recovery_plans.keep(means, name, order.text, asker.name)]}


@router.delete("/recovery/plans/{name}", tags=["recovery"])
def remove(desk: AtDesk, asker: Protector, name: Key) -> Mapping[str, list[str]]:
    """Forget a plan."""
    refuse_limited(asker)
    _find(desk, name)
    with desk.at_work() as means, audited(desk, asker, "recovery remove", name):
        return {"said": [recovery_plans.remove(means, name)]}


@router.post("/recovery/checks", tags=["recovery"])
def check(desk: AtDesk, asker: Protector, order: RecoveryCheckOrder) -> list[Any]:
    """Return everything that stands against carrying a plan out now; nothing is touched."""
    refuse_limited(asker)
    if order.text is None:
        _find(desk, order.name)
    with desk.at_work() as means:
        said: list[str] = []
        found = recovery_plans.check(means, order.name, order.text, asker.name, said.append, planned=order.planned)
        return [plain(each) for each in found]


@router.post("/recovery/plans/{name}/runs", status_code=202, tags=["recovery"])
def run(
    desk: AtDesk, asker: Protector, name: Key, order: RecoveryOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have all VMs of a plan brought up, group by group; return the order, which is followed at its ``Location``.

    409 where it is not possible. Sent again with the same Idempotency-Key, it is the same order.
    """
    refuse_limited(asker)
    how = order.how()
    if not how.resume:
        _find(desk, name)

    def work(means: Means, say: Say) -> Any:
        return recovery_plans.run(means, name, how, asker.name, say)

    return begun(
        desk, asker, ("failover plan", name, order.model_dump_json(exclude_defaults=True)), work, idempotency_key
    )


@router.post("/recovery/plans/{name}/starts", status_code=202, tags=["recovery"])
def start(
    desk: AtDesk, asker: Protector, name: Key, order: SiteStartOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have all VMs of a plan started where they are, group by group, once their hosts answer; return the order."""
    refuse_limited(asker)
    if not order.resume:
        _find(desk, name)

    def work(means: Means, say: Say) -> Any:
        return recovery_plans.start(means, name, asker.name, say, resume=order.resume)

    return begun(
        desk, asker, ("recovery start", name, order.model_dump_json(exclude_defaults=True)), work, idempotency_key
    )


@router.post("/recovery/plans/{name}/stops", status_code=202, tags=["recovery"])
def stop(
    desk: AtDesk, asker: Protector, name: Key, order: SiteStopOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have all VMs of a plan shut down, in the opposite order; return the order."""
    refuse_limited(asker)
    if not order.resume:
        _find(desk, name)

    def work(means: Means, say: Say) -> Any:
        return recovery_plans.stop(means, name, order.within, asker.name, say, resume=order.resume)

    return begun(
        desk, asker, ("recovery stop", name, order.model_dump_json(exclude_defaults=True)), work, idempotency_key
    )


@router.post("/recovery/answers", tags=["recovery"])
def answer(desk: AtDesk, asker: Protector, order: AnswerOrder) -> Mapping[str, list[str]]:
    """Answer the question that the run of a plan asks now."""
    refuse_limited(asker)
    with desk.at_work() as means, audited(desk, asker, "recovery answer", f"{order.run} {order.answer}"):
        return {"said": [recovery_plans.answer(means, order.run, order.answer, asker.name)]}


def _find(desk: Desk, name: str) -> Kept:
    with desk.at_work() as means:
        try:
            return recovery_plans.get(means, name)
        except UsageError as error:
            raise NotThereError(str(error), remedy=error.remedy) from error
