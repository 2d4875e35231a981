"""Plays the crash matrix and writes docs/reliability.md.

``python -m tests.lab.matrix [--only REGEX] [--open] [--jobs N] [--list] [--afresh]``. A run of all that was interrupted
goes on. Exits 1 when anything came out otherwise than was written down.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.sharedctypes import Synchronized
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
    parser.add_argument("--open", action="store_true", help="cells that have not come out as expected yet")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells played at a time, each in its own lab")
    options = parser.parse_args(arguments)
    settled = frozenset(row.key for row in page.read() if row.as_expected) if options.open else frozenset()
    chosen = [cell for cell in CELLS if re.search(options.only, cell.id) and cell.key not in settled]
    if options.list:
        for cell in chosen:
            print(f"{cell.id}: {cell.expected}")
        return 0
    if options.afresh:
        page.forget_run()
    if options.only or options.open:
        return 1 if _play_all(chosen, options.jobs) else 0
    failed = _play_all([cell for cell in chosen if cell.id not in page.seen_in_this_run()], options.jobs)
    page.forget_run()
    return 1 if failed else 0


def _play_all(cells: Sequence[Cell], jobs: int) -> int:
    """Play them, ``jobs`` at a time: they wait more than they compute. Return how many came out otherwise."""
    signal.signal(signal.SIGTERM, _interrupt)
    begun, good = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)
    players = [multiprocessing.Process(target=_play_in_turn, args=(cells, begun, good)) for _ in range(jobs)]
    for player in players:
        player.start()
    try:
        for player in players:
            player.join()
    except KeyboardInterrupt:
        for player in players:
            player.terminate()
        for player in players:
            player.join()
        raise
    failed = len(cells) - int(good.value)
    print(f"{len(cells)} cells, {failed} not as expected")
    return failed


def _play_in_turn(cells: Sequence[Cell], begun: Synchronized[int], good: Synchronized[int]) -> None:
    """Play whichever cell is next, until there is none. ``begun`` and ``good`` count those of all who play."""
    theatre = Theatre()
    try:
        while (number := _count(begun)) < len(cells):
            row = _play(theatre, cells[number])
            if row.as_expected:
                _count(good)
            page.add(row)
            print(f"{'ok ' if row.as_expected else 'NOT'} {cells[number].id}: {row.seen}", flush=True)
    except KeyboardInterrupt:
        sys.exit(1)  # whoever plays them all says so
    finally:
        theatre.close()


def _count(counter: Synchronized[int]) -> int:
    """Add one; return what it was before."""
    with counter.get_lock():
        before = int(counter.value)
        counter.value = before + 1
    return before


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _play(theatre: Theatre, cell: Cell) -> page.Row:
    began = time.monotonic()
    try:
        seen, ok = theatre.play(cell), True
    except Exception as error:  # whatever it is: this cell did not come out, and the others are to be played
        print(f"{cell.id}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        seen, ok = str(error).partition("\n")[0][:300] or type(error).__name__, False
        theatre.close()
    return page.row(cell, seen, as_expected=ok, took=time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
