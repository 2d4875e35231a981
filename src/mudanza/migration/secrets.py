"""Passwords, which the journal does not keep: taken, when they are needed, from the host that has the VM."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from mudanza.hypervisor.xml.claims import same_definition
from mudanza.hypervisor.xml.parsing import outer, parse
from mudanza.journal.secrets import HIDDEN, without_secrets

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

_DEFINITIONS = ("domain", "inactiveDomain")
"""What a snapshot keeps of the domain."""


def same_but_for_secrets(one: str, other: str) -> bool:
    """Whether two definitions are the same but for passwords and claims; either may come from the journal.

    Raises HypervisorError for what is not XML.
    """
    return same_definition(str(without_secrets(one)), str(without_secrets(other)))


def with_secrets_of(xml: str, secure: str) -> str:
    """Return a definition, or a snapshot's record, with its hidden passwords as they stand in a domain's secure XML.

    A password whose place that XML does not have becomes one that nobody knows: a display is rather shut than open to
    all. Raises HypervisorError for what is not XML.
    """
    if HIDDEN not in xml:
        return xml
    root, model = parse(xml, "journal"), parse(secure, "host")
    for definition in [root] if root.tag == model.tag else list(root.iterchildren(*_DEFINITIONS)):
        _fill(definition, model)
    return outer(root)


def _fill(element: Element, model: Element | None) -> None:
    for name, value in element.attrib.items():
        if value == HIDDEN:
            known = model.get(name) if model is not None else None
            element.set(name, known if known not in (None, HIDDEN) else _nobody_knows())
        elif HIDDEN in value and model is not None:
            element.set(name, model.get(name, value))
    if HIDDEN in (element.text or "") and model is not None:
        element.text = model.text
    seen: dict[tuple[str, str | None], int] = {}
    for child in element.iterchildren("*"):
        key = _key(child)
        number = seen[key] = seen.get(key, -1) + 1
        alike = [each for each in model.iterchildren(child.tag) if _key(each) == key] if model is not None else []
        _fill(child, alike[number] if number < len(alike) else None)


def _key(element: Element) -> tuple[str, str | None]:
    """What tells an element from its neighbours: displays have no other name than their kind."""
    return str(element.tag), element.get("type") if element.tag == "graphics" else None


def _nobody_knows() -> str:
    return secrets.token_hex(4)  # VNC takes no more than eight characters
