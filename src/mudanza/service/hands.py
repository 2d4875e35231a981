"""What is looked up on hosts, or done there, while whoever asks waits: checks, forecasts, switching on and off."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from mudanza.model.access import Asker
from mudanza.model.errors import MudanzaError
from mudanza.model.plain import plain
from mudanza.model.vm import Vm
from mudanza.operations import checking, foreseeing, power, wishing
from mudanza.service.access import Mover, Reader, refuse_limited
from mudanza.service.desk import Desk
from mudanza.service.orders import CheckOrder, ForecastOrder, ShutdownOrder, WishOrder
from mudanza.service.parameters import PROBLEMS, AtDesk, Key
from mudanza.service.problems import NotAllowedError, NotThereError
from mudanza.service.sight import audited, find_host, find_vm

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.post("/vms/{key}/checks", tags=["cluster"])
def check(desk: AtDesk, asker: Mover, key: Key, order: CheckOrder) -> Any:
    """Say everything that stands against a move to a host, or to every other one. The VM is not touched."""
    vm = _bound(desk, asker, key, order.to)
    with desk.at_work() as means:
        return plain(checking.check(means, vm.uuid, order.to, order.options()))


@router.post("/vms/{key}/forecasts", tags=["cluster"])
def forecast(desk: AtDesk, asker: Mover, key: Key, order: ForecastOrder) -> Any:
    """Say how long a move will take, how dark it will be, by which means, and why. It takes some seconds to measure.

    ``said``: what is to be known of the measuring itself.
    """
    vm = _bound(desk, asker, key, order.to)
    with desk.at_work() as means:
        said: list[str] = []
        options, probe = order.options(), order.probe_link
        found = foreseeing.foresee(means, vm.uuid, order.to, options, warn=said.append, probe_link=probe)
        return {**plain(found), "said": said}


@router.get("/forecasts", tags=["cluster"])
def accuracy(desk: AtDesk, asker: Reader) -> Any:
    """Return how well forecasts of the newest moves have come true: over all, then of each pair of hosts."""
    refuse_limited(asker)
    with desk.at_work() as means:
        return plain(foreseeing.how_well(means))


@router.get("/loads", tags=["cluster"])
def loads(
    desk: AtDesk,
    asker: Reader,
    window: Annotated[
        float | None, Query(gt=0, le=366 * 86400, description="Of so many seconds; else as the settings have it.")
    ] = None,
) -> Any:
    """Return how busy hosts and VMs have been: medians, what 95 % of the time did not exceed, and peaks."""
    refuse_limited(asker)
    with desk.at_work() as means:
        return plain(means.measured(window))


def _bound(desk: Desk, asker: Asker, key: str, to: str | None) -> Vm:
    """Return a VM that somebody may ask about, on its way to where they may ask about, too."""
    vm = find_vm(desk, asker, key, to)
    if to is not None:
        find_host(desk, asker, to)
    elif asker.hosts:
        raise NotAllowedError(
            f"{asker.name} is for certain hosts only, and this is about all", remedy="say where to: to"
        )
    return vm


@router.post("/vms/{key}/start", tags=["power"])
def start(desk: AtDesk, asker: Mover, key: Key) -> Any:
    """Start a VM that is off, on the host it is defined on; return what was done, in words.

    Sent again it does nothing more: a VM that runs is left as it is.
    """
    said: list[str] = []
    vm = find_vm(desk, asker, key)
    with desk.at_work() as means, audited(desk, asker, "start", vm.uuid), means.connections() as connections:
        power.start_one(means, connections, _now(asker, means.read_cluster(connections).find(vm.uuid)), said.append)
    return {"said": said}


@router.post("/vms/{key}/shutdown", tags=["power"])
def shutdown(desk: AtDesk, asker: Mover, key: Key, order: ShutdownOrder) -> Any:
    """Ask a VM to shut down, and wait until it is off if so wanted; return what was done, in words.

    It is never cut off. A VM that is off is left as it is.
    """
    said: list[str] = []
    vm = find_vm(desk, asker, key)
    with desk.at_work() as means, audited(desk, asker, "shutdown", vm.uuid), means.connections() as connections:
        now = _now(asker, means.read_cluster(connections).find(vm.uuid))
        _raise_first(power.shut_down(means, connections, [now], said.append, wait=order.wait))
    return {"said": said}


@router.patch("/vms/{key}/wishes", tags=["cluster"])
def wish(desk: AtDesk, asker: Mover, key: Key, order: WishOrder) -> Any:
    """Change what a VM wishes of its own moves: it is kept in its metadata, and travels with it."""
    wishing.refuse_impossible(order.wishes)
    vm = find_vm(desk, asker, key)
    words = order.model_dump_json(exclude_defaults=True)
    with desk.at_work() as means, audited(desk, asker, "wish", vm.uuid, words), means.connections() as connections:
        now = _now(asker, means.read_cluster(connections).find(vm.uuid))
        return {"said": [wishing.write(means, connections, now, order.wishes, keep=order.keep)]}


def _now(asker: Asker, vm: Vm) -> Vm:
    """Return a VM as it is now, where whoever asks may know of it still."""
    if not asker.may_see(vm):
        raise NotThereError(f"no host lists a VM {vm.uuid!r}", remedy="see what is where: mudanza vms")
    return vm


def _raise_first(errors: list[MudanzaError]) -> None:
    if errors:
        raise errors[0]
