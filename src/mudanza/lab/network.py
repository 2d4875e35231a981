"""The wires of a lab: one bridge in the switch, a veth pair to every host and seat, a rate on both ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mudanza.lab import layout
from mudanza.lab.cell import Cell
from mudanza.lab.process import LabError

SWITCH_BRIDGE = "sw0"
UPLINK = "uplink"
"""The far end of a cell's wire; the near end is a switch port with the cell's name."""
HOST_BRIDGE = "br0"
SECOND_BRIDGE = "br1"
"""Joined to HOST_BRIDGE by a wire inside the host: another name for the same segment."""

QUEUE_LATENCY_MS = 50
"""How long a packet may wait at a capped port before it is dropped."""
BURST_SECONDS = 0.004
"""A capped port may send this much at once: one tick of a slow kernel clock."""
SMALLEST_BURST = 64 * 1024
FLOW_LANES = 16
"""How many connections are told apart where each of them is capped."""


@dataclass(frozen=True, slots=True)
class PortBytes:
    """What passed one switch port since it was plugged in. Bytes."""

    received: int
    """From the host or seat into the switch."""
    sent: int
    """From the switch to the host or seat."""


def build_switch(switch: Cell) -> None:
    """Make the bridge everything is plugged into."""
    _ip(switch, f"link add {SWITCH_BRIDGE} type bridge forward_delay 0", f"link set {SWITCH_BRIDGE} up")


def plug(switch: Cell, cell: Cell) -> None:
    """Lay the wire between the switch and a cell, in place of the one of a dead predecessor."""
    unplug(switch, cell.name)
    _ip(
        switch,
        f"link add {cell.name} type veth peer name {UPLINK} netns {cell.pid}",
        f"link set {cell.name} master {SWITCH_BRIDGE} up",
    )


def unplug(switch: Cell, port: str) -> None:
    """Take the wire between the switch and a cell away, if there is one."""
    try:
        _ip(switch, f"link delete {port}")
    except LabError:
        # There is none for a new cell, and a dead one's goes by itself at a moment of the kernel's choice.
        if any(link["ifname"] == port for link in _links(switch)):
            raise


def configure_seat(seat: Cell) -> None:
    """Give a seat its address."""
    address = layout.address(seat.name)
    _ip(
        seat,
        # Its own, so that a seat opened again is found by those who knew the first.
        f"link set {UPLINK} address {_mac(address)} up",
        f"address add {address}/{layout.PREFIX_LENGTH} dev {UPLINK}",
    )


def configure_host(host: Cell) -> None:
    """Make the host's two bridges, the first of them with the uplink and the host's address."""
    address = layout.address(host.name)
    _ip(
        host,
        # A bridge without an address of its own takes its lowest port's, and would change it with every guest.
        f"link add {HOST_BRIDGE} address {_mac(address)} type bridge forward_delay 0",
        f"link add {SECOND_BRIDGE} type bridge forward_delay 0",
        "link add patch0 type veth peer name patch1",
        f"link set {UPLINK} master {HOST_BRIDGE} up",
        f"link set patch0 master {HOST_BRIDGE} up",
        f"link set patch1 master {SECOND_BRIDGE} up",
        f"link set {HOST_BRIDGE} up",
        f"link set {SECOND_BRIDGE} up",
        f"address add {address}/{layout.PREFIX_LENGTH} dev {HOST_BRIDGE}",
    )


def _mac(address: str) -> str:
    return "02:4d:55:44:00:" + format(int(address.rpartition(".")[2]), "02x")


def set_rate(switch: Cell, cell: Cell, rate: int | None) -> None:
    """Cap a wire in each direction. ``rate`` in bytes per second, None for no cap."""
    for where, port in ((switch, cell.name), (cell, UPLINK)):
        where.run_in_network(["tc", "qdisc", "replace", "dev", port, "root", *_discipline(rate)])


def _discipline(rate: int | None) -> list[str]:
    if rate is None:
        return ["noqueue"]
    burst = max(SMALLEST_BURST, round(rate * BURST_SECONDS))
    return ["tbf", "rate", f"{rate * 8}bit", "burst", str(burst), "latency", f"{QUEUE_LATENCY_MS}ms"]


def set_flow_rate(cell: Cell, rate: int | None) -> None:
    """Cap each TCP connection that leaves a cell by itself, in bytes per second, as shapers and bundles of links do;
    None for no cap. In place of ``set_rate``'s cap on what leaves it.

    Connections are told apart by four bits of the port that they come from: two of them may share what one has.
    """
    cell.run_in_network(["tc", "qdisc", "replace", "dev", UPLINK, "root", "noqueue"])
    if rate is None:
        return
    each = f"rate {rate * 8}bit burst {max(SMALLEST_BURST, round(rate * BURST_SECONDS))} quantum {SMALLEST_BURST}"
    lanes = range(FLOW_LANES)
    commands = [f"qdisc replace dev {UPLINK} root handle 1: htb default {FLOW_LANES:x}"]
    commands += [f"class add dev {UPLINK} parent 1: classid 1:{lane or FLOW_LANES:x} htb {each}" for lane in lanes]
    commands += [
        # Ports that connections come from are even, as a rule.
        f"filter add dev {UPLINK} parent 1: protocol ip prio 1 u32 match ip protocol 6 0xff "
        f"match ip sport {lane * 2} {(FLOW_LANES - 1) * 2:#x} flowid 1:{lane or FLOW_LANES:x}"
        for lane in lanes
    ]
    cell.run_in_network(["tc", "-batch", "-"], stdin="".join(f"{command}\n" for command in commands))


def set_link(switch: Cell, cell_name: str, *, up: bool) -> None:
    """Pull a wire out of the switch, or plug it back in."""
    _ip(switch, f"link set {cell_name} {'up' if up else 'down'}")


def set_patch(host: Cell, *, up: bool) -> None:
    """Part a host's two bridges, or join them again: the second one's port has no carrier meanwhile."""
    _ip(host, f"link set patch0 {'up' if up else 'down'}")


def set_isolated(switch: Cell, cell_name: str, *, isolated: bool) -> None:
    """Have the switch pass nothing between this port and any other one that is isolated too."""
    _ip(switch, f"link set {cell_name} type bridge_slave isolated {'on' if isolated else 'off'}")


def links_up(switch: Cell) -> frozenset[str]:
    """Return whose wire is plugged in and has somebody at its other end."""
    return frozenset(link["ifname"] for link in _links(switch) if link["operstate"] == "UP")


def port_bytes(switch: Cell) -> dict[str, PortBytes]:
    """Return the byte counters of every port, by the name of what hangs on it."""
    return {
        link["ifname"]: PortBytes(link["stats64"]["rx"]["bytes"], link["stats64"]["tx"]["bytes"])
        for link in _links(switch)
        if link.get("master") == SWITCH_BRIDGE
    }


def _links(cell: Cell) -> list[dict[str, Any]]:
    links: list[dict[str, Any]] = json.loads(cell.run_in_network(["ip", "-json", "-statistics", "link", "show"]))
    return links


def _ip(cell: Cell, *commands: str) -> None:
    cell.run_in_network(["ip", "-batch", "-"], stdin="".join(f"{command}\n" for command in commands))
