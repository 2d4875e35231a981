"""The rules of places, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mudanza.model.errors import UsageError

if TYPE_CHECKING:
    from mudanza.model.rules import Rule
    from mudanza.operations.means import Means


def add(means: Means, rule: Rule) -> str:
    """Add a rule; return what is to be told. Raises UsageError for one that contradicts itself, or of a known name."""
    rules = means.inventory.rules()
    if any(each.name == rule.name for each in rules.rules):
        raise UsageError(
            f"there is a rule {rule.name!r} already", remedy=f"take that away first: mudanza rule remove {rule.name}"
        )
    means.inventory.put_rules(replace(rules, rules=(*rules.rules, rule)))
    return f"rule {rule.name} added: plans go by it from now on; nothing was moved"


def remove(means: Means, name: str) -> str:
    """Take a rule away; return what is to be told. Raises UsageError where there is no such rule."""
    rules = means.inventory.rules()
    rest = tuple(each for each in rules.rules if each.name != name)
    if len(rest) == len(rules.rules):
        raise UsageError(f"there is no rule {name!r}", remedy="see them: mudanza rule list")
    means.inventory.put_rules(replace(rules, rules=rest))
    return f"rule {name} removed"
