"""Hosts' power as it is asked for: what they draw, which have to stay on, and what a plan would save."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.fencing import Match
from mudanza.model.host_power import HostPower, Switching
from mudanza.model.machine import Comparison, Verdict
from mudanza.model.plan import Goal, Plan
from mudanza.model.watts import PowerModel

if TYPE_CHECKING:
    from mudanza.model.cluster import Cluster
    from mudanza.operations.means import Means, Tariff

LOCAL = ("localhost", "127.0.0.1", "::1", "")


@dataclass(frozen=True, slots=True)
class PowerOf:
    """A host's power."""

    host: str
    known: HostPower
    last: Switching | None
    """When it was last to be switched off or on; None: never."""
    card: Match | None = None
    """Whether its address for Wake-on-LAN is one of its network cards; None: that was never compared."""


def listed(means: Means) -> tuple[PowerOf, ...]:
    """Return what is known of the power of each host."""
    from mudanza.journal.fences import WAKE, Fences
    from mudanza.journal.host_power import HostPowers

    powers = HostPowers(means.database)
    known, last, nothing = powers.all(), powers.last(), HostPower()
    cards = {each.host: each for each in Fences(means.database).matches() if each.device == WAKE}
    return tuple(
        PowerOf(name, known.get(name, nothing), last.get(name), cards.get(name))
        for name in (entry.name for entry in means.inventory.hosts())
    )


def change(means: Means, host: str, changes: Mapping[str, Any], asked_by: str, *, unmatched: bool = False) -> str:
    """Change fields of what was said of a host's power; return what is to be told. Raises UsageError, and what
    ``compare_mac`` raises of a new address for Wake-on-LAN."""
    from mudanza.journal.host_power import HostPowers

    wanted = replace(HostPowers(means.database).of(host), **changes)
    card = compare_mac(means, host, wanted.mac, unmatched=unmatched) if changes.get("mac") and wanted.mac else None
    words = in_words(wanted)
    return f"{host}: {words}" if put(means, host, wanted, card, asked_by) else f"nothing to change: {words}"


def in_words(known: HostPower) -> str:
    """Return what was said of a host's power."""
    words = [f"{known.watts.idle:g} W idle, {known.watts.peak:g} W busy"] if known.watts else ["nobody knows its watts"]
    words += [f"woken at {known.mac}"] if known.mac else []
    words += ["never switched off"] if known.keep_on else []
    return "; ".join(words)


def put(means: Means, host: str, wanted: HostPower, card: Comparison | None = None, asked_by: str = "") -> bool:
    """Keep exactly this of a host's power; return whether it was something else before. ``card``: whether its address
    for Wake-on-LAN is the host's, where that was compared; ``asked_by``: whose word counts where nothing tells. Raises
    UsageError."""
    from mudanza.journal.fences import WAKE, Fences
    from mudanza.journal.host_power import HostPowers

    means.inventory.host(host)
    there, fences = HostPowers(means.database), Fences(means.database)
    if there.of(host).mac != wanted.mac:
        fences.unmatch(host, WAKE)
    changed = there.put(host, wanted)
    if card is not None:
        fences.matched(host, WAKE, card, asked_by if card.verdict is Verdict.UNKNOWN else "")
    return changed


def compare_mac(means: Means, host: str, mac: str, *, unmatched: bool) -> Comparison:
    """Return whether an address for Wake-on-LAN is one of a host's network cards. ``unmatched``: take whoever asks by
    their word where that cannot be told.

    Raises UsageError; BlockedError where it is none of its cards, or nobody can tell.
    """
    found = _card_of(means, host, mac)
    if found.verdict is Verdict.OTHER:
        raise BlockedError(f"{mac} does not wake {host}: {found.said}", remedy="see its cards, on the host: ip link")
    if found.verdict is Verdict.UNKNOWN and not unmatched:
        raise BlockedError(
            f"whether {mac} is a network card of {host} cannot be told: {found.said}; it was not taken",
            remedy="if you know that it is: --unmatched",
        )
    return found


def _card_of(means: Means, host: str, mac: str) -> Comparison:
    from mudanza.hypervisor.reading.machine import read_macs

    means.inventory.host(host)
    try:
        with means.connections() as connections:
            cards = read_macs(connections.get(host))
    except MudanzaError as error:
        return Comparison(Verdict.UNKNOWN, f"the host cannot be asked: {error}")
    if cards is None:
        return Comparison(Verdict.UNKNOWN, "its libvirt does not tell of network cards")
    if mac in cards:
        return Comparison(Verdict.SAME, f"{mac} is one of its network cards")
    return Comparison(Verdict.OTHER, f"its network cards are {', '.join(sorted(cards)) or 'none'}")


def put_all(means: Means, wanted: Mapping[str, HostPower]) -> tuple[str, ...]:
    """Keep exactly this of each host's power; return of whom it was something else."""
    return tuple(host for host, power in wanted.items() if put(means, host, power))


def needed_hosts(means: Means, cluster: Cluster) -> Mapping[str, str]:
    """Return the hosts that are not switched off, and why."""
    from mudanza.journal.host_power import HostPowers
    from mudanza.planning.saving.needed import needed

    awake = [host.name for host in cluster.hosts if host.seen and not host.entry.maintenance]
    kept = {name: "it is to be kept on" for name, power in HostPowers(means.database).all().items() if power.keep_on}
    kept |= _of_the_controller(cluster, means.database.url.host or "")
    return needed(cluster, means.inventory.rules(), awake, kept)


def _of_the_controller(cluster: Cluster, server: str) -> Mapping[str, str]:
    """Return the hosts that this controller or the database's server is on."""
    found = {}
    for host in cluster.hosts:
        address = urlsplit(host.entry.uri).hostname or ""
        if address in LOCAL or host.hostname == os.uname().nodename:
            found[host.name] = "the controller runs on it"
        elif server and _same(server, address):
            found[host.name] = "the database is on it"
    return found


def _same(one: str, other: str) -> bool:
    return one == other or bool(_addresses(one) & _addresses(other))


def _addresses(name: str) -> set[str]:
    try:
        return {str(ipaddress.ip_address(name))}
    except ValueError:
        pass
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def with_savings(means: Means, plan: Plan, cluster: Cluster, tariff: Tariff) -> Plan:
    """Return a plan of consolidation that says besides what it saves, done and not done."""
    from mudanza.journal.host_power import HostPowers
    from mudanza.planning.saving import estimate as estimating

    if plan.goal is not Goal.CONSOLIDATE:
        return plan
    known = HostPowers(means.database).all()
    models = {name: power.watts for name, power in known.items() if power.watts is not None}
    measured, notes = measured_watts(means, [each.host for each in plan.outlooks])
    # Of one of which nobody has said it, it is taken for what it draws whatever it does.
    flat = {host: PowerModel((watts, watts)) for host, watts in measured.items() if host not in models}
    found = estimating.estimate(plan.outlooks, {**flat, **models}, needed_hosts(means, cluster), measured)
    return replace(plan, notes=(*plan.notes, *notes, *estimating.in_words(found, tariff.price, tariff.currency)))


def measured_watts(means: Means, hosts: Iterable[str]) -> tuple[Mapping[str, float], tuple[str, ...]]:
    """Return what hosts draw now whose BMCs measure it and speak Redfish, and what is to be said of the others that do
    speak it."""
    from mudanza.availability.measuring import MEASURING, speaks_redfish, watts_of
    from mudanza.hypervisor.bounded import for_each
    from mudanza.journal.fences import Fences
    from mudanza.operations.fencing import agents_of

    devices, agents = Fences(means.database).devices(), agents_of(means.fencing)
    able = [(host, each) for host in hosts for each in devices.get(host, ()) if speaks_redfish(each)]
    if not able:
        return {}, ()
    asked = for_each(lambda each: watts_of(agents, each[1]), able, workers=len(able), timeout=MEASURING)
    found, notes = dict[str, float](), list[str]()
    for (host, device), answer in zip(able, asked, strict=True):
        if isinstance(answer, float):
            found[host] = answer
        else:
            why = "does not measure" if answer is None else f"does not say ({answer})"
            notes.append(f"power: {device.shown} of {host} {why} what it draws")
    return found, tuple(notes)
