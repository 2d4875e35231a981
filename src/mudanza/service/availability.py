"""Hosts that die, by HTTP: what switches their power, the proof that they are off, and VMs that are kept up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from mudanza.journal.fences import Fences
from mudanza.model.access import Asker
from mudanza.model.errors import UsageError
from mudanza.model.kept import KeptUp
from mudanza.model.plain import plain
from mudanza.operations import cleaning, fencing, keeping_up
from mudanza.operations.means import Means, Say
from mudanza.service.access import Admin, Fencer, Protector, Reader, refuse_limited
from mudanza.service.availability_orders import ConfirmOrder, DeviceOrder, KeepUpOrder, OffOrder
from mudanza.service.desk import Desk
from mudanza.service.host_orders import CleanOrder
from mudanza.service.ordering import begun
from mudanza.service.parameters import PROBLEMS, AtDesk, Key, OnceKey
from mudanza.service.problems import NotAllowedError, NotThereError
from mudanza.service.sight import audited, find_vm

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


def refuse_tags(asker: Asker) -> None:
    """Raise NotAllowedError for a token that is for some VMs only: others may run on a host, too."""
    if asker.tags:
        raise NotAllowedError(
            f"{asker.name} is for certain VMs only, and this is about whole hosts",
            remedy="ask for a token without --tag",
        )


def refuse_hidden(desk: Desk, asker: Asker, host: str) -> None:
    """Raise NotThereError for a host that nobody knows, or whoever asks may not; and as ``refuse_tags``."""
    refuse_tags(asker)
    if not asker.may_see_host(host):
        raise NotThereError(f"there is no host {host!r}", remedy="see them all: mudanza hosts")
    with desk.at_work() as means:
        try:
            means.inventory.host(host)
        except UsageError as error:
            raise NotThereError(str(error), remedy=error.remedy) from error


@router.get("/fences", tags=["availability"])
def fences(desk: AtDesk, asker: Fencer) -> list[Any]:
    """Return what switches which host's power, and how each host was last to be proven off."""
    refuse_tags(asker)
    with desk.at_work() as means:
        return [plain(each) for each in fencing.listed(means) if asker.may_see_host(each.host)]


@router.put("/hosts/{name}/fences/{device}", tags=["availability"])
def put_fence(desk: AtDesk, asker: Admin, name: Key, device: Key, order: DeviceOrder) -> Mapping[str, list[str]]:
    """Name something that switches a host's power, in place of one of that name; for admins, as what an agent is told
    may name programs and files of the daemon's machine. Nothing is switched; 409 where it switches another machine than
    the host, or where that cannot be told, unless with ``unmatched``."""
    refuse_hidden(desk, asker, name)
    words = order.model_dump_json(exclude_defaults=True)
    with desk.at_work() as means, audited(desk, asker, "fence set", name, device, words):
        return {"said": [fencing.put(means, name, order.device(device), asker.name, unmatched=order.unmatched)]}


@router.delete("/hosts/{name}/fences/{device}", tags=["availability"])
def drop_fence(desk: AtDesk, asker: Admin, name: Key, device: Key) -> Mapping[str, list[str]]:
    """Forget something that switches a host's power; for admins."""
    refuse_hidden(desk, asker, name)
    with desk.at_work() as means:
        if device not in {each.name for each in Fences(means.database).of(name)}:
            raise NotThereError(f"host {name} has no fence device {device!r}", remedy="see them: mudanza fence show")
        with audited(desk, asker, "fence unset", name, device):
            return {"said": [fencing.drop(means, name, device)]}


@router.get("/hosts/{name}/answers", tags=["availability"])
def answers(desk: AtDesk, asker: Fencer, name: Key) -> Mapping[str, bool]:
    """Return whether a host's libvirt answers, asked anew."""
    refuse_hidden(desk, asker, name)
    with desk.at_work() as means:
        return {"answers": fencing.answers(means, name)}


@router.post("/hosts/{name}/fence/test", tags=["availability"])
def test_fences(desk: AtDesk, asker: Fencer, name: Key) -> list[Any]:
    """Ask everything that switches a host's power whether it is on. Nothing is switched."""
    refuse_hidden(desk, asker, name)
    said: list[str] = []
    with desk.at_work() as means, audited(desk, asker, "fence test", name):
        return [plain(each) for each in fencing.ask(means, name, said.append)]


@router.post("/hosts/{name}/fence/off", status_code=202, tags=["availability"])
def switch_off(
    desk: AtDesk, asker: Fencer, name: Key, order: OffOrder, idempotency_key: OnceKey = None
) -> JSONResponse:
    """Have a host switched off by its devices, and prove it; return the order, which is followed at its ``Location``.

    Its VMs die with it; nothing is started elsewhere. 409 where it answers, unless with ``force``, and where it is not
    proven off. Sent again with the same Idempotency-Key, it is the same order.
    """
    refuse_hidden(desk, asker, name)

    def work(means: Means, say: Say) -> Any:
        return fencing.switch_off(means, name, asker.name, say, force=order.force)

    command = ("fence off", name, order.model_dump_json(exclude_defaults=True))
    return begun(desk, asker, command, work, idempotency_key)


@router.post("/hosts/{name}/fence/confirm", tags=["availability"])
def confirm(desk: AtDesk, asker: Fencer, name: Key, order: ConfirmOrder) -> Any:
    """Give your word that a host is off, where no device can prove it; return the proof. 409 where it answers.

    Its VMs may be started elsewhere then: if it runs after all, two copies of them write into one disk.
    """
    refuse_hidden(desk, asker, name)
    said: list[str] = []
    with desk.at_work() as means, audited(desk, asker, "fence confirm", name, order.model_dump_json()):
        return plain(fencing.confirm(means, name, asker.name, said.append))


@router.get("/hosts/{name}/old-definitions", tags=["availability"])
def old_definitions(desk: AtDesk, asker: Reader, name: Key) -> list[Any]:
    """Return what a host has kept of VMs that were started elsewhere while it was lost, and run there."""
    refuse_limited(asker)
    refuse_hidden(desk, asker, name)
    with desk.at_work() as means:
        return [plain(each) for each in cleaning.old_definitions(means, name)]


@router.post("/hosts/{name}/clean", tags=["availability"])
def clean(desk: AtDesk, asker: Protector, name: Key, order: CleanOrder) -> Any:
    """Take such definitions away, each after one more look; return what was done, in words, and how many were ``kept``.

    Nothing is started, and no disk is touched.
    """
    refuse_limited(asker)
    refuse_hidden(desk, asker, name)
    words = order.model_dump_json(exclude_defaults=True)
    with desk.at_work() as means, audited(desk, asker, "ha clean", name, words):
        return plain(cleaning.clean_host(means, name, order.vms))


@router.get("/availability", tags=["availability"])
def look(desk: AtDesk, asker: Reader) -> Any:
    """Take one look at all hosts as the watch does, and return what each is taken for, and which VMs are kept up."""
    refuse_limited(asker)
    said: list[str] = []
    with desk.at_work() as means:
        return plain(keeping_up.look(means, asker.name, said.append))


@router.get("/availability/restarts", tags=["availability"])
def restarts(
    desk: AtDesk, asker: Reader, limit: Annotated[int, Query(ge=1, le=1000, description="So many, the newest.")] = 20
) -> list[Any]:
    """Return the newest restarts that were made by themselves, and what each took: until its host was taken for dead,
    proven off, the VM started, its guest answering."""
    refuse_limited(asker)
    with desk.at_work() as means:
        return [plain(each) for each in keeping_up.restarts(means, limit)]


@router.put("/vms/{key}/availability", tags=["availability"])
def keep_up(desk: AtDesk, asker: Protector, key: Key, order: KeepUpOrder) -> Mapping[str, list[str]]:
    """Have a VM started elsewhere when its host dies, or change how; its host starts it no more by itself."""
    said: list[str] = []
    if asker.hosts:
        raise NotAllowedError(
            f"{asker.name} is for certain hosts only, and it may be started on any",
            remedy="ask for a token without --host",
        )
    vm = find_vm(desk, asker, key)
    words = order.model_dump_json(exclude_defaults=True)
    with desk.at_work() as means, audited(desk, asker, "ha enable", vm.uuid, words):
        numbers = (order.priority, order.max_restarts)
        keeping_up.keep_up(means, vm.uuid, *numbers, asker.name, said.append, after=order.after, care=order.care())
    return {"said": said}


@router.delete("/vms/{key}/availability", tags=["availability"])
def let_down(desk: AtDesk, asker: Protector, key: Key) -> Mapping[str, list[str]]:
    """Keep a VM up no more; its autostart is as it was before."""
    with desk.at_work() as means:
        kept = _find_kept(desk, asker, means, key)
        with audited(desk, asker, "ha disable", kept.uuid):
            return {"said": [keeping_up.let_down(means, kept.uuid)]}


def _find_kept(desk: Desk, asker: Asker, means: Means, key: str) -> KeptUp:
    """Return a VM that is kept up; nobody needs to list it any more, unless for those who may not know of all."""
    try:
        return keeping_up.kept_up(means, find_vm(desk, asker, key).uuid if asker.is_limited else key)
    except UsageError as error:
        raise NotThereError(str(error), remedy=error.remedy) from error
