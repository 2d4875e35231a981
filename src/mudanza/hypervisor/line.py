"""Somebody's line to a guest: to its console, or its display."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Line(ABC):
    """One that is let go when the block ends, whatever has become of that."""

    @abstractmethod
    def close(self) -> None:
        """Let the guest go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
