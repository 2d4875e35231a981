"""Domains, their snapshots and checkpoints, as libvirt-python shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt
from lxml import etree

from mudanza.hypervisor.twin import definitions, errors, figures
from mudanza.hypervisor.twin.domain import SHUTOFF, Domain, Record
from mudanza.hypervisor.twin.line import Line
from mudanza.hypervisor.twin.migration import Migration
from mudanza.hypervisor.twin.order import Order, Phase

Result = TypeVar("Result")


class DomainHandle:
    """As virDomain."""

    def __init__(self, line: Line, uuid: str, name: str) -> None:
        self._line = line
        self._uuid = uuid
        self._name = name

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's names, here and below
        return self._uuid

    def ID(self) -> int:  # noqa: N802
        domain = self._line.host.domains.get(self._uuid)  # a number that came with the handle: nothing is asked
        return domain.number if domain is not None else -1

    def name(self) -> str:
        return self._name

    def _ask(self, name: str, work: Callable[[Domain], Result]) -> Result:
        return self._line.ask(name, lambda: work(self._line.host.domain(self._uuid)))

    def _order(self, name: str, work: Callable[[Domain], Any]) -> int:
        self._line.order(name, lambda: work(self._line.host.domain(self._uuid)), self._uuid)
        return 0

    # What can be read.

    def state(self, _flags: int = 0) -> list[int]:
        return self._ask("state", lambda domain: [domain.state, domain.reason])

    def isActive(self) -> int:  # noqa: N802
        return self._ask("isActive", lambda domain: int(domain.is_active))

    def isPersistent(self) -> int:  # noqa: N802
        return self._ask("isPersistent", lambda domain: int(domain.definition is not None))

    def autostart(self) -> int:
        return self._ask("autostart", lambda domain: int(domain.autostart))

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802
        return self._ask("XML", lambda domain: describe(domain, flags))

    def jobStats(self, flags: int = 0) -> dict[str, int]:  # noqa: N802
        return self._ask("job", lambda domain: _job(domain, flags))

    def blockInfo(self, disk: str, _flags: int = 0) -> list[int]:  # noqa: N802
        def look(domain: Domain) -> list[int]:
            found = _disk(domain, disk)
            file = domain.host.file(found["path"])
            if file is None:
                raise errors.no_file(found["path"])
            return [file.virtual_size if found["format"] == "qcow2" else file.size, file.allocated, file.size]

        return self._ask("block info", look)

    def blockPeek(self, disk: str, offset: int, size: int, _flags: int = 0) -> bytes:  # noqa: N802
        def peek(domain: Domain) -> bytes:
            found = _disk(domain, disk)
            if found["format"] != "raw":
                raise errors.unsupported(
                    f"peeking is only supported for disk with 'raw' format not '{found['format']}'"
                )
            file = domain.host.file(found["path"])
            if file is None:
                raise errors.no_file(found["path"])
            if offset + size > file.size:
                raise errors.system(f"{found['path']}: failed to seek or read: Success", 0, libvirt.VIR_FROM_QEMU)
            return file.read(offset, size)

        return self._ask("peek", peek)

    def blockJobInfo(self, disk: str, _flags: int = 0) -> dict[str, int]:  # noqa: N802
        def look(domain: Domain) -> dict[str, int]:
            migration = domain.migration
            jobs = figures.block_jobs(migration) if migration is not None and migration.phase >= Phase.DISKS else {}
            return {"type": 2, "bandwidth": 0, "cur": jobs[disk][0], "end": jobs[disk][1]} if disk in jobs else {}

        return self._ask("block job", look)

    def managedSaveGetXMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        def look(_domain: Domain) -> str:
            raise errors.invalid("domain does not have managed save image")

        return self._ask("managed save", look)

    def metadata(self, kind: int, uri: str | None, flags: int = 0) -> str:
        def look(domain: Domain) -> str:
            xml = _config(domain) if flags & libvirt.VIR_DOMAIN_AFFECT_CONFIG else domain.live or _config(domain)
            found = etree.fromstring(xml).find(f"metadata/{{{uri}}}*") if uri else None
            if kind != libvirt.VIR_DOMAIN_METADATA_ELEMENT or found is None:
                raise errors.refusal(
                    libvirt.VIR_ERR_NO_DOMAIN_METADATA,
                    libvirt.VIR_FROM_DOMAIN,
                    "metadata not found: Requested metadata element is not present",
                )
            return _without_namespace(found, str(uri))

        return self._ask("metadata", look)

    # What can be done.

    def createWithFlags(self, flags: int = 0) -> int:  # noqa: N802
        paused = bool(flags & libvirt.VIR_DOMAIN_START_PAUSED)
        return self._order("start", lambda domain: domain.host.start(domain, paused=paused))

    def create(self) -> int:
        return self.createWithFlags(0)

    def shutdown(self) -> int:
        return self._order("shutdown", lambda domain: domain.host.shut_down(_active(domain)))

    def destroy(self) -> int:
        return self._order("destroy", lambda domain: domain.host.destroy(_active(domain)))

    def suspend(self) -> int:
        return self._order("suspend", lambda domain: domain.host.suspend(_active(domain)))

    def resume(self) -> int:
        return self._order("resume", lambda domain: domain.host.resume(_active(domain)))

    def reset(self, _flags: int = 0) -> int:
        return self._order("reset", lambda domain: _reset(_active(domain)))

    def undefine(self) -> int:
        return self.undefineFlags(0)

    def undefineFlags(self, flags: int = 0) -> int:  # noqa: N802
        return self._order("undefine", lambda domain: domain.host.undefine(domain, flags))

    def setAutostart(self, on: int) -> int:  # noqa: N802
        def change(domain: Domain) -> Any:
            if domain.definition is None:
                raise errors.invalid("cannot set autostart for transient domain")
            yield from domain.host.lock(domain)
            domain.autostart = bool(on)

        return self._order("set autostart", change)

    def setMetadata(  # noqa: N802
        self, kind: int, metadata: str | None, key: str | None, uri: str, flags: int = 0
    ) -> int:
        def change(domain: Domain) -> Any:
            yield from domain.host.lock(domain)
            if kind != libvirt.VIR_DOMAIN_METADATA_ELEMENT:
                raise errors.unsupported("only elements are known to the twin")
            both = flags & (libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            if (flags & libvirt.VIR_DOMAIN_AFFECT_LIVE or not both) and domain.live is not None:
                domain.live = _with_metadata(domain.live, metadata, key, uri)
            elif flags & libvirt.VIR_DOMAIN_AFFECT_LIVE:
                raise errors.not_running()
            if flags & libvirt.VIR_DOMAIN_AFFECT_CONFIG or (not both and domain.live is None):
                domain.definition = _with_metadata(_config(domain), metadata, key, uri)

        return self._order("set metadata", change)

    def migrateToURI3(self, uri: str, parameters: dict[str, Any], flags: int = 0) -> int:  # noqa: N802
        order = Order(uri, dict(parameters), flags)

        def migrate(domain: Domain) -> Any:
            if not order.has("PEER2PEER"):
                raise errors.unsupported("the twin migrates from peer to peer only")
            return Migration(self._line.twin, domain, order).run()

        return self._order("migrate", migrate)

    def abortJob(self) -> int:  # noqa: N802
        def abort(domain: Domain) -> Any:
            _active(domain)
            if domain.migration is not None and domain.migration.target is domain.host:
                yield from domain.host.lock(domain)
            if domain.migration is None:
                raise errors.invalid("no job is active on the domain")
            domain.migration.abort()

        return self._order("abort", abort)

    def migrateSetMaxDowntime(self, _milliseconds: int, _flags: int = 0) -> int:  # noqa: N802
        return self._order("set downtime", lambda domain: _done(_active(domain)))

    def migrateSetMaxSpeed(self, _mib: int, _flags: int = 0) -> int:  # noqa: N802
        return self._order("set speed", lambda domain: _done(_active(domain)))

    def startDirtyRateCalc(self, _seconds: int, _flags: int = 0) -> int:  # noqa: N802
        def refuse(_domain: Domain) -> int:
            raise errors.unsupported("QEMU does not support calculating dirty page rate")

        return self._ask("dirty rate", refuse)

    def monitor(self, command: str) -> str:
        """Pass a command to QEMU: ``query-yank`` and ``yank``, ``query-migrate`` and ``query-block-jobs``."""
        wanted = json.loads(command)["execute"]
        said: list[dict[str, str]] = []
        status: dict[str, str] = {}

        def pass_on(domain: Domain) -> None:
            migration = _active(domain).migration
            if wanted == "query-migrate":
                status["status"] = domain.live_qemu.migration_status
            if migration is None or migration.source is not domain.host:
                return
            if wanted == "query-yank" and migration.phase >= Phase.DISKS:
                said.extend(
                    {"type": "block-node", "node-name": f"migration-{disk}"} for disk in figures.block_jobs(migration)
                )
            elif wanted == "yank":
                migration.cut_off = True

        self._order(f"monitor {wanted}", pass_on)
        return json.dumps({"return": status if wanted == "query-migrate" else said})

    # Its history.

    def listAllSnapshots(self, _flags: int = 0) -> list[RecordHandle]:  # noqa: N802
        return self._ask(
            "list snapshots", lambda domain: [self._record(each, "snapshots") for each in domain.snapshots]
        )

    def listAllCheckpoints(self, _flags: int = 0) -> list[RecordHandle]:  # noqa: N802
        return self._ask(
            "list checkpoints", lambda domain: [self._record(each, "checkpoints") for each in domain.checkpoints]
        )

    def _record(self, record: Record, kind: str) -> RecordHandle:
        return RecordHandle(self._line, self._uuid, record, kind)

    def hasCurrentSnapshot(self, _flags: int = 0) -> int:  # noqa: N802
        return self._ask("current snapshot", lambda domain: int(any(each.current for each in domain.snapshots)))

    def snapshotCurrent(self, _flags: int = 0) -> RecordHandle:  # noqa: N802
        def look(domain: Domain) -> RecordHandle:
            for each in domain.snapshots:
                if each.current:
                    return self._record(each, "snapshots")
            raise errors.refusal(
                libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT,
                libvirt.VIR_FROM_QEMU,
                "Domain snapshot not found: the domain does not have a current snapshot",
            )

        return self._ask("current snapshot", look)

    def snapshotCreateXML(self, xml: str, flags: int = 0) -> RecordHandle:  # noqa: N802
        return self._add(
            xml, "snapshots", current=bool(flags & libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT) or not flags
        )

    def checkpointCreateXML(self, xml: str, _flags: int = 0) -> RecordHandle:  # noqa: N802
        return self._add(xml, "checkpoints", current=False)

    def _add(self, xml: str, kind: str, *, current: bool) -> RecordHandle:
        root = etree.fromstring(xml)
        record = Record(root.findtext("name") or "", xml, root.findtext("parent/name") or "", current)

        def add(domain: Domain) -> Any:
            yield from domain.host.lock(domain)
            records = [each for each in getattr(domain, kind) if each.name != record.name]
            if current:
                for each in records:
                    each.current = False
            setattr(domain, kind, [*records, record])

        self._order(f"add to {kind}", add)
        return self._record(record, kind)


class RecordHandle:
    """As virDomainSnapshot and virDomainCheckpoint."""

    def __init__(self, line: Line, uuid: str, record: Record, kind: str) -> None:
        self._line = line
        self._uuid = uuid
        self._record = record
        self._kind = kind

    def getName(self) -> str:  # noqa: N802
        return self._record.name

    def getXMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return self._line.ask("record XML", lambda: self._record.xml)

    def isCurrent(self, _flags: int = 0) -> int:  # noqa: N802
        return int(self._record.current)

    def delete(self, _flags: int = 0) -> int:
        def delete() -> Any:
            domain = self._line.host.domain(self._uuid)
            yield from domain.host.lock(domain)
            records = getattr(domain, self._kind)
            setattr(domain, self._kind, [each for each in records if each.name != self._record.name])

        self._line.order("delete record", delete)
        return 0


def _reset(domain: Domain) -> Any:
    yield from domain.host.lock(domain)
    domain.resets += 1


def describe(domain: Domain, flags: int = 0) -> str:
    """Return a domain's XML as XMLDesc does."""
    inactive = bool(flags & libvirt.VIR_DOMAIN_XML_INACTIVE)
    migratable = bool(flags & libvirt.VIR_DOMAIN_XML_MIGRATABLE)
    if domain.live is None or (inactive and domain.definition is not None):
        return _config(domain)
    if inactive:
        return domain.live
    if migratable:
        return definitions.as_another_takes_it(domain.live, domain.host.chain)
    return definitions.as_it_runs(domain.live, domain.number, domain.host.chain, {})


def _active(domain: Domain) -> Domain:
    domain.live_qemu  # noqa: B018 - it raises where there is none
    return domain


def _done(_found: object) -> None:
    """There is nothing to it."""


def _config(domain: Domain) -> str:
    return domain.definition or domain.live or ""


def _job(domain: Domain, flags: int) -> dict[str, int]:
    if flags & libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED:
        return dict(domain.completed) or {"type": libvirt.VIR_DOMAIN_JOB_NONE}
    if domain.state == SHUTOFF:
        raise errors.not_running()
    if domain.migration is None:
        return {"type": libvirt.VIR_DOMAIN_JOB_NONE}
    if domain.migration.source is not domain.host:
        raise errors.unsupported("migration statistics are available only on the source host")
    return figures.stats(domain.migration)


def _disk(domain: Domain, target: str) -> dict[str, str]:
    for disk in definitions.disks(domain.live or _config(domain)):
        if disk["target"] == target:
            return disk
    raise errors.refusal(libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_FROM_QEMU, f"invalid argument: no disk '{target}'")


def _with_metadata(xml: str, metadata: str | None, key: str | None, uri: str) -> str:
    root = etree.fromstring(xml)
    place = root.find("metadata")
    if place is None:
        place = etree.Element("metadata")
        root.insert(2, place)
    for old in place.findall(f"{{{uri}}}*"):
        place.remove(old)
    if metadata is not None:
        place.append(_in_namespace(etree.fromstring(metadata), key or "", uri))
    if len(place) == 0:
        root.remove(place)
    return definitions.text(root)


def _in_namespace(element: etree._Element, key: str, uri: str) -> etree._Element:
    found = etree.Element(f"{{{uri}}}{etree.QName(element).localname}", nsmap={key: uri})
    found.attrib.update(element.attrib)
    found.text = element.text
    found.extend(_in_namespace(child, key, uri) for child in element)
    return found


def _without_namespace(element: etree._Element, uri: str) -> str:
    def bare(each: etree._Element) -> etree._Element:
        found = etree.Element(etree.QName(each).localname if etree.QName(each).namespace == uri else each.tag)
        found.attrib.update(each.attrib)
        found.text = each.text
        found.extend(bare(child) for child in each)
        return found

    return definitions.text(bare(element))
