"""Having a host off on purpose: emptied by a plan, shut down, and seen off; and woken again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza.model.carrying import CannotGo, MoveState, RunPolicy
from mudanza.operations.fencing import agents_of
from mudanza.operations.handed_on import ControllerEndsError
from mudanza.operations.switching import Switcher

if TYPE_CHECKING:
    from mudanza.operations.emptying import Choose, Emptying
    from mudanza.operations.handed_on import Carrying
    from mudanza.operations.means import Means, Say


@dataclass(frozen=True, slots=True)
class Off:
    """How a host is to be put off."""

    cannot_go: CannotGo
    policy: RunPolicy
    with_off: bool = False
    """Also those that are off leave it."""
    force: bool = False
    """Even if it has to stay on."""


@dataclass(frozen=True, slots=True)
class PutOff:
    """What came of it."""

    off: bool
    """False: somebody stays on it, and so it stays on."""
    said: str
    """What proves it."""


def switcher_of(means: Means, asked_by: str, say: Say) -> Switcher:
    """Return who switches hosts."""
    return Switcher(means, agents_of(means.fencing), means.saving, asked_by, say)


def put_off(means: Means, host: str, how: Off, carrying: Carrying, asked_by: str, say: Say, choose: Choose) -> PutOff:
    """Empty a host, shut its system down, and see it off. Where it does not get empty it is opened again, and stays on.

    Raises as ``Switcher.empty`` and ``Switcher.off``, and ControllerEndsError.
    """
    closed = means.inventory.host(host).maintenance
    switcher = switcher_of(means, asked_by, say)
    wanted = switcher.empty(host, how.cannot_go, how.policy, choose, with_off=how.with_off, force=how.force)
    try:
        is_empty = _emptied(wanted, carrying, say)
    except ControllerEndsError as error:
        raise ControllerEndsError(
            f"{error}; {host} is closed to newcomers, and stays on",
            vm_state=error.vm_state,
            remedy=f"then: mudanza power off {host}; or let it be: mudanza maintenance leave {host}",
        ) from None
    if not is_empty:
        means.inventory.set_maintenance(host, on=closed)
        say(f"! {host} is not empty, and stays on")
        return PutOff(off=False, said="")
    return PutOff(off=True, said=switcher.off(host, closed=closed).said)


def _emptied(wanted: Emptying, carrying: Carrying, say: Say) -> bool:
    """Carry out what empties a host; return whether it is empty then."""
    for each in wanted.plan.unmoved:
        say(f"! {each.vm} is not moved{f', it stays on {each.host}' if each.host else ''}: {each.why}")
    if wanted.stay:
        return False
    if not wanted.plan.moves:
        return True
    run = carrying.carry_out(wanted)
    return run.ended_at is not None and run.count(MoveState.DONE) == len(run.moves)
