"""Plays the crash matrix and writes docs/reliability.md.

``python -m tests.lab.matrix [--only REGEX] [--list] [--afresh]``. A run of all that was interrupted goes on.
Exits 1 when anything came out otherwise than was written down.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import FrameType

from mudanza.cli.lab import tell_mudanza
from mudanza.lab.lab import Lab
from tests.lab.matrix import page
from tests.lab.matrix.cast import Cast
from tests.lab.matrix.cells import CELLS, Cell


class Theatre:
    """A lab and who plays in it; it is built anew after a cell that went wrong."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._cast: Cast | None = None

    def play(self, cell: Cell) -> str:
        """Play one cell; return in words what came of it."""
        if self._cast is None:
            lab = Lab.up(f"matrix{os.getpid() % 100000}", hosts=2, tied=True)
            self._stack.callback(lab.down)
            tell_mudanza(lab)
            self._cast = Cast(lab)
        return self._cast.play(cell).words

    def close(self) -> None:
        """Take everything down."""
        try:
            if self._cast is not None:
                self._cast.dismiss()
        finally:
            self._stack.close()
            self._stack, self._cast = ExitStack(), None


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for."""
    parser = argparse.ArgumentParser(prog="scripts/soak --matrix")
    parser.add_argument("--only", default="", metavar="REGEX", help="cells in whose name this is found")
    parser.add_argument("--list", action="store_true", help="only tell the cells and what is expected of them")
    parser.add_argument("--afresh", action="store_true", help="forget what an interrupted run has seen")
    options = parser.parse_args(arguments)
    chosen = [cell for cell in CELLS if re.search(options.only, cell.id)]
    if options.list:
        for cell in chosen:
            print(f"{cell.id}: {cell.expected}")
        return 0
    if options.afresh:
        page.forget_run()
    if options.only:
        return 1 if _play_all(chosen) else 0
    failed = _play_all([cell for cell in chosen if cell.id not in page.seen_in_this_run()])
    page.forget_run()
    return 1 if failed else 0


def _play_all(cells: Sequence[Cell]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    failed = 0
    theatre = Theatre()
    try:
        for cell, row in _played(theatre, cells):
            failed += not row.as_expected
            page.add(row)
            print(f"{'ok ' if row.as_expected else 'NOT'} {cell.id}: {row.seen}", flush=True)
    finally:
        theatre.close()
    print(f"{len(cells)} cells, {failed} not as expected")
    return failed


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _played(theatre: Theatre, cells: Sequence[Cell]) -> Iterator[tuple[Cell, page.Row]]:
    for cell in cells:
        begun = time.monotonic()
        try:
            seen, ok = theatre.play(cell), True
        except Exception as error:  # whatever it is: this cell did not come out, and the others are to be played
            traceback.print_exc()
            seen, ok = str(error).partition("\n")[0][:300] or type(error).__name__, False
            theatre.close()
        yield cell, page.row(cell, seen, as_expected=ok, took=time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main())
