"""When a plan that is carried out will be done, as far as its moves so far tell: pure."""

from __future__ import annotations

import heapq
from collections import Counter
from statistics import median

from mudanza.model.carrying import MoveState, Run, RunMove

UNKNOWN = 60.0
"""Seconds that a move is taken to last of which nobody has foreseen anything."""
LEAST = 1.0
"""Seconds that one which takes longer than foreseen is taken to have left."""


def seconds_left(run: Run) -> float | None:
    """Return in how many seconds the last move will end; None once nothing is left.

    By what the plan foresaw, corrected by how long its moves have really taken, in the order in which they are begun.
    """
    if not run.count(MoveState.WAITING, MoveState.BEGUN):
        return None
    factor = _factor(run)
    ends = {move.n: 0.0 for move in run.moves if move.state.over}
    heap = [(_rest(run, move, factor), move.n) for move in run.moves if move.state is MoveState.BEGUN]
    heapq.heapify(heap)
    waiting = [move for move in run.moves if move.state is MoveState.WAITING]
    waiting.sort(key=lambda move: (move.about.start or 0.0, move.n))
    out: Counter[str] = Counter(run.move(n).about.source for _, n in heap)
    into: Counter[str] = Counter(run.move(n).about.target for _, n in heap)
    now = 0.0
    while heap or waiting:
        waits = []
        for move in waiting:
            ways = out[move.about.source] < run.policy.out and into[move.about.target] < run.policy.into
            if ways and len(heap) < run.policy.total and ends.keys() >= set(move.waits_for):
                heapq.heappush(heap, (now + _foreseen(move) * factor, move.n))
                out[move.about.source] += 1
                into[move.about.target] += 1
            else:
                waits.append(move)
        waiting = waits
        if not heap:
            break
        now, n = heapq.heappop(heap)
        ends[n] = now
        out[run.move(n).about.source] -= 1
        into[run.move(n).about.target] -= 1
    return now


def _foreseen(move: RunMove) -> float:
    return move.about.seconds if move.about.seconds else UNKNOWN


def _factor(run: Run) -> float:
    """Return how many times as long as foreseen moves have taken."""
    shares = [
        (move.ended_at - move.began_at) / _foreseen(move)
        for move in run.moves
        if move.state is MoveState.DONE and move.began_at is not None and move.ended_at is not None
    ]
    return max(median(shares), 0.01) if shares else 1.0


def _rest(run: Run, move: RunMove, factor: float) -> float:
    gone = run.read_at - (move.began_at if move.began_at is not None else run.read_at)
    return max(_foreseen(move) * factor - gone, LEAST)
