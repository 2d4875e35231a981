"""What a Linux guest reads about its cards when it boots, and how that is to be for other addresses: pure.

netplan has no way of its own here: it writes for systemd-networkd or for NetworkManager, and whoever of them looks
after the card reads ours before netplan's, which stays as it is.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mudanza.protection.stanzas import interfaces_with

RESOLV = "/etc/resolv.conf"


class Way(StrEnum):
    """Who looks after a guest's card."""

    OWN = "own program"
    MANAGER = "NetworkManager"
    NETWORKD = "systemd-networkd"
    IFUPDOWN = "ifupdown"
    IFCFG = "ifcfg"
    NONE = "none"
    """Nobody that is known here: an address holds until the guest boots."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card of a guest and what it gets."""

    mac: str
    address: str
    gateway: str
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A file of the guest, as it is to be."""

    path: str
    text: str
    mode: str = "644"


@dataclass(frozen=True, slots=True)
class Steps:
    """What is run in the guest before its files are changed, and after that: shells' scripts that get the device, our
    own file's path, and the UUID of NetworkManager's connection."""

    before: str
    after: str
    back: str
    """Run in place of ``after`` where the files are as they once were; it gets the device alone."""


def facts_of(told: str) -> Mapping[str, str]:
    """Return what ``in_guest.LOOK`` has said."""
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def way_of(facts: Mapping[str, str]) -> Way:
    """Return who looks after a card. One that is part of a bridge or a bond has its addresses elsewhere."""
    if "own" in facts:
        return Way.OWN
    if "master" in facts:
        return Way.NONE
    found = {"manager": Way.MANAGER, "networkd": Way.NETWORKD, "ifcfg": Way.IFCFG, "ifupdown": Way.IFUPDOWN}
    return next((way for fact, way in found.items() if fact in facts), Way.NONE)


def files_for(way: Way, facts: Mapping[str, str], card: Card, interfaces: Mapping[str, str]) -> tuple[File, ...]:
    """Return what has to be written so that a card has its address when the guest boots, our own file first.

    ``interfaces``: ifupdown's files, path → text.
    """
    device = facts["device"]
    match way:
        case Way.MANAGER:
            return (File(f"/etc/NetworkManager/system-connections/{_name(card)}.nmconnection", keyfile(card), "600"),)
        case Way.NETWORKD:
            return (File(f"/etc/systemd/network/05-{_name(card)}.network", network_unit(card)),)
        case Way.IFCFG:
            return (File(f"/etc/sysconfig/network-scripts/ifcfg-{device}", ifcfg(device, card)),)
        case Way.IFUPDOWN:
            changed = dict(interfaces_with(interfaces, device, *_stanza(card)))
            if card.dns and "resolv" in facts:  # nobody but us would write it
                changed[RESOLV] = "".join(f"nameserver {server}\n" for server in card.dns)
            return tuple(File(path, text) for path, text in changed.items())
        case _:
            return ()


def _name(card: Card) -> str:
    return f"mudanza-{card.mac.replace(':', '')}"


def _family(card: Card) -> int:
    return ipaddress.ip_interface(card.address).version


def connection_id(card: Card) -> str:
    """Return the UUID of the card's connection: always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://mudanza.dev/connection/{card.mac}"))


def keyfile(card: Card) -> str:
    """Return NetworkManager's own format. Of several connections of a card the one of the highest priority is used."""
    version = _family(card)
    gateway = f",{card.gateway}" if card.gateway else ""
    lines = ["[connection]", f"id={_name(card)}", f"uuid={connection_id(card)}", "type=ethernet"]
    lines += ["autoconnect=true", "autoconnect-priority=999", "", "[ethernet]", f"mac-address={card.mac.upper()}"]
    for each in (4, 6):
        mine = ["method=manual", f"address1={card.address}{gateway}"] if each == version else ["method=auto"]
        servers = [server for server in card.dns if ipaddress.ip_address(server).version == each]
        lines += ["", f"[ipv{each}]", *mine, *([f"dns={';'.join(servers)};"] if servers else [])]
    return "\n".join(lines) + "\n"


def network_unit(card: Card) -> str:
    """Return a file of systemd-networkd, which goes by the first one that matches: those of netplan begin with 10."""
    lines = ["[Match]", f"MACAddress={card.mac}", "Type=ether", "", "[Network]", f"Address={card.address}"]
    lines += [f"Gateway={card.gateway}"] if card.gateway else []
    lines += [f"DNS={server}" for server in card.dns]
    return "\n".join(lines) + "\n"


def ifcfg(device: str, card: Card) -> str:
    """Return a file of RHEL's network scripts."""
    lines = [f"DEVICE={device}", f"HWADDR={card.mac.upper()}", "TYPE=Ethernet", "ONBOOT=yes", "BOOTPROTO=none"]
    if _family(card) == 4:
        address, _, prefix = card.address.partition("/")
        lines += [f"IPADDR={address}", f"PREFIX={prefix}"]
        lines += [f"GATEWAY={card.gateway}"] if card.gateway else []
    else:
        lines += ["IPV6INIT=yes", "IPV6_AUTOCONF=no", f"IPV6ADDR={card.address}"]
        lines += [f"IPV6_DEFAULTGW={card.gateway}"] if card.gateway else []
    lines += [f"DNS{number}={server}" for number, server in enumerate(card.dns, 1)]
    return "\n".join(lines) + "\n"


def _stanza(card: Card) -> tuple[str, list[str]]:
    """Return the family, and the lines, of ifupdown's stanza for a card. busybox's takes the mask by itself only."""
    found = ipaddress.ip_interface(card.address)
    mask = found.netmask if found.version == 4 else found.network.prefixlen
    lines = [f"address {found.ip}", f"netmask {mask}"]
    lines += [f"gateway {card.gateway}"] if card.gateway else []
    lines += [f"dns-nameservers {' '.join(card.dns)}"] if card.dns else []
    return ("inet" if _family(card) == 4 else "inet6"), lines


_RENEW = 'networkctl reload && networkctl reconfigure "$1" || systemctl restart systemd-networkd'
STEPS: Mapping[Way, Steps] = {
    Way.MANAGER: Steps(
        "",
        'nmcli connection load "$2" && nmcli -w 30 connection up uuid "$3"',
        'nmcli connection reload && nmcli device disconnect "$1"; nmcli -w 30 device connect "$1"',
    ),
    Way.NETWORKD: Steps("", _RENEW, _RENEW),
    Way.IFCFG: Steps('ifdown "$1"', 'ifup "$1"', 'ifup "$1"'),
    Way.IFUPDOWN: Steps('ifdown --force "$1" || ifdown -f "$1"', 'ifup "$1"', 'ifup "$1"'),
}
"""How each is told. What came of it is seen by the address that the card has then."""
