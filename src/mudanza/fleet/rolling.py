"""Maintenance that rolls over hosts: what follows from what a host says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.host import Host
from mudanza.model.rolling import Before, CommandState, Lap, Order, Seen
from mudanza.model.units import format_duration


class Next(StrEnum):
    """What is to be done about a command."""

    BEGIN = "begin"
    WAIT = "wait"
    GO_ON = "go on"
    END = "end"
    """Its time is over."""
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, and why, in words."""

    next: Next
    said: str = ""


WAIT = Verdict(Next.WAIT)


def decide(order: Order, lap: Lap, seen: Seen | None) -> Verdict:
    """Say what is to be done about the command of a host; ``seen`` None: the host does not answer.

    A command is never begun twice by itself: where nobody can know how far it got, a person is asked.
    """
    overdue = lap.for_seconds > order.limit
    if seen is None:
        if not overdue:
            return WAIT
        return Verdict(Next.FAULT, f"it has not answered since its command began, {_ago(lap)} ago")
    if seen.boot != lap.boot:
        return _started_anew(order, lap)
    match seen.state:
        case CommandState.ABSENT:
            if not lap.begun:
                return Verdict(Next.BEGIN)
            return Verdict(Next.FAULT, "what was kept of the command there is gone: nobody knows how far it got")
        case CommandState.LOST:
            return Verdict(Next.FAULT, "the command was ended by something else there: nobody knows how far it got")
        case CommandState.RUNS:
            return Verdict(Next.END, f"the command has not ended within {_limit(order)}") if overdue else WAIT
        case CommandState.ENDED:
            return _ended(order, seen.exit_code, overdue=overdue)


def _started_anew(order: Order, lap: Lap) -> Verdict:
    if not lap.begun:
        return Verdict(
            Next.FAULT, "it has started anew when its command was about to begin: nobody knows whether it did"
        )
    if order.reboot:
        return Verdict(Next.GO_ON, "it has started anew")
    return Verdict(Next.FAULT, "it has started anew while the command ran, which was not foreseen (--reboot)")


def _ended(order: Order, code: int | None, *, overdue: bool) -> Verdict:
    if code != 0:
        return Verdict(Next.FAULT, f"the command ended with exit code {code}")
    if not order.reboot:
        return Verdict(Next.GO_ON, "the command is done")
    if overdue:
        return Verdict(Next.FAULT, f"the command is done, and it has not started anew within {_limit(order)}")
    return WAIT


def _ago(lap: Lap) -> str:
    return format_duration(lap.for_seconds)


def _limit(order: Order) -> str:
    return format_duration(order.limit)


def unwell(before: Before, host: Host) -> str:
    """Say in what a host is not as it was before; empty: in nothing that is looked at."""
    if not host.seen:
        return f"its libvirt does not answer: {host.error}"
    pools = _missing(before.pools, [pool.name for pool in host.pools or () if pool.active])
    networks = _missing(before.networks, [network.name for network in host.networks or () if network.active])
    faults = [f"not active as before: pool {name}" for name in pools]
    faults += [f"not active as before: network {name}" for name in networks]
    return "; ".join(faults)


def as_before(host: Host, *, closed: bool) -> Before:
    """Return what a host is to be like again."""
    pools = tuple(sorted(pool.name for pool in host.pools or () if pool.active))
    networks = tuple(sorted(network.name for network in host.networks or () if network.active))
    return Before(pools, networks, closed)


def _missing(wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    return [name for name in wanted if name not in found]


def in_order(hosts: Sequence[str], own: str | None) -> tuple[str, ...]:
    """Return in which order hosts are done: as they are named, and the one that the controller runs on last."""
    return (*(host for host in hosts if host != own), *(host for host in hosts if host == own))
