"""Maintenance that rolls over hosts, by HTTP. It runs commands on hosts, and is for admins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mudanza.hypervisor.host_command import HostCommand
from mudanza.journal.rollings import Rollings
from mudanza.journal.secrets import without_secrets
from mudanza.model.access import Asker
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plain import plain
from mudanza.model.rolling import Rolling
from mudanza.operations import outings, rolling_kept
from mudanza.operations.handed_on import HandedOn
from mudanza.operations.means import Means
from mudanza.operations.rolling import Roller
from mudanza.operations.rolling_kept import Telling, as_event
from mudanza.service.access import Admin, refuse_limited
from mudanza.service.desk import Desk
from mudanza.service.host_orders import ResumeOrder, RollingOrder
from mudanza.service.ordering import begun_stoppable
from mudanza.service.parameters import PROBLEMS, AtDesk, Limit, Number, OnceKey
from mudanza.service.problems import NotThereError
from mudanza.service.sight import audited
from mudanza.service.under_way import Order

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/rolling", tags=["rolling"])
def listed(desk: AtDesk, asker: Admin, limit: Limit = 20) -> Any:
    """Return the maintenance that rolls or has rolled over hosts, the newest first, and whether somebody carries one
    out (``held``)."""
    refuse_limited(asker)
    with desk.at_work() as means:
        return plain(rolling_kept.listed(means, limit))


@router.get("/rolling/{number}", tags=["rolling"])
def one(desk: AtDesk, asker: Admin, number: Number) -> Any:
    """Return one, with how far each host is and what the command printed there."""
    return plain(_find(desk, asker, number))


@router.post("/rolling/outings", tags=["rolling"])
def foresee(desk: AtDesk, asker: Admin, order: RollingOrder) -> Mapping[str, Any]:
    """Say in which order hosts would be done, and how each would be emptied; ``error``: why nothing would be begun.
    Nothing is touched."""
    refuse_limited(asker)
    said: list[str] = []
    with desk.at_work() as means:
        found = outings.foresee(means, order.order(), said.append, HostCommand)
    return {"said": said, "foreseen": plain(found)}


@router.post("/rolling", status_code=202, tags=["rolling"])
def roll(desk: AtDesk, asker: Admin, order: RollingOrder, idempotency_key: OnceKey = None) -> JSONResponse:
    """Have a command run on one host after the other, each emptied before and filled again after; return the order,
    which is followed at its ``Location``. ``result``: how it stands when all is done, or it has stopped at a fault.

    409 where a host could not be emptied, nothing being begun. Stopped, it ends after what is under way. Where the
    daemon ends or dies over it, the next one goes on with it, and with its order. Sent again with the same
    Idempotency-Key, it is the same order.
    """
    refuse_limited(asker)
    wanted = order.order()

    def work(means: Means, under_way: Order) -> Any:
        arranged = outings.arranged(means, wanted, HostCommand)
        outings.refuse_stuck(outings.outings(means, arranged, under_way.say))
        if under_way.stop_by:
            raise BlockedError(f"{under_way.stop_by} wanted it stopped; nothing was begun")
        return roller_of(means, asker.name, under_way).begin(arranged)

    return begun_stoppable(desk, asker, ("rolling", _words(order)), work, idempotency_key, goes_on=True)


@router.post("/rolling/{number}/resume", status_code=202, tags=["rolling"])
def resume(
    desk: AtDesk, asker: Admin, number: Number, order: ResumeOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have one gone on with that has stopped, or whose controller is gone; return the order, as of one that begins."""
    _find(desk, asker, number)

    def work(means: Means, under_way: Order) -> Any:
        return roller_of(means, asker.name, under_way).resume(number, skip=order.skip_command)

    words = order.model_dump_json(exclude_defaults=True)
    command = ("rolling resume", str(number), words)
    return begun_stoppable(desk, asker, command, work, idempotency_key, goes_on=True)


@router.post("/rolling/{number}/stop", status_code=202, tags=["rolling"])
def stop(desk: AtDesk, asker: Admin, number: Number) -> Mapping[str, list[str]]:
    """Have one stop after what is under way, whoever carries it out; it can be gone on with."""
    _find(desk, asker, number)
    with desk.at_work() as means, audited(desk, asker, "rolling stop", str(number)):
        return {"said": [rolling_kept.stop(means, number, asker.name)]}


@router.post("/rolling/{number}/give-up", tags=["rolling"])
def give_up(desk: AtDesk, asker: Admin, number: Number) -> Any:
    """Close one that is not to be gone on with, and return it. The host where it stands is left as it is."""
    _find(desk, asker, number)
    with desk.at_work() as means, audited(desk, asker, "rolling give-up", str(number)):
        return plain(rolling_kept.give_up(means, number, asker.name, HostCommand))


def _find(desk: Desk, asker: Asker, number: int) -> Rolling:
    refuse_limited(asker)
    with desk.at_work() as means:
        try:
            return Rollings(means.database).get(number)
        except UsageError as error:
            raise NotThereError(str(error), remedy=error.remedy) from error


def roller_of(means: Means, asked_by: str, under_way: Order) -> Roller:
    """Return who has maintenance roll for an order, which is told all that it does."""

    def say(words: str) -> None:
        under_way.say(without_secrets(words))

    def changed(found: Rolling) -> None:
        if (event := as_event(found)) is not None:
            under_way.tell(event)

    carrying = HandedOn(means, asked_by, say, under_way, under_way.tell)
    return Roller(means, carrying, asked_by, say, Telling(say, changed), HostCommand, under_way, under_way.number)


def _words(order: RollingOrder) -> str:
    """Return what the audit is told: of a script only which it was."""
    digest = hashlib.sha256(order.text.encode()).hexdigest()
    told = order.order()
    about = order.model_dump_json(exclude_defaults=True, exclude={"text", "shown"})
    return f"{without_secrets(told.shown)} (sha256 {digest}) {about}"
