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
    AGAIN = "again"
    """It is to be made ready once more, and then begun."""
    END = "end"
    """Its time is over."""
    FAULT = "fault"
    SILENT = "silent"
    """Nobody can say anything: it is looked at again once somebody goes on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, and why, in words."""

    next: Next
    said: str = ""


WAIT = Verdict(Next.WAIT)


def decide(order: Order, lap: Lap, seen: Seen | None, silent: float = 0.0) -> Verdict:
    """Say what is to be done about the command of a host; ``seen`` None: the host does not answer, ``silent``: for so
    many seconds.

    A command is never begun twice by itself: where nobody can know how far it got, a person is asked.
    """
    overdue = lap.for_seconds > order.limit
    if seen is None:
        return _unheard(order, lap, silent)
    if seen.boot != lap.boot:
        return _started_anew(order, lap, seen)
    match seen.state:
        case CommandState.READY if not lap.begun:
            return Verdict(Next.BEGIN)
        case CommandState.READY | CommandState.ABSENT:
            return Verdict(Next.FAULT, "what was kept of the command there is gone: nobody knows how far it got")
        case CommandState.LOST:
            return Verdict(Next.FAULT, "the command was ended by something else there: nobody knows how far it got")
        case CommandState.RUNS:
            return Verdict(Next.END, f"the command has not ended within {_limit(order)}") if overdue else WAIT
        case CommandState.ENDED:
            return _ended(order, seen.exit_code, overdue=overdue)


def _unheard(order: Order, lap: Lap, silent: float) -> Verdict:
    if lap.begun and lap.for_seconds > order.limit:
        return Verdict(Next.SILENT, f"it has not answered since its command began, {_ago(lap)} ago")
    if not lap.begun and silent > order.limit:
        ago = format_duration(silent)
        return Verdict(Next.SILENT, f"it has not answered for {ago}, since its command was to begin")
    return WAIT


def _started_anew(order: Order, lap: Lap, seen: Seen) -> Verdict:
    """What its disk has kept outlives the start: each sign was there before what it is a sign of."""
    if seen.state is CommandState.ENDED and seen.exit_code != 0:
        said = f"the command ended with exit code {seen.exit_code}, and then the host has started anew"
        return Verdict(Next.FAULT, said)
    if seen.state is CommandState.ENDED:
        return Verdict(Next.GO_ON, "the command was done, and then the host has started anew")
    if seen.state is CommandState.READY and not lap.begun:
        return Verdict(Next.AGAIN, "it has started anew before its command began")
    if not lap.begun:
        said = "it has started anew when its command was about to begin: nobody knows whether it did"
        return Verdict(Next.FAULT, said)
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
