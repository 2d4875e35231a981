"""Emptying hosts, their maintenance and rounds of balance by HTTP: planned here, done by whoever takes the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from mudanza.journal.requests import Request as Once
from mudanza.model.access import Asker
from mudanza.model.carrying import CannotGo
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plain import plain
from mudanza.operations import balancing, emptying, maintenance
from mudanza.operations.emptying import Emptied, Emptying
from mudanza.operations.means import Means, Say
from mudanza.service.access import Planner, refuse_limited
from mudanza.service.desk import Desk
from mudanza.service.orders import DrainOrder, EnterOrder, LeaveOrder, RoundOrder
from mudanza.service.parameters import PROBLEMS, AtDesk, Key, OnceKey
from mudanza.service.problems import NotThereError
from mudanza.service.sight import audited

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


def _refuse(_stuck: int) -> CannotGo:
    return CannotGo.REFUSE  # nobody is here who could be asked


@router.post("/hosts/{name}/drain", status_code=202, tags=["plans"])
def drain(
    desk: AtDesk, asker: Planner, response: Response, name: Key, order: DrainOrder, idempotency_key: OnceKey = None
) -> Any:
    """Take every VM off a host, by a plan that is carried out at once; return its number, and who is not moved.

    Who cannot leave while it runs: 409 with all of them, unless the order says what becomes of those. The host stays
    open to newcomers. Sent again with the same Idempotency-Key, it is the same plan.
    """

    def begin(means: Means, say: Say) -> Emptying:
        return emptying.drain(means, name, order.cannot_go, order.pace.policy(), say, _refuse)

    once = _once(asker, idempotency_key, f"drain {name} {order.model_dump_json()}")
    return _begun(desk, asker, response, ("drain", name, _words(order)), once, begin)


@router.post("/hosts/{name}/maintenance/enter", status_code=202, tags=["hosts"])
def enter(
    desk: AtDesk, asker: Planner, response: Response, name: Key, order: EnterOrder, idempotency_key: OnceKey = None
) -> Any:
    """Close a host to newcomers at once, and take its running VMs off it, by a plan that is carried out at once.

    Who cannot leave while it runs: 409 with all of them, and the host is open again, unless the order says what becomes
    of those. Sent again with the same Idempotency-Key, it is the same plan.
    """

    def begin(means: Means, say: Say) -> Emptying:
        policy = order.pace.policy()
        return maintenance.enter(means, name, order.cannot_go, policy, say, _refuse, with_off=order.with_off)

    once = _once(asker, idempotency_key, f"enter {name} {order.model_dump_json()}")
    return _begun(desk, asker, response, ("maintenance enter", name, _words(order)), once, begin)


@router.post("/hosts/{name}/maintenance/leave", status_code=202, tags=["hosts"])
def leave(
    desk: AtDesk, asker: Planner, response: Response, name: Key, order: LeaveOrder, idempotency_key: OnceKey = None
) -> Any:
    """Open a host again, start what was shut down for its maintenance, and bring home those that left it."""

    def begin(means: Means, say: Say) -> Emptying | None:
        policy = order.pace.policy()
        return maintenance.leave(means, name, order.cannot_go, policy, say, stay_away=order.stay_away)

    once = _once(asker, idempotency_key, f"leave {name} {order.model_dump_json()}")
    return _begun(desk, asker, response, ("maintenance leave", name, _words(order)), once, begin)


@router.post("/balance/rounds", tags=["plans"])
def balance_once(desk: AtDesk, asker: Planner, order: RoundOrder) -> Any:
    """Make one round of balance, and have carried out what is to be done by itself; return what came of it.

    409 while a controller balances, which the daemon itself does unless it was told not to.
    """
    refuse_limited(asker)
    every = order.every or desk.balance_every
    with desk.at_work() as means, audited(desk, asker, "balance once", str(every)):
        return plain(balancing.once(means, every, asker.name))


def _words(order: DrainOrder) -> str:
    return order.model_dump_json(exclude_defaults=True)


def _once(asker: Asker, key: str | None, what: str) -> Once | None:
    return Once(asker.name, key, "plan " + hashlib.sha256(what.encode()).hexdigest()) if key else None


def _begun(
    desk: Desk,
    asker: Asker,
    response: Response,
    words: tuple[str, str, str],
    once: Once | None,
    begin: Callable[[Means, Say], Emptying | None],
) -> Any:
    """Begin to empty a host, or to fill it again, unless the same was asked for before."""
    refuse_limited(asker)
    said: list[str] = []
    with desk.at_work() as means:
        _refuse_unknown(means, words[1])
        with audited(desk, asker, *words):
            earlier = desk.plans.earlier(once) if once is not None else None
            found = _heard(begin, means, said) if earlier is None else None
            number = emptying.put_down(means, found, asker.name, once) if found is not None else earlier
    if number is not None:
        response.headers["Location"] = f"/api/v1/plans/{number}"
    plan = found.plan if found is not None else desk.plans.get(number).plan if number is not None else None
    unmoved, summary = (plan.unmoved, plan.summary) if plan is not None else ((), "")
    return plain(Emptied(tuple(said), number, summary, unmoved, found.still_on if found is not None else 0))


def _heard(begin: Callable[[Means, Say], Emptying | None], means: Means, said: list[str]) -> Emptying | None:
    """Begin; where nothing is to be begun, let the error have what was told on the way."""
    try:
        return begin(means, said.append)
    except BlockedError as error:
        error.said = tuple(said)
        raise


def _refuse_unknown(means: Means, host: str) -> None:
    try:
        means.inventory.host(host)
    except UsageError as error:
        raise NotThereError(str(error), remedy=error.remedy) from error
