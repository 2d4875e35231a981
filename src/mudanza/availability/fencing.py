"""What is to be ordered next so that a host is proven off, and whether it is: pure. Replies in, decision out.

Levels are tried in their order. Within one, first every device is switched off, then every device is asked: a host
with two power supplies is off only while both are. What an ``off`` returns proves nothing by itself, and a status that
says off is no proof of a device that could not be switched: both are wanted. Anything else is *not fenced*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mudanza.model.fencing import Device, DeviceTest, Order, Power, Reply


@dataclass(frozen=True, slots=True)
class Command:
    """A device to be told something now."""

    device: Device
    order: Order


@dataclass(frozen=True, slots=True)
class Verdict:
    """There is nothing more to order."""

    proven: bool
    said: str
    """What proves it, or what each level came to, in one sentence."""


def next_step(devices: Sequence[Device], replies: Sequence[Reply]) -> Command | Verdict:
    """Return what follows from what was ordered so far. ``replies``: of these devices, each order once."""
    told = {(reply.device, reply.order): reply for reply in replies}
    failures = []
    for level in sorted({device.level for device in devices}):
        there = [device for device in devices if device.level == level]
        found = _of_level(there, told)
        if isinstance(found, Command):
            return found
        if found is None:
            return Verdict(True, f"switched off and then found off: {_named(there)}")
        failures.append(f"level {level}: {found}")
    return Verdict(False, "; ".join(failures) or "it has no device that could switch it off")


def _of_level(devices: Sequence[Device], told: dict[tuple[str, Order], Reply]) -> Command | str | None:
    """Return what is to be ordered of these devices, None where all have proven off, or why they have not."""
    for order in (Order.OFF, Order.STATUS):
        for device in devices:
            reply = told.get((device.name, order))
            if reply is None:
                return Command(device, order)
            if fault := _fault(device, reply):
                return fault
    return None


def _fault(device: Device, reply: Reply) -> str:
    """Return why a reply is not what a proof needs; empty: it is."""
    said = f": {reply.said}" if reply.said else ""
    if not reply.done:
        how = "gave no answer in time" if reply.code is None else f"failed (exit {reply.code})"
        return f"{reply.order.value} of {device.shown} {how}{said}"
    if reply.order is Order.STATUS and reply.power is not Power.OFF:
        return f"{device.shown} was switched off and says that it is {reply.power.value}"
    return ""


def _named(devices: Sequence[Device]) -> str:
    return ", ".join(device.shown for device in devices)


def fault_of(power: Power, said: str, *, answers: bool) -> str:
    """Return why nothing could be proven by a device that was asked whether the power is on; empty: all is well.
    ``answers``: whether its host does."""
    if power is Power.UNKNOWN:
        return f"does not say whether the power is on{f': {said}' if said else ''}"
    if power is Power.OFF and answers:
        return "says that it is off, and the host answers: it switches another machine, or one power supply is off"
    return ""


def due_for_test(
    devices: Mapping[str, Sequence[Device]], tests: Sequence[DeviceTest], alive: Collection[str], every: float
) -> list[str]:
    """Return the hosts whose devices are to be asked again: those that answer, and of which one was not asked within
    ``every`` seconds."""
    lately = {(each.host, each.device) for each in tests if 0.0 <= each.ago < every}
    return [
        host
        for host, there in devices.items()
        if host in alive and any((host, device.name) not in lately for device in there)
    ]


def standing(devices: Sequence[Device], replies: Sequence[Reply]) -> Iterator[tuple[Device, Power, str]]:
    """Yield, device by device, what the host's power is by its last status, and what was said."""
    last = {reply.device: reply for reply in replies if reply.order is Order.STATUS}
    for device in sorted(devices, key=lambda each: (each.level, each.name)):
        reply = last.get(device.name)
        if reply is None:
            yield device, Power.UNKNOWN, "it was not asked"
        else:
            yield device, reply.power, "took too long and was ended" if reply.code is None else reply.said
