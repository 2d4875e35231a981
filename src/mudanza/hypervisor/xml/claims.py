"""Claims in a domain's metadata, XML in, XML out: pure.

libvirt keeps one element for each namespace of a domain's ``<metadata>`` and replaces it as a whole. So each journal's
claim has a namespace of its own: writing one disturbs neither a tag nor another journal's claim, however late it
comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lxml import etree

from mudanza.hypervisor.xml.parsing import integer, outer, parse
from mudanza.model.claim import Claim

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

_ALL_CLAIMS = "https://mudanza.dev/xmlns/claim/1/"
PREFIX = "claim"


def claim_namespace(journal: str) -> str:
    """Return the namespace of one journal's claims."""
    return _ALL_CLAIMS + journal


def claim_xml(claim: Claim) -> str:
    """Return the element as libvirt takes it for a domain's metadata: it adds the namespace itself."""
    root = etree.Element("claim", _attributes(claim))
    _fill(root, claim, "")
    return outer(root)


def read_claims(domain: Element) -> tuple[Claim, ...]:
    """Return the claims in a domain's definition."""
    return tuple(_read(element) for element in _claims(domain))


def without_claim(definition: str) -> str:
    """Return a definition as it was before anybody claimed the VM. Raises HypervisorError for what is not XML."""
    root = parse(definition, "source")
    _drop(root)
    return outer(root)


def with_claim(definition: str, claim: Claim) -> str:
    """Return a definition with that claim in place of any other. Raises HypervisorError for what is not XML."""
    root = parse(definition, "source")
    _drop(root)
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        root.insert(0, metadata)
    uri = claim_namespace(claim.journal)
    element = etree.SubElement(metadata, f"{{{uri}}}claim", _attributes(claim), nsmap={PREFIX: uri})
    _fill(element, claim, f"{{{uri}}}")
    return outer(root)


def same_definition(one: str, other: str) -> bool:
    """Whether two definitions are the same but for claims. Raises HypervisorError for what is not XML."""
    return one == other or _bare(one) == _bare(other)


def _claims(domain: Element) -> Iterator[Element]:
    for element in domain.iterfind("metadata/*"):
        if etree.QName(element).localname == "claim" and (element.nsmap.get(element.prefix) or "").startswith(
            _ALL_CLAIMS
        ):
            yield element


def _read(element: Element) -> Claim:
    uri = element.nsmap.get(element.prefix) or ""

    def each(name: str, key: str) -> tuple[str, ...]:
        return tuple(child.get(key, "") for child in element.findall(f"{{{uri}}}{name}"))

    return Claim(
        journal=uri.removeprefix(_ALL_CLAIMS),
        job=integer(element.get("job")) or 0,
        epoch=integer(element.get("epoch")) or 0,
        controller=element.get("controller", ""),
        kind=element.get("kind", ""),
        source=element.get("source", ""),
        target=element.get("target", ""),
        since=element.get("since", ""),
        beat=integer(element.get("beat")) or 0,
        made=each("made", "path"),
        done=each("done", "step"),
        took=element.get("took", ""),
        record=(element.findtext(f"{{{uri}}}record") or "").strip(),
    )


def _fill(element: Element, claim: Claim, space: str) -> None:
    for path in claim.made:
        etree.SubElement(element, f"{space}made", path=path)
    for step in claim.done:
        etree.SubElement(element, f"{space}done", step=step)
    etree.SubElement(element, f"{space}record").text = claim.record


def _attributes(claim: Claim) -> dict[str, str]:
    return {
        "controller": claim.controller,
        "job": str(claim.job),
        "epoch": str(claim.epoch),
        "kind": claim.kind,
        "source": claim.source,
        "target": claim.target,
        "since": claim.since,
        "beat": str(claim.beat),
        "took": claim.took,
    }


def _bare(definition: str) -> bytes:
    root = parse(definition, "source")
    _drop(root)
    for element in root.iter():
        if len(element) and not (element.text or "").strip():
            element.text = None
        if not (element.tail or "").strip():
            element.tail = None
    return etree.tostring(root, method="c14n")


def _drop(domain: Element) -> None:
    metadata = domain.find("metadata")
    if metadata is None:
        return
    for claim in list(_claims(domain)):
        metadata.remove(claim)
    if not len(metadata):
        domain.remove(metadata)
