"""Who asks this program itself for something, and what that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mudanza.operations.means import Means


class Asker:
    """Does by itself what is asked for; one class for each kind of things has the names that a daemon has for it."""

    def __init__(self, means: Means, asked_by: str) -> None:
        """``asked_by``: who gives these orders, as the journal names them."""
        self._means = means
        self._asked_by = asked_by
