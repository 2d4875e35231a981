"""A job made anew from the claim it left on its VM: what its lost journal would have said. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mudanza.hypervisor.xml.claims import without_claim
from mudanza.journal.jobs import NewJob
from mudanza.migration.asked import stored
from mudanza.migration.rebuild.orphans import was_compared
from mudanza.migration.record import ColdRecord, MoveRecord
from mudanza.migration.relocation.plan import RelocationRecord
from mudanza.migration.vm_claim import ADOPT, TAKE
from mudanza.model.claim import Claim
from mudanza.model.errors import BlockedError
from mudanza.model.migration import MigrationOptions, Side, Sighting

Step = tuple[str, Mapping[str, Any], Mapping[str, Any] | None]
"""A step's name, intent and outcome; None: nobody knows how it went."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the hosts say of a claimed VM."""

    claim: Claim
    uuid: str
    name: str
    source: Sighting
    target: Sighting
    xml: str
    """Its definition for the next start, or as it runs where it has none."""
    defined: bool
    """The target's definition carries the claim."""
    carriers: tuple[str, ...] = ()
    """What still carries its files."""


def adopted(found: Found, by: str) -> tuple[NewJob, tuple[Step, ...]]:
    """Return the job and its steps, as far as they follow from the claim and from what both hosts say.

    Raises BlockedError for a claim that cannot be understood.
    """
    claim = found.claim
    try:
        record = _record(found)
        places = list(_places(record, claim.made))
    except (ValueError, KeyError, TypeError) as error:
        raise BlockedError(
            f"claim {claim.name} on VM {found.name!r} does not say what this mudanza would have to know: {error!r}",
            remedy="adopt it with the mudanza that made it; or put it right by hand, then take the claim off: "
            f"virsh metadata {found.uuid} https://mudanza.dev/xmlns/claim/1 --remove --live --config",
        ) from error
    asked = {**stored(MigrationOptions()), "adopted": claim.name}
    new = NewJob(claim.kind, found.uuid, found.name, claim.source, claim.target, asked, by)
    steps: list[Step] = [
        ("decide", record, {"from": f"claim {claim.name}"}),
        (ADOPT, {"journal": claim.journal, "job": claim.job, "of": claim.controller}, {"done": True}),
        (TAKE, {"claim": claim.name}, {"done": True}),
    ]
    for place in places:
        made = {"made": place["path"]} if place["path"] in claim.made else None
        steps.append(("create volume", place, made))
    steps += [("carry", {"carrier": name}, None) for name in found.carriers]
    if "shut down" in claim.done:
        steps.append(("shut down", {"host": claim.source}, {"off": "as the claim says"}))
    if claim.kind == "cold":
        steps += _how_far(found)
    if claim.kind == "cpu":
        steps.append(("define", {"host": claim.source, **record}, None))  # whether it was done the definition says
    return new, tuple(steps)


def paths_of(claim: Claim) -> frozenset[str]:
    """Return the files at either end that a job's carriers have open, as far as its claim tells. Never raises."""
    try:
        told = json.loads(claim.record or "{}")
        files = [*told.get("disks", ()), *told.get("files", ()), *told.get("ahead", ())]
        found = {str(file.get(key, "")) for file in files for key in ("path", "source", "source_path")}
    except (ValueError, AttributeError, TypeError):
        return frozenset()
    return frozenset(found - {""})


def _how_far(found: Found) -> Iterator[Step]:
    if was_compared(found.source, found.target, ours=found.defined):
        yield "compare", {}, {"same": "as the claim at the target says", "written": {}}
    if found.defined:
        yield "define", {"host": found.claim.target}, {"done": True}
    if found.defined and found.source.side is Side.ABSENT:
        # Nobody else takes a VM from where it carries a claim: whoever adopts the job has looked.
        yield "release source", {"host": found.claim.source}, {"done": True}


def _record(found: Found) -> Mapping[str, Any]:
    told: dict[str, Any] = json.loads(found.claim.record)
    if found.claim.kind == "cpu":
        return {name: str(told[name]) for name in ("what", "model", "cpu")}
    xml = without_claim(found.xml)
    if found.claim.kind == "cold":
        whole = {"saved_xml": None, "warnings": (), **told, "xml": xml, "target_xml": xml}
        return ColdRecord.from_json(whole).to_json()
    live = {"warnings": (), **told, "xml": xml, "inactive_xml": xml if told["persistent"] else None}
    if found.claim.kind != "relocate":
        return MoveRecord.from_json(live).to_json()
    if (cold := told["cold"]) is not None:
        live["cold"] = {"saved_xml": None, "warnings": (), **cold, "xml": xml, "target_xml": xml}
    return _as_it_was(RelocationRecord.from_json(live), xml).to_json()


def _as_it_was(record: RelocationRecord, xml: str) -> RelocationRecord:
    """Return the record with the definition as it was before the first disk moved, whichever of them have moved."""
    before = record.definition(xml, ())
    after = record.definition(xml, [disk.target for disk in record.move.disks])
    move = replace(record.move, xml=before, inactive_xml=before if record.move.persistent else None)
    return replace(record, move=move, cold=replace(record.cold, xml=before, target_xml=after) if record.cold else None)


def _places(record: Mapping[str, Any], made: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the intent of each volume that the job has made or was to make.

    Of what others may use, only what it says it made: it may as well have been there before.
    """
    files: Sequence[Mapping[str, Any]] = (*record.get("disks", ()), *record.get("files", ()), *record.get("ahead", ()))
    for file in files:
        if file.get("for_others_too") and file["path"] not in made:
            continue
        yield {
            "pool": file["pool"],
            "volume": file["volume"],
            "path": file["path"],
            "size": file["size"],
            "device": bool(file.get("is_block", str(file["path"]).startswith("/dev/"))),
        }
