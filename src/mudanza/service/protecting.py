"""Protection by HTTP: which VMs have replicas, protecting them, rounds that are asked for, and an end to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from mudanza.journal.protections import Protections
from mudanza.journal.sightings import Sightings
from mudanza.model.access import Asker
from mudanza.model.errors import UsageError
from mudanza.model.plain import plain
from mudanza.model.protection import Protection
from mudanza.operations import protecting
from mudanza.operations.means import Means
from mudanza.service.access import Protector, Reader
from mudanza.service.desk import Desk
from mudanza.service.parameters import PROBLEMS, AtDesk, Key
from mudanza.service.problems import NotThereError
from mudanza.service.protection_orders import ProtectOrder, ReplicaRoundOrder
from mudanza.service.sight import audited, find_host, find_vm, known_vms

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/protections", tags=["protection"])
def protections(desk: AtDesk, asker: Reader) -> list[Any]:
    """Return the protected VMs with their restore points, and how many bytes each has changed since the newest one."""
    mine = {vm.uuid for vm in known_vms(desk, asker)} if asker.is_limited else None
    with desk.at_work() as means:
        return [plain(each) for each in protecting.listed(means) if mine is None or each.protection.vm_uuid in mine]


@router.post("/vms/{key}/protection", status_code=202, tags=["protection"])
def protect(desk: AtDesk, asker: Protector, key: Key, order: ProtectOrder) -> Any:
    """Have a replica of a running VM kept at another host, by whoever makes rounds; return the protection.

    The first round, which brings everything, may take long: GET /protections tells once there is a restore point.
    """
    vm = find_vm(desk, asker, key)
    find_host(desk, asker, order.to)
    words = order.model_dump_json(exclude_defaults=True)
    with desk.at_work() as means, audited(desk, asker, "protect", vm.uuid, words), means.connections() as connections:
        return plain(protecting.begin(means, connections, vm.uuid, order.keeping(), asker.name)[0])


@router.post("/vms/{key}/protection/rounds", tags=["protection"])
def one_round(desk: AtDesk, asker: Protector, key: Key, order: ReplicaRoundOrder) -> Mapping[str, list[str]]:
    """Bring a VM's replica up to date now, and compare all of it with the source if so wanted; answer when it is."""
    with desk.at_work() as means:
        uuid = find_protection(desk, asker, means, key).vm_uuid
        with audited(desk, asker, "protection verify" if order.verify else "protection sync", uuid):
            return {"said": [protecting.one_round(means, uuid, asker.name, verify=order.verify)]}


@router.delete("/vms/{key}/protection", tags=["protection"])
def unprotect(desk: AtDesk, asker: Protector, key: Key) -> Mapping[str, list[str]]:
    """Protect a VM no more, and delete its replica with all restore points."""
    said: list[str] = []
    with desk.at_work() as means:
        uuid = find_protection(desk, asker, means, key).vm_uuid
        with audited(desk, asker, "unprotect", uuid):
            protecting.give_up(means, uuid, asker.name, said.append)
    return {"said": said}


def find_protection(desk: Desk, asker: Asker, means: Means, key: str) -> Protection:
    """Return the protection of a VM; one that whoever asks may not know of is not there.

    Nobody needs to list the VM any more: then it counts where it was seen last. The replica's host counts, too.
    """
    try:
        found = Protections(means.database).of(key)
    except UsageError as error:
        raise NotThereError(str(error), remedy=error.remedy) from error
    if asker.is_limited and not _may_see(desk, asker, means, found):
        raise NotThereError(f"VM {key!r} is not protected", remedy="see them: mudanza protections")
    return found


def _may_see(desk: Desk, asker: Asker, means: Means, protection: Protection) -> bool:
    if not asker.may_see_host(protection.target):
        return False
    known = [vm for vm in desk.picture().cluster.vms if vm.uuid == protection.vm_uuid]
    if not known:
        seen = Sightings(means.database).last().values()
        known = [vm for sighting in seen for vm in sighting.vms if vm.uuid == protection.vm_uuid]
    return bool(known) and all(map(asker.may_see, known))
