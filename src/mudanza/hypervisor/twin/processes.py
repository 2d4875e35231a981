"""What happens on hosts: not in threads but in processes, generators that yield for how many seconds they wait."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.scheduler import Scheduler

Process = Generator[float, None, Any]


class Running:
    """A process of a host under way."""

    def __init__(
        self, scheduler: Scheduler, process: Process, on_end: Callable[[Any, BaseException | None], None]
    ) -> None:
        self._scheduler = scheduler
        self._process = process
        self._on_end = on_end
        self.over = False
        scheduler.after(0.0, self._step)

    def cancel(self) -> None:
        """End it where it waits; nobody is told."""
        if not self.over:
            self.over = True
            with suppress(ValueError):  # it is what cancels itself
                self._process.close()

    def _step(self) -> None:
        if self.over:
            return
        try:
            delay = next(self._process)
        except StopIteration as end:
            self._end(end.value, None)
        except Exception as failure:
            self._end(None, failure)
        else:
            if not self.over:
                self._scheduler.after(delay, self._step)

    def _end(self, result: Any, failure: BaseException | None) -> None:
        if not self.over:
            self.over = True
            self._on_end(result, failure)
