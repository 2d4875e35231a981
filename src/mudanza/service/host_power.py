"""Hosts' power by HTTP: what they draw, which are off on purpose, and having them off and on to save it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mudanza.model.carrying import CannotGo
from mudanza.model.plain import plain
from mudanza.operations import host_off, host_power
from mudanza.operations.handed_on import HandedOn
from mudanza.operations.means import Means, Say
from mudanza.service.access import Admin, Fencer, Reader, refuse_limited
from mudanza.service.availability import refuse_hidden
from mudanza.service.host_orders import PowerChange, PowerOffOrder
from mudanza.service.ordering import begun, begun_stoppable
from mudanza.service.parameters import PROBLEMS, AtDesk, Key, OnceKey
from mudanza.service.sight import audited
from mudanza.service.under_way import Order

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/power", tags=["power"])
def powers(desk: AtDesk, asker: Reader) -> list[Any]:
    """Return what is known of hosts' power, and when each was last to be switched off or on."""
    with desk.at_work() as means:
        return [plain(each) for each in host_power.listed(means) if asker.may_see_host(each.host)]


@router.patch("/hosts/{name}/power", tags=["power"])
def change(desk: AtDesk, asker: Admin, name: Key, order: PowerChange) -> Mapping[str, list[str]]:
    """Say what a host draws, how it is woken, and whether it has to stay on; for admins. 409 where an address for
    Wake-on-LAN is none of the host's network cards, or where that cannot be told, unless with ``unmatched``."""
    refuse_hidden(desk, asker, name)
    changes = order.changes()
    words = order.model_dump_json(exclude_unset=True)
    with desk.at_work() as means, audited(desk, asker, "power set", name, words):
        return {"said": [host_power.change(means, name, changes, asker.name, unmatched=order.unmatched)]}


@router.post("/hosts/{name}/power/off", status_code=202, tags=["power"])
def switch_off(
    desk: AtDesk, asker: Fencer, name: Key, order: PowerOffOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have a host emptied by a plan, its system shut down, and seen off; return the order, which is followed at its
    ``Location``. ``result``: whether it is ``off``; it stays on where somebody stays on it.

    409 with who could not leave it, and where it has to stay on, unless with ``force``. It can be stopped while the
    plan goes on, which is paused then. Sent again with the same Idempotency-Key, it is the same order.
    """
    refuse_limited(asker)
    refuse_hidden(desk, asker, name)
    how = order.how()

    def work(means: Means, under_way: Order) -> Any:
        carrying = HandedOn(means, asker.name, under_way.say, under_way)
        return host_off.put_off(means, name, how, carrying, asker.name, under_way.say, lambda _: CannotGo.REFUSE)

    command = ("power off", name, order.model_dump_json(exclude_defaults=True))
    return begun_stoppable(desk, asker, command, work, idempotency_key)


@router.post("/hosts/{name}/power/on", status_code=202, tags=["power"])
def wake(desk: AtDesk, asker: Fencer, name: Key, idempotency_key: OnceKey = None) -> JSONResponse:
    """Have a host woken by its fence device or Wake-on-LAN, and opened to VMs once it has shown that it is well; return
    the order."""
    refuse_hidden(desk, asker, name)

    def work(means: Means, say: Say) -> Any:
        return host_off.switcher_of(means, asker.name, say).on(name)

    return begun(desk, asker, ("power on", name), work, idempotency_key)


@router.post("/power/rounds", status_code=202, tags=["power"])
def save_once(desk: AtDesk, asker: Fencer, idempotency_key: OnceKey = None) -> JSONResponse:
    """Have one round of saving made: which host can be off or has to be woken is said, or done, as ``power.saving`` of
    the settings has it; return the order. 409 while a controller saves, which the daemon itself does where that is on.
    """
    refuse_limited(asker)

    def work(means: Means, say: Say) -> Any:
        from mudanza.operations.saving import saver_of  # it loads numpy

        return {"said": saver_of(means, asker.name, say).once()}

    return begun(desk, asker, ("power once",), work, idempotency_key)
