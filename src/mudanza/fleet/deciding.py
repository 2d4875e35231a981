"""What is to be done next of a plan that is carried out: pure. Journal in, decision out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mudanza.model.carrying import MoveState, OnFailure, Run, RunMove, RunState, Wish
from mudanza.model.errors import BlockedError, MigrationFailedError, NeedsPersonError
from mudanza.model.outcomes import PARTLY, of_several
from mudanza.model.plan import PlannedMove

AS_BEFORE = (BlockedError.exit_code, MigrationFailedError.exit_code)
"""Exit codes of moves whose VM is where it was, as it was."""


@dataclass(frozen=True, slots=True)
class Fate:
    """How the job of a move stands."""

    over: bool
    """It has ended, or is left to a person."""
    exit_code: int = 0
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """A move that is over, and what is to be written down of it."""

    n: int
    state: MoveState
    outcome: str
    exit_code: int | None
    again: PlannedMove | None = None
    """The same move: its VM is to be sent to another host instead, if there is one."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How all of it has ended."""

    state: RunState
    outcome: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be written down and begun now."""

    ended: tuple[Ended, ...] = ()
    begin: tuple[int, ...] = ()
    """Numbers of moves, the first one first."""
    cancel: tuple[int, ...] = ()
    """Jobs that are to be cancelled."""
    end: Ending | None = None


def decide(run: Run, fates: Mapping[int, Fate]) -> Decision:
    """Return what is to be done next. ``fates``: of the jobs of moves that have begun; one that is missing is gone from
    the journal, and nobody knows how it ended."""
    ended = tuple(_over(run, fates))
    run = _with(run, ended)
    left_out = tuple(_left_out(run))
    run = _with(run, left_out)
    # A VM's move to the best host instead is written down with the end of the first one, and seen the next time.
    again = any(each.again for each in ended)
    under_way = run.count(MoveState.BEGUN)
    end = None if under_way or run.count(MoveState.WAITING) or again else ending(run)
    cancel = run.wish is Wish.CANCEL
    return Decision(
        ended=ended + left_out,
        begin=() if again or not _may_begin(run) else tuple(_next(run)),
        cancel=tuple(each.job for each in run.moves if cancel and each.state is MoveState.BEGUN and each.job),
        end=end,
    )


def _may_begin(run: Run) -> bool:
    return run.wish not in (Wish.PAUSE, Wish.CANCEL) and run.policy.allows(run.read_at)


def _over(run: Run, fates: Mapping[int, Fate]) -> Iterator[Ended]:
    for move in run.moves:
        if move.state is not MoveState.BEGUN:
            continue
        fate = fates.get(move.job or 0, Fate(True, NeedsPersonError.exit_code, "its job is gone from the journal"))
        if not fate.over:
            continue
        state = MoveState.FAILED if fate.exit_code else MoveState.DONE
        yield Ended(move.n, state, fate.outcome, fate.exit_code, _again(run, move, fate))


def _again(run: Run, move: RunMove, fate: Fate) -> PlannedMove | None:
    wanted = run.policy.elsewhere and run.wish is not Wish.CANCEL and run.policy.on_failure is OnFailure.GO_ON
    if not wanted or fate.exit_code not in AS_BEFORE:
        return None
    if any(each.about.uuid == move.about.uuid and each.n != move.n for each in run.moves):
        return None  # one that is parked on its way is not sent anywhere else
    return replace(move.about, after=(), behind=(), start=None, finish=None)


def _with(run: Run, ended: tuple[Ended, ...]) -> Run:
    ends = {each.n: each for each in ended}
    moves = (
        replace(move, state=ends[move.n].state, outcome=ends[move.n].outcome, exit_code=ends[move.n].exit_code)
        if move.n in ends
        else move
        for move in run.moves
    )
    return replace(run, moves=tuple(moves))


DID_NOT_LEAVE = (MoveState.FAILED, MoveState.LEFT_OUT)


def _left_out(run: Run) -> Iterator[Ended]:
    failed = next((move for move in run.moves if move.state is MoveState.FAILED), None)
    for move in run.moves:
        if move.state is not MoveState.WAITING:
            continue
        if run.wish is Wish.CANCEL:
            why = f"cancelled by {run.wish_by} before it began"
        elif failed is not None and run.policy.on_failure is OnFailure.STOP:
            why = f"move {failed.n} ({failed.about.vm}) failed, and nothing more was to be begun then"
        elif any(_is_way_to(run, number, move) for number in move.waits_for):
            why = "it never got to where it was to go on from"
        elif run.policy.ends_with_window and not run.policy.allows_vm(move.about.uuid, run.read_at):
            why = "it was not begun before its window closed"
        elif stays := next((each for each in map(run.move, move.about.behind) if each.state in DID_NOT_LEAVE), None):
            why = f"a rule keeps it apart from {stays.about.vm}, which has not left {stays.about.source}"
        else:
            continue
        yield Ended(move.n, MoveState.LEFT_OUT, why, None)


def _is_way_to(run: Run, number: int, move: RunMove) -> bool:
    """Whether a move was to bring the VM where another one begins, and did not."""
    before = run.move(number)
    return before.about.uuid == move.about.uuid and before.state in DID_NOT_LEAVE


def _next(run: Run) -> Iterator[int]:
    """Yield the moves to begin: those that need not wait any more, as many as may be under way at once.

    What waited for room that never came is begun all the same: its own check says whether there is room after all.
    """
    policy, under_way = run.policy, 0
    out: Counter[str] = Counter()
    into: Counter[str] = Counter()
    for move in run.moves:
        if move.state is MoveState.BEGUN:
            under_way += 1
            out[move.about.source] += 1
            into[move.about.target] += 1
    over = {move.n for move in run.moves if move.state.over}
    busy = {move.about.uuid for move in run.moves if move.state is MoveState.BEGUN}
    for move in sorted(run.moves, key=lambda each: (each.about.start or 0.0, each.n)):
        if move.state is not MoveState.WAITING or not over.issuperset(move.waits_for) or move.about.uuid in busy:
            continue
        if not policy.allows_vm(move.about.uuid, run.read_at):
            continue
        source, target = move.about.source, move.about.target
        if under_way >= policy.total or out[source] >= policy.out or (target and into[target] >= policy.into):
            continue
        under_way += 1
        out[source] += 1
        into[target] += 1
        busy.add(move.about.uuid)
        yield move.n


def ending(run: Run) -> Ending:
    """Return how a plan has ended of which every move is over."""
    last: dict[str, RunMove] = {}
    for move in run.moves:
        last[move.about.uuid] = move
    codes = [_code(run, move) for move in last.values()]
    code = of_several(codes)
    done = sum(not each for each in codes)
    words = f"{done} of {len(codes)} VMs are where they were to go"
    troubles = [f"{move.about.vm}: {move.outcome}" for move in last.values() if _code(run, move)]
    if len(troubles) > 3:
        troubles = [*troubles[:3], f"and {len(troubles) - 3} more"]
    sentence = "; ".join([words, *troubles])
    if code == 0:
        return Ending(RunState.DONE, sentence, 0)
    if run.wish is Wish.CANCEL:
        return Ending(RunState.CANCELLED, f"cancelled by {run.wish_by}: {sentence}", code)
    return Ending(RunState.PARTLY if code == PARTLY else RunState.FAILED, sentence, code)


def _code(run: Run, move: RunMove) -> int:
    """Return what the end of a VM's last move means."""
    if move.state is MoveState.DONE:
        return 0
    own = [each.exit_code for each in run.moves if each.about.uuid == move.about.uuid and each.exit_code]
    return own[-1] if own else MigrationFailedError.exit_code
