"""Before maintenance rolls over hosts: their order, and what it would take to empty each. Nothing is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudanza.fleet.rolling import in_order
from mudanza.hypervisor.host_command import HostCommand
from mudanza.model.carrying import CannotGo
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.telling import error_as_data
from mudanza.operations.emptying import off

if TYPE_CHECKING:
    from mudanza.model.host import HostEntry
    from mudanza.model.plan import Plan
    from mudanza.model.rolling import Order
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say

_OWN_UUID = Path("/sys/class/dmi/id/product_uuid")


@dataclass(frozen=True, slots=True)
class Outing:
    """How one host's VMs would leave it."""

    host: str
    plan: Plan | None
    blocked: BlockedError | None = None
    """Why they could not."""

    @property
    def seconds(self) -> float:
        """How long they are foreseen to be on the way, there and back."""
        return 2 * max((move.finish or 0.0 for move in self.plan.moves), default=0.0) if self.plan else 0.0


def arranged(means: Means, order: Order, command: Callable[[HostEntry, str], HostCommand] = HostCommand) -> Order:
    """Return the order with its hosts in the order in which they are done; none named: all.

    Raises UsageError for a host that is not known, or named twice; BlockedError where the controller cannot log in by
    ssh or runs on a host that is to start anew; HostUnreachableError.
    """
    known = means.inventory.hosts()
    names = order.hosts or tuple(entry.name for entry in known)
    if len({*names}) != len(names):
        raise UsageError("a host is named twice")
    if not names:
        raise UsageError("no host is known", remedy="add one: mudanza host add NAME URI")
    own = [name for name in names if command(means.inventory.host(name), "own").is_here()]
    own = own or _by_uuid(means, names)
    if own and order.reboot:
        raise BlockedError(
            f"this controller runs on {own[0]}, which would end with it: nothing was begun",
            remedy="leave that host out (--hosts), or have it done from elsewhere",
        )
    if order.reboot and order.cannot_go is CannotGo.STAY:
        raise UsageError(
            "who stays on a host that starts anew is cut off", remedy="say otherwise: --cannot-go-live cold|shutdown"
        )
    return replace(order, hosts=in_order(names, own[0] if own else None))


def _by_uuid(means: Means, names: Sequence[str]) -> list[str]:
    """Return the host that has our machine's UUID, as we see it in a container, too."""
    own = ""
    with suppress(OSError):  # root alone may read it
        own = _OWN_UUID.read_text(encoding="ascii").strip().lower()
    if not own:
        return []
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
    return [name for name in names if cluster.host(name).host_uuid.lower() == own]


def outings(means: Means, order: Order, say: Say) -> tuple[Outing, ...]:
    """Return how each host would be emptied, as things are now."""
    found = []
    for host in order.hosts:
        shut: list[Vm] = []
        policy = replace(order.policy, elsewhere=True)
        try:
            plan, _ = off(means, host, order.cannot_go, policy, shut, say, lambda _: CannotGo.REFUSE, with_off=False)
            found.append(Outing(host, plan))
        except BlockedError as error:
            found.append(Outing(host, None, error))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class OutingOf:
    """The same as it is told of."""

    host: str
    seconds: float
    blocked: str
    """Why its VMs could not leave; empty: they could."""
    plan: Mapping[str, Any] | None
    """As ``Plan.as_data`` has it."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """How maintenance would roll."""

    hosts: tuple[OutingOf, ...]
    """In their order."""
    error: Mapping[str, Any] | None
    """Why nothing would be begun, as ``error_as_data`` has it; None: it could be."""


def foresee(
    means: Means, order: Order, say: Say, command: Callable[[HostEntry, str], HostCommand] = HostCommand
) -> Foreseen:
    """Return how each host would be emptied, as things are now. Raises as ``arranged``."""
    found = outings(means, arranged(means, order, command), say)
    error = None
    try:
        refuse_stuck(found)
    except BlockedError as stuck:
        error = error_as_data(stuck)
    return Foreseen(tuple(map(_told, found)), error)


def _told(outing: Outing) -> OutingOf:
    plan = outing.plan.as_data() if outing.plan is not None else None
    return OutingOf(outing.host, outing.seconds, str(outing.blocked or ""), plan)


def refuse_stuck(found: Sequence[Outing]) -> None:
    """Raise BlockedError where a host could not be emptied: better now than after half of them."""
    stuck = [each for each in found if each.blocked is not None]
    if stuck:
        raise BlockedError(
            "not begun: " + "; ".join(f"{each.host}: {each.blocked}" for each in stuck),
            findings=tuple(finding for each in stuck if each.blocked for finding in each.blocked.findings),
            remedy="mend what is listed, or say what becomes of them: --cannot-go-live cold|shutdown|stay",
        )
