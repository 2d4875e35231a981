"""Giving a guest other addresses where its VM has come up, by QEMU's guest agent in it.

A plan says which addresses; what is run in the guest is ours and always the same, unless the guest has a program of its
own for it, ``/etc/mudanza/readdress``, which then gets the same words. So a plan brings no commands into guests.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mudanza import clock
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.recovery import Machine
from mudanza.model.vm import VmState

OWN = "/etc/mudanza/readdress"
"""The guest's own program for it, if there is one: it gets device, MAC address, address, gateway and name servers."""
ASK_TIMEOUT = 5
"""Seconds that the agent may take for one answer."""
LOOK_AGAIN = 0.5
"""Seconds between two looks whether the agent answers, or what it runs has ended."""
MOST_SAID = 500
"""Characters of what was said in the guest that an error repeats."""

# It works with iproute2 and with busybox. What is set so lasts until the guest starts anew: only its own program knows
# where its distribution keeps such things.
SCRIPT = f"""
mac=$1 address=$2 gateway=$3 dns=$4 device=
for each in /sys/class/net/*; do
  [ "$(cat "$each/address" 2>/dev/null)" != "$mac" ] || device=${{each##*/}}
done
[ -n "$device" ] || {{ echo "no card has the address $mac"; exit 1; }}
if [ -x {OWN} ]; then exec {OWN} "$device" "$mac" "$address" "$gateway" "$dns"; fi
ip link set "$device" up &&
ip addr flush dev "$device" scope global &&
ip addr add "$address" dev "$device" || exit 1
[ -z "$gateway" ] || ip route replace default via "$gateway" dev "$device" || exit 1
[ -z "$dns" ] || for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
"""


@dataclass(frozen=True, slots=True)
class Card:
    """One card of a guest and what it gets."""

    mac: str
    address: str
    gateway: str


def cards_of(machine: Machine, definition: str) -> tuple[Card, ...]:
    """Return what each card gets that a plan has an address for: pure. ``definition``: the VM's, as at home.

    Raises BlockedError where not just one card hangs on a network that the plan names.
    """
    vm = parse_vm(definition, host="", state=VmState.SHUTOFF)
    found = []
    for each in machine.addresses:
        cards = [nic.mac for nic in vm.nics if nic.source == each.network]
        if len(cards) != 1:
            raise BlockedError(
                f"VM {vm.name!r} has {len(cards)} cards on {each.network!r}, and its plan has one address for it",
                remedy="name a network or bridge, as it is at home, that just one of its cards hangs on",
            )
        found.append(Card(cards[0].lower(), each.address, each.gateway))
    return tuple(found)


def readdress(domains: Domains, uuid: str, machine: Machine, cards: tuple[Card, ...]) -> None:
    """Give a guest its addresses, as soon as its agent answers, within the plan's limit; done once more it changes
    nothing. Raises MigrationFailedError where that was not done."""
    until = clock.monotonic() + machine.limit
    try:
        _await_agent(domains, uuid, until)
        for card in cards:
            words = [card.mac, card.address, card.gateway, " ".join(machine.dns)]
            _run(domains, uuid, words, until)
    except (HypervisorError, HostUnreachableError, TimeoutError) as error:
        raise MigrationFailedError(
            f"its guest did not get its addresses: {error}",
            vm_state="it runs, with the addresses it has",
            remedy="it takes QEMU's guest agent in the guest, which may run programs there (guest-exec), and ip",
        ) from error


def _await_agent(domains: Domains, uuid: str, until: float) -> None:
    while True:
        try:
            domains.ask_agent(uuid, {"execute": "guest-ping"}, timeout=ASK_TIMEOUT)
            return
        except (HypervisorError, HostUnreachableError):
            if clock.monotonic() >= until:
                raise
        clock.sleep(LOOK_AGAIN)


def _run(domains: Domains, uuid: str, words: list[str], until: float) -> None:
    arguments = {"path": "/bin/sh", "arg": ["-c", SCRIPT, "readdress", *words], "capture-output": True}
    begun = domains.ask_agent(uuid, {"execute": "guest-exec", "arguments": arguments}, timeout=ASK_TIMEOUT)
    look = {"execute": "guest-exec-status", "arguments": {"pid": begun["pid"]}}
    while not (seen := domains.ask_agent(uuid, look, timeout=ASK_TIMEOUT)).get("exited"):
        if clock.monotonic() >= until:
            raise TimeoutError("what was begun in the guest has not ended in time")
        clock.sleep(LOOK_AGAIN)
    if seen.get("exitcode") != 0:
        raise HypervisorError(domains.host, f"in the guest: exit {seen.get('exitcode')}: {_said(seen)}")


def _said(seen: Mapping[str, Any]) -> str:
    told = b"".join(base64.b64decode(seen.get(stream, "")) for stream in ("out-data", "err-data"))
    return " ".join(told.decode(errors="replace").split())[-MOST_SAID:] or "it said nothing"
