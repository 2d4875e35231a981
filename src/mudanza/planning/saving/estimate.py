"""What hosts draw before a plan and after it, and what is saved by switching off those that are empty then: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from mudanza.model.plan import HostOutlook
from mudanza.model.watts import PowerModel, kilowatt_hours

DAY = 86400.0
NOTHING: Mapping[str, float] = MappingProxyType({})
YEAR_DAYS = 365


@dataclass(frozen=True, slots=True)
class Estimate:
    """What it comes to. Watts; of hosts of which it is known what they draw."""

    now: float
    """With all that are on now, as busy as they are."""
    idle_off: float
    """If those that are empty already, and may be off, were off, and nobody was moved."""
    after: float
    """After the plan, with those off that are empty then and may be off."""
    empty_now: tuple[str, ...]
    off: tuple[str, ...]
    """Hosts that are empty after the plan, and may be off."""
    stay: Mapping[str, str]
    """Hosts that are empty after the plan and have to stay on → why."""
    unknown: tuple[str, ...]
    """Hosts of which nobody has said what they draw."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Hosts whose draw was measured just now. Watts."""
    modelled: float = 0.0
    """What the same hosts should draw, by what was said of them."""


def estimate(
    outlooks: Sequence[HostOutlook],
    models: Mapping[str, PowerModel],
    needed: Mapping[str, str],
    measured: Mapping[str, float] = NOTHING,
) -> Estimate:
    """Return what a plan's hosts draw. ``needed``: hosts that are not switched off, and why. ``measured``: watts that
    hosts were just now found to draw: by as much as a host draws more or less than it was said to, it will."""
    now, idle_off, after, modelled = [], [], [], 0.0
    for each in outlooks:
        model = models.get(each.host)
        if model is None:
            continue
        said = model.at(each.before.cpus / max(each.cpus_total, 1))
        before = measured.get(each.host, said)
        modelled += said if each.host in measured else 0.0
        now.append(before)
        if each.before.vms or each.host in needed:
            idle_off.append(before)
        if each.after.vms or each.host in needed:
            drawn = model.at(each.after.cpus / max(each.cpus_total, 1))
            after.append(drawn * before / said if said else drawn)
    empty = [each.host for each in outlooks if not each.after.vms]
    return Estimate(
        sum(now),
        sum(idle_off),
        sum(after),
        tuple(each.host for each in outlooks if not each.before.vms and each.host not in needed),
        tuple(host for host in empty if host not in needed),
        {host: needed[host] for host in empty if host in needed},
        tuple(each.host for each in outlooks if each.host not in models),
        {each.host: measured[each.host] for each in outlooks if each.host in measured and each.host in models},
        modelled,
    )


def in_words(found: Estimate, price: float, currency: str) -> Iterator[str]:
    """Yield the estimate in sentences. ``price``: of a kilowatt-hour."""
    if found.unknown:
        names = ", ".join(found.unknown)
        yield f"power: of {names} nobody has said what they draw: mudanza power set HOST --watts IDLE,PEAK"
    if not found.now:
        return
    yield f"power: hosts draw {found.now:.0f} W now"
    if found.measured:
        each = ", ".join(f"{host} {watts:.0f} W" for host, watts in found.measured.items())
        yield f"power: measured of them: {each}; by what was said it would be {found.modelled:.0f} W"
    if found.empty_now:
        names = ", ".join(found.empty_now)
        yield f"power: without the plan {names} could be off: {_saved(found.now - found.idle_off, price, currency)}"
    if found.off:
        yield (
            f"power: after the plan {', '.join(found.off)} can be off: {found.after:.0f} W, "
            f"{_saved(found.now - found.after, price, currency)}"
        )
    else:
        yield "power: after the plan no host can be off"
    yield from (f"power: {host} is empty then and stays on: {why}" for host, why in found.stay.items())


def _saved(watts: float, price: float, currency: str) -> str:
    a_day = kilowatt_hours([watts], DAY)
    cost = f" ({a_day * price:.2f} {currency}, {a_day * price * YEAR_DAYS:.0f} {currency} in a year)" if price else ""
    return f"{watts:.0f} W less, {a_day:.2f} kWh a day{cost}"
