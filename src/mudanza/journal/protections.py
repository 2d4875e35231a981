"""Protected VMs and their restore points, as the database has them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, ScalarSelect, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.schema import identity, protection, reign, restore_point, trial
from mudanza.journal.secrets import without_secrets
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.protection import (
    Carriage,
    Compress,
    Consistency,
    FirmwareState,
    Protection,
    Readdressed,
    ReplicaDisk,
    RestorePoint,
    Standing,
    Trial,
)


class Protections:
    """All protections of the database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def make(self, values: Mapping[str, Any]) -> Protection:
        """Write down that a VM is to have a replica at a host, by the names of Protection's fields. Raises BlockedError
        where it has one there already."""
        uuid, target = str(values["vm_uuid"]), str(values["target"])
        try:
            with transaction(self._engine) as connection:
                epoch = connection.scalar(select(func.max(protection.c.epoch)).where(protection.c.vm_uuid == uuid)) or 0
                first = {"standing": Standing.ON, "epoch": epoch, "checkpoint": "", "rounds": 0, "said": ""}
                connection.execute(insert(protection).values(**first, **values, made_at=now(connection)))
        except IntegrityError as error:
            raise BlockedError(
                f"VM {values['vm_name']!r} is protected already, to {target}", remedy="see it: mudanza protections"
            ) from error
        return self.of(uuid, target)

    def all(self) -> tuple[Protection, ...]:
        """Return every protection, by the VMs' names and the replicas' hosts."""
        with reading(self._engine) as connection:
            return _read(connection, protection.c.id.is_not(None))

    def group(self, name: str) -> tuple[Protection, ...]:
        """Return the members of a consistency group, by the VMs' names."""
        with reading(self._engine) as connection:
            return _read(connection, protection.c.group == name)

    def get(self, number: int) -> Protection:
        """Return a protection by its number. Raises UsageError where there is none any more."""
        with reading(self._engine) as connection:
            found = _read(connection, protection.c.id == number)
        if not found:
            raise UsageError(f"there is no protection {number} any more", remedy="see them: mudanza protections")
        return found[0]

    def replicas(self, vm_uuid: str) -> tuple[Protection, ...]:
        """Return all protections of a VM, by the replicas' hosts; none: it is not protected."""
        with reading(self._engine) as connection:
            return _read(connection, protection.c.vm_uuid == vm_uuid)

    def all_of(self, vm: str) -> tuple[Protection, ...]:
        """Return all protections of a VM, by its name or UUID. Raises UsageError where not exactly one VM is meant."""
        with reading(self._engine) as connection:
            found = _read(connection, (protection.c.vm_uuid == vm) | (protection.c.vm_name == vm))
        if len({each.vm_uuid for each in found}) != 1:
            why = "is not protected" if not found else "is a name that several protected VMs have"
            raise UsageError(f"VM {vm!r} {why}", remedy="see them: mudanza protections")
        return found

    def of(self, vm: str, host: str | None = None, option: str = "--on") -> Protection:
        """Return the one protection of a VM that is meant, by name or UUID. ``host``: where its replica is; None: it
        has just one; ``option``: how one says which. Raises UsageError where not exactly one is meant."""
        return the_one_at(self.all_of(vm), host, option)

    def begin_round(self, number: int) -> int:
        """Return the number of a new round of a protection."""
        with transaction(self._engine) as connection:
            mine = protection.c.id == number
            values = {"rounds": protection.c.rounds + 1, "tried_at": now(connection)}
            connection.execute(update(protection).where(mine).values(**values))
            return int(connection.scalar(select(protection.c.rounds).where(mine)) or 0)

    def instant(self) -> float:
        """Return what the database's clock shows."""
        with reading(self._engine) as connection:
            return float(connection.scalar(select(now(connection))) or 0.0)

    def change(self, number: int, **values: Any) -> None:
        """Write down something else of a protection. An epoch is the VM's, and that of all its replicas."""
        with transaction(self._engine) as connection:
            connection.execute(update(protection).where(protection.c.id == number).values(**values))
            if "epoch" in values:
                same = protection.c.vm_uuid == _vm_of(number)
                connection.execute(update(protection).where(same).values(epoch=values["epoch"]))

    def rename(self, vm_uuid: str, name: str) -> None:
        """Have all replicas of a VM be found by the name that it has now."""
        with transaction(self._engine) as connection:
            other = (protection.c.vm_uuid == vm_uuid) & (protection.c.vm_name != name)
            connection.execute(update(protection).where(other).values(vm_name=name))

    def forget_changes(self, vm_uuid: str) -> None:
        """Have the next round of each of a VM's replicas compare all blocks.

        The images that a VM leaves behind where it goes home live, upon what its replica there holds, know what had
        changed before: its bitmaps come along from the uppermost one only, and libvirt takes these for whole.
        """
        with transaction(self._engine) as connection:
            connection.execute(update(protection).where(protection.c.vm_uuid == vm_uuid).values(checkpoint=""))

    def settle_at(self, number: int, said: str) -> None:
        """Write down that a VM is where this replica was, and nowhere that it has come up at before."""
        with transaction(self._engine) as connection:
            others = (protection.c.vm_uuid == _vm_of(number)) & (protection.c.id != number)
            before = others & (protection.c.standing == Standing.FAILED_OVER)
            connection.execute(update(protection).where(before).values(standing=Standing.LEFT))
            mine = {"standing": Standing.FAILED_OVER, "said": said}
            connection.execute(update(protection).where(protection.c.id == number).values(**mine))

    def add_point(self, number: int, point: RestorePoint, checkpoint: str) -> None:
        """Write down a restore point that is whole at the target, and the checkpoint from which the next one starts."""
        self.add_points({number: (point, checkpoint)})

    def add_points(self, points: Mapping[int, tuple[RestorePoint, str]]) -> None:
        """The same of several VMs, all of them or none: protection → point and checkpoint."""
        with transaction(self._engine) as connection:
            for number, (point, checkpoint) in points.items():
                about = {"taken_at": point.taken_at, "definition": without_secrets(point.definition)}
                about |= {"disks": _disks(point.disks), "carried": point.carried, "instant": point.instant}
                about |= {"consistency": point.consistency, "why_not": point.why_not, "sent": point.sent}
                about["firmware"] = json.dumps(asdict(point.firmware)) if point.firmware is not None else ""
                about["epoch"] = select(protection.c.epoch).where(protection.c.id == number).scalar_subquery()
                connection.execute(insert(restore_point).values(protection=number, number=point.number, **about))
                connection.execute(update(protection).where(protection.c.id == number).values(checkpoint=checkpoint))

    def give_up(self, number: int, point: int) -> bool:
        """Let nobody come back to a restore point any more, before its images are touched; return whether that may be:
        not while a test failover stands on the replica."""
        with transaction(self._engine) as connection:
            _hold(connection, number)
            if connection.execute(select(trial.c.point).where(trial.c.protection == number)).first() is not None:
                return False
            connection.execute(update(restore_point).where(_point(number, point)).values(given_up=True))
            return True

    def begin_trial(self, number: int, begun: Trial) -> None:
        """Write down that a test failover stands on a restore point from now on: no points are thinned meanwhile.

        Raises BlockedError where there is one already, the point is not there any more, or points are being thinned.
        """
        with transaction(self._engine) as connection:
            _hold(connection, number)
            mine = restore_point.c.protection == number
            given_up = {
                row.number: row.given_up
                for row in connection.execute(select(restore_point.c.number, restore_point.c.given_up).where(mine))
            }
            if connection.execute(select(trial.c.point).where(trial.c.protection == number)).first() is not None:
                raise BlockedError("a test failover of it is up already", remedy="end it: mudanza test-failover end VM")
            if given_up.get(begun.point) is not False or any(given_up.values()):
                raise BlockedError(
                    f"restore point {begun.point} cannot be stood upon now: points are being thinned",
                    remedy="try again once the round is over",
                )
            about = {"point": begun.point, "uuid": begun.uuid, "name": begun.name, "host": begun.host}
            texts = {"before": json.dumps(dict(begun.before)), "times": json.dumps(dict(begun.times))}
            connection.execute(insert(trial).values(protection=number, begun_at=now(connection), **about, **texts))

    def tell_before_trial(self, number: int, before: Mapping[str, str]) -> None:
        """Write down what was before a test failover."""
        with transaction(self._engine) as connection:
            mine = trial.c.protection == number
            connection.execute(update(trial).where(mine).values(before=json.dumps(dict(before))))

    def tell_trial(self, number: int, **times: float) -> None:
        """Write down when a test failover got how far, in seconds from its beginning."""
        with transaction(self._engine) as connection:
            mine = trial.c.protection == number
            known = json.loads(connection.scalar(select(trial.c.times).where(mine)) or "{}")
            connection.execute(update(trial).where(mine).values(times=json.dumps({**known, **times})))

    def end_trial(self, number: int) -> None:
        """Forget a test failover of which nothing is left."""
        with transaction(self._engine) as connection:
            connection.execute(delete(trial).where(trial.c.protection == number))

    def merged(self, number: int, given_up: int, oldest: int, disks: Mapping[str, ReplicaDisk]) -> None:
        """Forget a point that was given up, and write down in which images the next one is now."""
        with transaction(self._engine) as connection:
            connection.execute(delete(restore_point).where(_point(number, given_up)))
            connection.execute(update(restore_point).where(_point(number, oldest)).values(disks=_disks(disks)))

    def forget_points(self, number: int, points: Collection[int]) -> None:
        """Forget restore points that nobody can come back to; the next round compares all blocks with the newest of the
        others, or brings everything."""
        with transaction(self._engine) as connection:
            mine = (restore_point.c.protection == number) & restore_point.c.number.in_(list(points))
            connection.execute(delete(restore_point).where(mine))
            connection.execute(update(protection).where(protection.c.id == number).values(checkpoint=""))

    def turn(self, number: int, target: str, directory: str, seed: Mapping[str, str]) -> None:
        """Have a VM's replica be elsewhere from now on, none of it being there yet; the points there were are those of
        the images that it runs on."""
        with transaction(self._engine) as connection:
            connection.execute(delete(restore_point).where(restore_point.c.protection == number))
            values = {"target": target, "directory": directory, "seed": json.dumps(dict(seed))}
            values |= {"standing": Standing.ON, "checkpoint": "", "said": "", "paused_by": ""}
            connection.execute(update(protection).where(protection.c.id == number).values(**values))

    def measured(self, number: int, carriage: Carriage) -> None:
        """Write down what was measured of how a VM's data travel."""
        self.change(number, carriage=json.dumps(asdict(carriage)))

    def readdressed(self, number: int, given: Readdressed | None) -> None:
        """Write down that a guest was given other addresses where this replica is; None: it has its own ones again."""
        text = json.dumps(asdict(given)) if given is not None else ""
        with transaction(self._engine) as connection:
            mine = protection.c.id == number
            others = (protection.c.vm_uuid == _vm_of(number)) & ~mine
            connection.execute(update(protection).where(others).values(readdressed=""))
            connection.execute(update(protection).where(mine).values(readdressed=text))

    def remove(self, number: int) -> None:
        """Forget a protection and its restore points. That the VM's guest has other addresses is known to another one
        of its protections then, if it has one."""
        with transaction(self._engine) as connection:
            mine = protection.c.id == number
            others = (protection.c.vm_uuid == _vm_of(number)) & ~mine
            if given := connection.scalar(select(protection.c.readdressed).where(mine)):
                heir = connection.scalar(select(func.min(protection.c.id)).where(others))
                connection.execute(update(protection).where(protection.c.id == heir).values(readdressed=given))
            connection.execute(delete(trial).where(trial.c.protection == number))
            connection.execute(delete(restore_point).where(restore_point.c.protection == number))
            connection.execute(delete(protection).where(protection.c.id == number))


def _hold(connection: Connection, number: int) -> None:
    """Have nobody else change a protection until this transaction is over."""
    connection.execute(select(protection.c.id).where(protection.c.id == number).with_for_update())


def _readdressed(text: str) -> Readdressed | None:
    if not text:
        return None
    found = json.loads(text)
    return Readdressed(found["at"], tuple(found["macs"]), found["limit"], found.get("owed_at", ""))


def the_one_at(found: Sequence[Protection], host: str | None, option: str = "--on") -> Protection:
    """Return the one of a VM's protections that is meant; see ``Protections.of``: pure."""
    name = found[0].vm_name
    there = " and ".join(each.target for each in found)
    chosen = [each for each in found if host in (None, each.target)]
    if not chosen:
        raise UsageError(f"VM {name!r} has no replica at {host}: it has one at {there}", remedy="mudanza protections")
    if len(chosen) > 1:
        raise UsageError(f"VM {name!r} has replicas at {there}: which one is meant?", remedy=f"say it: {option} HOST")
    return chosen[0]


def _vm_of(number: int) -> ScalarSelect[str]:
    """Return which VM a protection is of, as a part of a statement that changes its table."""
    return select(protection.c.vm_uuid).where(protection.c.id == number).scalar_subquery()


def _disks(disks: Mapping[str, ReplicaDisk]) -> str:
    return json.dumps({target: asdict(disk) for target, disk in disks.items()})


def _point(number: int, point: int) -> ColumnElement[bool]:
    return (restore_point.c.protection == number) & (restore_point.c.number == point)


def _read(connection: Connection, condition: ColumnElement[bool]) -> tuple[Protection, ...]:
    query = select(protection, now(connection).label("read_at")).where(condition)
    query = query.order_by(protection.c.vm_name, protection.c.vm_uuid, protection.c.target)
    rows = connection.execute(query).all()
    points: dict[int, list[RestorePoint]] = {row.id: [] for row in rows}
    given_up: dict[int, RestorePoint] = {}
    chosen = restore_point.c.protection.in_(list(points))
    for each in connection.execute(select(restore_point).where(chosen).order_by(restore_point.c.number)):
        disks = {target: ReplicaDisk(**disk) for target, disk in json.loads(each.disks).items()}
        firmware = FirmwareState(**json.loads(each.firmware)) if each.firmware else None
        point = RestorePoint(
            each.number, each.taken_at, disks, each.definition, each.carried, each.instant,
            Consistency(each.consistency), firmware, each.sent, each.why_not, each.epoch,
        )  # fmt: skip
        if each.given_up:
            given_up[each.protection] = point
        else:
            points[each.protection].append(point)
    trials = {
        each.protection: Trial(
            each.point, each.uuid, each.name, each.host, each.begun_at,
            json.loads(each.before), json.loads(each.times),
        )
        for each in connection.execute(select(trial).where(trial.c.protection.in_(list(points))))
    }  # fmt: skip
    mine = {
        "journal": connection.scalar(select(identity.c.journal)),
        "reign": connection.scalar(select(reign.c.number)),
    }
    return tuple(
        Protection(
            **{
                **row._mapping,
                **mine,
                "standing": Standing(row.standing),
                "seed": json.loads(row.seed),
                "compress": Compress(row.compress),
                "carriage": Carriage(**json.loads(row.carriage)),
                "readdressed": _readdressed(row.readdressed),
                "points": tuple(points[row.id]),
                "given_up": given_up.get(row.id),
                "trial": trials.get(row.id),
            }
        )
        for row in rows
    )
