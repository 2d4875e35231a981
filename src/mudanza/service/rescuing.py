"""Protected VMs by HTTP: brought up where their replicas are, protected from there, brought home, and that tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from mudanza import clock
from mudanza.journal.protections import Protections
from mudanza.model.access import Asker
from mudanza.operations import grouping, rescuing, trying
from mudanza.operations.means import Means, Say
from mudanza.service.access import Protector
from mudanza.service.desk import Desk
from mudanza.service.ordering import begun, begun_stoppable
from mudanza.service.parameters import PROBLEMS, AtDesk, Key, OnceKey
from mudanza.service.problems import NotAllowedError, NotThereError
from mudanza.service.protecting import find_replica
from mudanza.service.protection_orders import (
    AgentOrder,
    FailbackOrder,
    FailoverOrder,
    GroupFailoverOrder,
    ReprotectOrder,
    TrialEndOrder,
    TrialOrder,
)
from mudanza.service.sight import find_host
from mudanza.service.under_way import Order

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

Work = Callable[[Means, str, str | None, Say], Any]
"""Does something with the VM of that UUID, or its replica at that host."""


@router.post("/vms/{key}/failover", status_code=202, tags=["protection"])
def fail_over(
    desk: AtDesk, asker: Protector, key: Key, order: FailoverOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have a protected VM come up at its replica's host, of several the freshest one's unless one is said; return the
    order, which is followed at its ``Location``.

    409 while a host that answers runs it, unless it is ``planned``. Sent again with the same Idempotency-Key, it is the
    same order.
    """
    how = order.rescue()

    def work(means: Means, uuid: str, on: str | None, say: Say) -> Any:
        return rescuing.fail_over(means, uuid, replace(how, on=on), asker.name, say)

    return _begun(desk, asker, key, ("failover", order), work, idempotency_key, on=order.on)


@router.post("/vms/{key}/reprotect", status_code=202, tags=["protection"])
def reprotect(
    desk: AtDesk, asker: Protector, key: Key, order: ReprotectOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have a VM protected the other way after a failover, and a first round made; return the order, as a failover."""
    if asker.hosts and order.to is None:
        raise NotAllowedError(
            f"{asker.name} is for certain hosts only, and the old copy may be on another", remedy="say where to: to"
        )
    if asker.hosts and order.to is not None:
        find_host(desk, asker, order.to)

    def work(means: Means, uuid: str, _on: str | None, say: Say) -> Any:
        return rescuing.reprotect(means, uuid, order.to, order.pool, asker.name, say)

    return _begun(desk, asker, key, ("reprotect", order), work, idempotency_key, whole=True)


@router.post("/vms/{key}/failback", status_code=202, tags=["protection"])
def fail_back(
    desk: AtDesk, asker: Protector, key: Key, order: FailbackOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have a VM come home that is protected the other way; return the order, as a failover.

    One that comes home live does so by a job: the order ends with its number (``job``) as soon as that waits in the
    queue, and the job goes on whatever becomes of this daemon.
    """

    def work(means: Means, uuid: str, _on: str | None, say: Say) -> Any:
        return rescuing.come_home(means, uuid, order.mode, order.networks, asker.name, say, order.to)

    return _begun(desk, asker, key, ("failback", order), work, idempotency_key, on=order.to, whole=order.to is None)


@router.post("/groups/{name}/failover", status_code=202, tags=["protection"])
def fail_over_group(
    desk: AtDesk, asker: Protector, name: Key, order: GroupFailoverOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have all VMs of a consistency group come up at their replicas' hosts, as they were at one instant; return the
    order, as a failover.

    Those that are up already are passed over, so that an order which has stopped halfway can be given again.
    """
    grouping.refuse_unsaid(source_is_dead=order.source_is_dead)
    with desk.at_work() as means:
        members = Protections(means.database).group(name)
        if not members:
            raise NotThereError(f"there is no group {name!r}", remedy="see them: mudanza protections")
        for each in members:
            find_replica(desk, asker, means, each.vm_uuid, each.target)

    def work(means: Means, under_way: Order) -> Any:
        asked = (order.networks, asker.name, under_way.say, under_way)
        with means.connections() as connections:
            return grouping.fail_over_together(means, connections, name, *asked)

    words = order.model_dump_json(exclude_defaults=True)
    return begun_stoppable(desk, asker, ("failover group", name, words), work, idempotency_key)


@router.post("/vms/{key}/test-failover", status_code=202, tags=["protection"])
def begin_trial(
    desk: AtDesk, asker: Protector, key: Key, order: TrialOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have a double of a protected VM come up from its replica, cut off from everything; return the order.

    It stays up until POST /vms/VM/test-failover/end.
    """

    def work(means: Means, uuid: str, on: str | None, _say: Say) -> Any:
        networks, digests = order.networks, order.digests
        return trying.begin(means, uuid, order.point, asker.name, digests=digests, networks=networks, on=on)

    return _begun(desk, asker, key, ("test-failover", order), work, idempotency_key, on=order.on)


@router.post("/vms/{key}/test-failover/agent", tags=["protection"])
def await_agent(desk: AtDesk, asker: Protector, key: Key, order: AgentOrder) -> Mapping[str, bool]:
    """Wait a while for the guest agent of a double, and return whether it has answered."""
    with desk.at_work() as means:
        uuid, on = find_replica(desk, asker, means, key, order.on)
        return {"answered": trying.await_agent(means, uuid, order.patience, clock.new_event(), on)}


@router.post("/vms/{key}/test-failover/end", status_code=202, tags=["protection"])
def end_trial(
    desk: AtDesk, asker: Protector, key: Key, order: TrialEndOrder | None = None, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have a double taken away, and compare what there was before with what there is then; return the order."""

    def work(means: Means, uuid: str, on: str | None, _say: Say) -> Any:
        return trying.end(means, uuid, asker.name, on)

    on = order.on if order is not None else None
    return _begun(desk, asker, key, ("test-failover end", order), work, idempotency_key, on=on)


def _begun(
    desk: Desk,
    asker: Asker,
    key: str,
    what: tuple[str, BaseModel | None],
    work: Work,
    once: str | None,
    *,
    on: str | None = None,
    whole: bool = False,
) -> JSONResponse:
    """Have something done with a protected VM that somebody may know of. ``on``, ``whole``: see ``find_replica``."""
    verb, order = what
    with desk.at_work() as means:
        uuid, at = find_replica(desk, asker, means, key, on, whole=whole)
    words = order.model_dump_json(exclude_defaults=True) if order is not None else ""
    return begun(desk, asker, (verb, uuid, words), lambda means, say: work(means, uuid, at, say), once)
