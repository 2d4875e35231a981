"""The CPU that all hosts can give, by HTTP: which VMs theirs keep from which hosts, and giving it to them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from mudanza.model.plain import plain
from mudanza.operations import cpus
from mudanza.operations.means import Means, Say
from mudanza.service.access import Mover, Reader, refuse_limited
from mudanza.service.host_orders import CpuOrder
from mudanza.service.ordering import begun
from mudanza.service.orders import Name
from mudanza.service.parameters import PROBLEMS, AtDesk, OnceKey

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/cpus", tags=["cluster"])
def look(
    desk: AtDesk,
    asker: Reader,
    vm: Annotated[list[Name] | None, Query(max_length=1000, description="Only these, by name or UUID.")] = None,
    tag: Annotated[list[Name] | None, Query(max_length=100, description="Only those with one of these tags.")] = None,
) -> Any:
    """Return the best CPU that every host can give to its guests, what each host would lose by it, and which VMs their
    CPUs keep from which hosts; looked up on the hosts now, nothing is touched."""
    refuse_limited(asker)
    with desk.at_work() as means:
        return plain(cpus.picture(means, vm, tag))


@router.post("/cpus", status_code=202, tags=["cluster"])
def change(desk: AtDesk, asker: Mover, order: CpuOrder, idempotency_key: OnceKey = None) -> JSONResponse:
    """Have VMs start with that CPU from their next start on, or with the one again that they had before; what runs is
    not touched. Return the order, which is followed at its ``Location``; its ``result`` says what came of it for each.
    """
    refuse_limited(asker)
    wish = order.wish()

    def work(means: Means, say: Say) -> Any:
        return cpus.change(means, wish, asker.name, say)

    return begun(desk, asker, ("cluster cpu", order.model_dump_json(exclude_defaults=True)), work, idempotency_key)
