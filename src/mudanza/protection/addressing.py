"""Giving a guest other addresses where its VM has come up, by QEMU's guest agent in it, and taking them back at home.

A plan says which addresses; what is run in the guest is ours and always the same, unless the guest has a program of its
own for it, ``/etc/mudanza/readdress``, which then gets the same words. So a plan brings no commands into guests. They
are written where the guest reads them when it boots, where that is known; what was there before is kept in the guest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.recovery import Machine
from mudanza.model.vm import VmState
from mudanza.protection import in_guest, windows_addresses
from mudanza.protection.in_guest import InGuest
from mudanza.protection.lasting import STEPS, Card, File, Way, connection_id, facts_of, files_for, way_of
from mudanza.protection.stanzas import files_of
from mudanza.protection.windows_addresses import SYSTEM

_NOT_HIS = 5
"""Seconds that who looks after a card has until it has its address; then it is set past him."""
_Refusals = (HypervisorError, HostUnreachableError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Given:
    """How a card got its address."""

    card: Card
    way: str
    """Who looks after it, such as ``NetworkManager``."""
    lasts: bool
    """Whether it has it when the guest boots again, too."""

    def __str__(self) -> str:
        lasting = f"by {self.way}" if self.lasts else "until it reboots"
        return f"{self.card.address} ({lasting})"


class Back(StrEnum):
    """What came of having a guest be as it was before."""

    DONE = "done"
    BY_OWN = "by its own program"
    """The guest's own program did it, and knows alone how it is undone."""
    NOTHING = "nothing"
    """Nothing was written in it: it has its own addresses once it boots."""


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
        address = ipaddress.ip_interface(each.address).with_prefixlen
        found.append(Card(cards[0].lower(), address, each.gateway, machine.dns))
    return tuple(found)


def macs_of(cards: Sequence[Card]) -> tuple[str, ...]:
    """Return the cards' MAC addresses."""
    return tuple(card.mac for card in cards)


def readdress(domains: Domains, uuid: str, machine: Machine, cards: tuple[Card, ...]) -> tuple[Given, ...]:
    """Give a guest its addresses, as soon as its agent answers, within the plan's limit; done once more it changes
    nothing. Raises MigrationFailedError where that was not done."""
    guest = InGuest(domains, uuid, machine.limit)
    try:
        guest.await_agent()
        if guest.system() == SYSTEM:
            return tuple(_give_windows(guest, card) for card in cards)
        return tuple(_give(guest, card) for card in cards)
    except _Refusals as error:
        raise MigrationFailedError(
            f"its guest did not get its addresses: {error}",
            vm_state="it runs, with the addresses it has",
            remedy="it takes QEMU's guest agent in the guest, which may run programs there (guest-exec), and ip",
        ) from error


def _give_windows(guest: InGuest, card: Card) -> Given:
    guest.run(windows_addresses.PROGRAM, windows_addresses.words_for(windows_addresses.giving(card)))
    return Given(card, "Windows", lasts=True)


def _give(guest: InGuest, card: Card) -> Given:
    facts = facts_of(guest.shell(in_guest.LOOK, card.mac))
    way = way_of(facts)
    words = (card.mac, card.address, card.gateway)
    if way is Way.OWN:
        guest.shell(in_guest.REMEMBER, way.name, given=in_guest.TAKE_BACK)
        guest.shell(in_guest.BY_OWN, *words, " ".join(card.dns))
        return Given(card, in_guest.OWN, lasts=True)
    if way is not Way.NONE:
        shown = files_of(guest.shell(in_guest.INTERFACES)) if way is Way.IFUPDOWN else {}
        _write(guest, way, facts["device"], card, files_for(way, facts, card, shown))
    guest.shell(in_guest.NOW, *words, *((" ".join(card.dns), "0") if way is Way.NONE else ("", str(_NOT_HIS))))
    return Given(card, way.value, lasts=way is not Way.NONE)


def _write(guest: InGuest, way: Way, device: str, card: Card, files: Sequence[File]) -> None:
    """Have the guest read a card's address when it boots, and now."""
    guest.shell(in_guest.REMEMBER, way.name, given=in_guest.TAKE_BACK)
    _tell(guest, STEPS[way].before, device)
    for file in files[::-1]:  # ours at last: until it is there, the others take nothing in
        guest.shell(in_guest.WRITE, file.path, file.mode, given=file.text)
    _tell(guest, STEPS[way].after, device, files[0].path, connection_id(card))


def _tell(guest: InGuest, script: str, *words: str) -> None:
    """Tell who looks after a card. What comes of it is seen by the address that the card has then."""
    guest.shell(f"{{ {script or ':'}\n}} >/dev/null 2>&1 </dev/null || :", *words)


def take_back(domains: Domains, uuid: str, macs: Sequence[str], limit: float) -> Back:
    """Have a guest be as it was before it got other addresses, as soon as its agent answers, within ``limit`` seconds;
    return what came of it.

    Done once more it changes nothing. Raises MigrationFailedError where that was not done.
    """
    guest = InGuest(domains, uuid, limit)
    try:
        guest.await_agent()
        if guest.system() == SYSTEM:
            for mac in macs:
                guest.run(windows_addresses.PROGRAM, windows_addresses.words_for(windows_addresses.taking_back(mac)))
            return Back.DONE
        return _take_back(guest, macs)
    except _Refusals as error:
        raise MigrationFailedError(
            f"its guest has the addresses of elsewhere still: {error}",
            vm_state="it runs, with the addresses it has",
            remedy="it takes QEMU's guest agent in the guest, which may run programs there (guest-exec)",
        ) from error


def _take_back(guest: InGuest, macs: Sequence[str]) -> Back:
    ways = [Way[word] for word in guest.shell(in_guest.RECALL).split() if word in Way.__members__]
    if not ways:
        return Back.NOTHING
    told = [STEPS[way] for way in ways if way in STEPS]
    devices = [facts_of(guest.shell(in_guest.LOOK, mac))["device"] for mac in macs] if told else []
    for device in devices:
        for steps in told:
            _tell(guest, steps.before, device)
    guest.shell(in_guest.TAKE_BACK)
    for device in devices:
        for steps in told:
            _tell(guest, steps.back, device)
    return Back.BY_OWN if Way.OWN in ways else Back.DONE
