"""The command, killed or stopped as it writes into its journal: ``dying.py KILL|STOP WHEN WHICH ARGUMENTS…``.

``WHICH``: the number of a write, or the name of a step, ``finish`` being the end of the job. ``WHEN``: ``begun``, the
step is intended and nothing was done; ``before``, it was done and nobody wrote that down; ``after``, it is written down
and no more happens.
"""

from __future__ import annotations

import itertools
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from mudanza.journal.jobs import JobHandle


class Death:
    """When it comes, by a signal that nothing can catch."""

    def __init__(self, how: str, when: str, which: str) -> None:
        self._signal = signal.Signals[f"SIG{how}"]
        self._when, self._which = when, which
        self._numbers = itertools.count(1)
        self._names: dict[int, str] = {}
        self._is_over = False
        """It has come already: a step may be taken several times."""

    def at(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """Return a way to write into the journal that it may come upon."""

        @wraps(write)
        def writing(handle: JobHandle, *arguments: Any, **named: Any) -> Any:
            begins = write.__name__ == "intend"
            name = arguments[0] if begins else self._names.get(arguments[0], "finish")
            counts = begins == (self._when == "begun")
            has_come = not self._is_over and (
                self._which == str(next(self._numbers)) or (counts and self._which == name)
            )
            self._is_over = self._is_over or has_come
            if has_come and self._when == "before":
                os.kill(os.getpid(), self._signal)
            result = write(handle, *arguments, **named)
            if has_come and self._when != "before":
                os.kill(os.getpid(), self._signal)
            if begins:
                self._names[result] = arguments[0]
            return result

        return writing


def main(how: str, when: str, which: str, arguments: Sequence[str]) -> None:
    death = Death(how, when, which)
    for name in ("intend", "done", "finish"):
        setattr(JobHandle, name, death.at(getattr(JobHandle, name)))
    sys.argv = ["mudanza", *arguments]
    runpy.run_module("mudanza", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
