"""Protection by HTTP: which VMs have replicas, protecting them, rounds that are asked for, and an end to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query

from mudanza.journal.protections import Protections, the_one_at
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
from mudanza.service.protection_orders import PauseOrder, ProtectOrder, ReplicaRoundOrder
from mudanza.service.sight import audited, find_host, find_vm, known_vms

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)
OnHost = Annotated[
    str | None, Query(min_length=1, max_length=255, description="The replica's host, where the VM has several.")
]


@router.get("/protections", tags=["protection"])
def protections(desk: AtDesk, asker: Reader) -> list[Any]:
    """Return all replicas of protected VMs with their restore points, and how many bytes have changed since each one's
    newest."""
    mine = {vm.uuid for vm in known_vms(desk, asker)} if asker.is_limited else None
    with desk.at_work() as means:
        return [plain(each) for each in protecting.listed(means) if mine is None or each.protection.vm_uuid in mine]


@router.post("/vms/{key}/protection", status_code=202, tags=["protection"])
def protect(desk: AtDesk, asker: Protector, key: Key, order: ProtectOrder) -> Any:
    """Have a replica of a running VM kept at another host, by whoever makes rounds; return the protection.

    A VM may have several, each at a host of its own. The first round, which brings everything, may take long: GET
    /protections tells once there is a restore point.
    """
    vm = find_vm(desk, asker, key)
    find_host(desk, asker, order.to)
    words = order.model_dump_json(exclude_defaults=True)
    with desk.at_work() as means, audited(desk, asker, "protect", vm.uuid, words), means.connections() as connections:
        return plain(protecting.begin(means, connections, vm.uuid, order.keeping(), asker.name)[0])


@router.post("/vms/{key}/protection/rounds", tags=["protection"])
def one_round(desk: AtDesk, asker: Protector, key: Key, order: ReplicaRoundOrder) -> Mapping[str, list[str]]:
    """Bring a VM's replicas up to date now, and compare all of them with the source if so wanted; answer when they
    are."""
    with desk.at_work() as means:
        uuid, on = find_replica(desk, asker, means, key, order.on)
        command = "protection verify" if order.verify else "protection sync"
        with audited(desk, asker, command, uuid, *([on] if on else [])):
            said = protecting.one_round(means, uuid, asker.name, verify=order.verify, on=on)
            return {"said": said.split("\n")}


@router.put("/vms/{key}/protection/pause", tags=["protection"])
def pause(desk: AtDesk, asker: Protector, key: Key, order: PauseOrder) -> Mapping[str, list[str]]:
    """Have no rounds be made by themselves of a VM's replicas, or have them be made again."""
    with desk.at_work() as means:
        uuid, on = find_replica(desk, asker, means, key, order.on)
        command = "protection pause" if order.paused else "protection resume"
        with audited(desk, asker, command, uuid, *([on] if on else [])):
            return {"said": [protecting.pause(means, uuid, on, asker.name, paused=order.paused)]}


@router.delete("/vms/{key}/protection", tags=["protection"])
def unprotect(desk: AtDesk, asker: Protector, key: Key, on: OnHost = None) -> Mapping[str, list[str]]:
    """Protect a VM no more, and delete its replica with all restore points; where it has several, the one at that
    host."""
    said: list[str] = []
    with desk.at_work() as means:
        uuid, at = find_replica(desk, asker, means, key, on)
        with audited(desk, asker, "unprotect", uuid, *([at] if at else [])):
            protecting.give_up(means, uuid, asker.name, said.append, at)
    return {"said": said}


def find_replica(
    desk: Desk, asker: Asker, means: Means, key: str, on: str | None = None, *, whole: bool = False
) -> tuple[str, str | None]:
    """Return the UUID of a protected VM, and at which host the replica is that is meant; None: whichever the operation
    takes. Replicas that whoever asks may not know of are not there, and then it is one that they may know of.
    ``whole``: it is about all replicas of the VM.

    Nobody needs to list the VM any more: then it counts where it was seen last. A replica's host counts, too.
    """
    try:
        found = Protections(means.database).all_of(key)
    except UsageError as error:
        raise NotThereError(str(error), remedy=error.remedy) from error
    seen = [each for each in found if not asker.is_limited or _may_see(desk, asker, means, each)]
    if not seen or (whole and len(seen) < len(found)):
        raise NotThereError(f"VM {key!r} is not protected", remedy="see them: mudanza protections")
    if on is not None and on not in {each.target for each in seen}:
        hosts = " and ".join(each.target for each in seen)
        raise NotThereError(f"VM {key!r} has no replica at {on}: it has one at {hosts}", remedy="mudanza protections")
    if on is None and len(seen) < len(found):
        on = the_one_at(seen, None, "on").target
    return found[0].vm_uuid, on


def _may_see(desk: Desk, asker: Asker, means: Means, protection: Protection) -> bool:
    if not asker.may_see_host(protection.target):
        return False
    known = [vm for vm in desk.picture().cluster.vms if vm.uuid == protection.vm_uuid]
    if not known:
        seen = Sightings(means.database).last().values()
        known = [vm for sighting in seen for vm in sighting.vms if vm.uuid == protection.vm_uuid]
    return bool(known) and all(map(asker.may_see, known))
