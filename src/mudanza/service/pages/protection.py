"""The pages of protected VMs: how old their replicas are, bringing them up to date, and failover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response

from mudanza.hypervisor.bounded import Task
from mudanza.model.access import Asker
from mudanza.model.errors import UsageError
from mudanza.model.protection import Protection, Standing
from mudanza.model.vm import Vm
from mudanza.operations.replicating import LATE, state_of
from mudanza.service.desk import Desk
from mudanza.service.pages.live import lasting
from mudanza.service.pages.session import Mover, Rescuer, Visitor
from mudanza.service.pages.site import Fields, page, render, see
from mudanza.service.pages.strip import Strip, strip
from mudanza.service.problems import NotThereError
from mudanza.service.sight import audited, known_vms

AT_ONCE = 3.0
"""Seconds within which what stands against an order is told on the page; what takes longer goes on by itself."""
DEAD = ("dead", "muerto")
"""The word with which one says that a VM's host is dead, in every language of the pages."""

router = APIRouter()
Key = Annotated[str, Path(min_length=1, max_length=255)]


@dataclass(frozen=True, slots=True)
class Shown:
    """One protection as it is shown."""

    protection: Protection
    strip: Strip
    vm: Vm | None
    """Where it is now; None: no host that was seen lists it."""
    several: bool = False
    """Whether the VM has other replicas besides."""

    @property
    def state(self) -> str:
        """Its state in a word."""
        return state_of(self.protection)

    @property
    def is_bad(self) -> bool:
        """Whether it does not do what it is there for."""
        return self.state in ("late", "stale")

    @property
    def on(self) -> str:
        """What its page's address ends with."""
        return f"?on={quote(self.protection.target, safe='')}" if self.several else ""

    @property
    def is_on(self) -> bool:
        """Whether rounds are made."""
        return self.protection.standing is Standing.ON


@router.get("/protection")
def protections(request: Request, visitor: Visitor) -> Response:
    """Show all protected VMs."""
    return page(request, "protections.html", visitor, all=_known(request, visitor))


@router.get("/live/protection")
async def live_protections(request: Request, visitor: Visitor) -> Response:
    """Send them each time that they change."""
    return lasting(request, lambda: render(request, "_protections.html", visitor, all=_known(request, visitor)))


@router.get("/protection/{uuid}")
def protection(request: Request, visitor: Visitor, uuid: Key, said: str = "", on: str = "") -> Response:
    """Show one, with what can be done; ``said``: what was just asked for; ``on``: its host, where a VM has several."""
    return page(request, "protection.html", visitor, each=_find(request, visitor, uuid, on), said=said)


@router.get("/live/protection/{uuid}")
async def live_protection(request: Request, visitor: Visitor, uuid: Key, on: str = "") -> Response:
    """Send one each time that it changes."""

    def shown() -> str:
        return render(request, "_protections.html", visitor, all=[_find(request, visitor, uuid, on)])

    return lasting(request, shown)


@router.post("/protection/{uuid}/sync")
def sync(request: Request, visitor: Mover, uuid: Key, on: str = "") -> Response:
    """Make a round now."""
    shown = _find(request, visitor, uuid, on)
    _round(request, visitor, shown, verify=False)
    return see(_address(shown, "sync"))


@router.post("/protection/{uuid}/verify")
def verify(request: Request, visitor: Mover, uuid: Key, on: str = "") -> Response:
    """Make a round now, and compare all of the replica with the source."""
    shown = _find(request, visitor, uuid, on)
    _round(request, visitor, shown, verify=True)
    return see(_address(shown, "verify"))


@router.post("/protection/{uuid}/pause")
def pause(request: Request, visitor: Rescuer, uuid: Key, on: str = "") -> Response:
    """Make no rounds by themselves for now."""
    return _pause(request, visitor, _find(request, visitor, uuid, on), paused=True)


@router.post("/protection/{uuid}/resume")
def resume(request: Request, visitor: Rescuer, uuid: Key, on: str = "") -> Response:
    """Make them again."""
    return _pause(request, visitor, _find(request, visitor, uuid, on), paused=False)


@router.post("/protection/{uuid}/failover")
def failover(request: Request, visitor: Rescuer, uuid: Key, fields: Fields, on: str = "") -> Response:
    """Start it at its replica's host: with all that is new if its own host lives, else by the word that it is dead."""
    shown = _find(request, visitor, uuid, on)
    found = shown.protection
    planned = fields.get("planned") == "yes"
    if fields.get("name", "").strip() != found.vm_name:
        raise UsageError(f"the name is not {found.vm_name!r}", remedy="type the VM's name: nothing was done")
    if not planned and fields.get("word", "").strip().lower() not in DEAD:
        raise UsageError(
            "nobody has said that its host is dead, and a second copy beside a living one spoils its disks",
            remedy="if it is dead or cut off for good, type the word; if it lives, have it handed over",
        )
    work = request.app.state.hands.fail_over
    how = "planned" if planned else "source is dead"
    command = ("failover", *_meant(shown), how)
    _begin(request, visitor, command, lambda: work(found.vm_uuid, visitor.name, found.target, planned=planned))
    return see(_address(shown, "failover"))


def _round(request: Request, visitor: Asker, shown: Shown, *, verify: bool) -> None:
    found, work = shown.protection, request.app.state.hands.sync
    command = ("protection verify" if verify else "protection sync", *_meant(shown))
    _begin(request, visitor, command, lambda: work(found.vm_uuid, visitor.name, found.target, verify=verify))


def _pause(request: Request, visitor: Asker, shown: Shown, *, paused: bool) -> Response:
    found, work = shown.protection, request.app.state.hands.pause
    command = ("protection pause" if paused else "protection resume", *_meant(shown))
    _begin(request, visitor, command, lambda: work(found.vm_uuid, visitor.name, found.target, paused=paused))
    return see(_address(shown, ""))


def _meant(shown: Shown) -> tuple[str, ...]:
    """Return how the audit names a replica: by its host only where the VM has several."""
    return (shown.protection.vm_uuid, *([shown.protection.target] if shown.several else []))


def _address(shown: Shown, said: str) -> str:
    """Return the address of one's page, on which it is told what was just asked for; empty: it shows there anyhow."""
    asked = f"{'&' if shown.several else '?'}said={said}" if said else ""
    return f"/protection/{shown.protection.vm_uuid}{shown.on}{asked}"


def _begin(request: Request, visitor: Asker, command: tuple[str, ...], work: Callable[[], None]) -> None:
    """Have something done that takes its time. Raises what stands against it, where that is found at once."""
    desk: Desk = request.app.state.desk

    def doing() -> None:
        with audited(desk, visitor, *command):
            work()

    try:
        Task(doing).wait(AT_ONCE)
    except TimeoutError:
        return  # it goes on; its job, and the protection, tell how it went


def _known(request: Request, visitor: Asker) -> list[Shown]:
    desk: Desk = request.app.state.desk
    there: dict[str, Vm] = {}
    for vm in known_vms(desk, visitor):
        if vm.uuid not in there or vm.state.active:
            there[vm.uuid] = vm
    found = [
        each
        for each in request.app.state.hands.protections()
        if not visitor.is_limited or (each.vm_uuid in there and visitor.may_see_host(each.target))
    ]
    many = Counter(each.vm_uuid for each in found)
    return [
        Shown(each, strip(each, LATE * each.every), there.get(each.vm_uuid), many[each.vm_uuid] > 1) for each in found
    ]


def _find(request: Request, visitor: Asker, uuid: str, on: str = "") -> Shown:
    """Return a VM's replica at a host; empty: the first one."""
    mine = [each for each in _known(request, visitor) if each.protection.vm_uuid == uuid]
    found = next((each for each in mine if on in ("", each.protection.target)), None)
    if found is None:
        raise NotThereError("there is no such protected VM", remedy="protect one: mudanza protect VM --to HOST")
    return found
