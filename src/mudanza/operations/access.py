"""Who may ask the daemon for what: its tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mudanza.model.access import Scope
    from mudanza.operations.means import Means


def make_token(
    means: Means,
    name: str,
    scopes: Collection[Scope],
    made_by: str,
    *,
    hosts: Collection[str] = (),
    tags: Collection[str] = (),
    lasts: float | None = None,
) -> str:
    """Make a token and return what opens: see ``Tokens.make``. Raises UsageError, also for a host that is not known."""
    from mudanza.journal.tokens import Tokens

    for each in hosts:
        means.inventory.host(each)
    return Tokens(means.database).make(name, scopes, made_by, hosts=hosts, tags=tags, lasts=lasts)
