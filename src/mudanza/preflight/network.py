"""Will the VM's network cards hang on the same wires?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mudanza.model.finding import Finding
from mudanza.model.host import Network
from mudanza.model.vm import Nic
from mudanza.preflight.case import Case, blocks_live
from mudanza.preflight.mapping import NicPlan
from mudanza.preflight.wording import blocker, listed, mudanza, start_driver, virsh, vm_key, warning

_ONE_WIRE = frozenset({"bridge", "passthrough", "private", "vepa", "hostdev"})
"""Forward modes by which guests of two hosts are on one network; with any other each host has a network of its own."""
_HARMLESS = frozenset({"mcast", "null"})
_WITHOUT_MEMORY = ("clean-traffic", "no-", "allow-", "qemu-announce-self")
"""How the names of the filters begin that libvirt comes with: none of them looks at connections."""


def cards(case: Case) -> Iterator[Finding]:
    """Each card by its kind."""
    for nic, plan in zip(case.vm.nics, case.plan.nics, strict=True):
        if nic.kind == "network":
            yield from _libvirt_network(case, nic, plan)
            if _hands_devices_through(case, nic):
                yield _of_another_kind(case, replace(nic, kind="hostdev"))
        elif nic.kind == "bridge":
            yield from _bridge(case, nic, plan)
        elif nic.kind == "direct":
            yield from _macvtap(case, nic, plan)
        elif nic.kind not in _HARMLESS:
            yield _of_another_kind(case, nic)


def _hands_devices_through(case: Case, nic: Nic) -> bool:
    """Whether its network gives each card a device of the host (SR-IOV) instead of a place on a bridge."""
    network = case.source.network(nic.source or "")
    return network is not None and network.forward == "hostdev"


def _subject(nic: Nic) -> str:
    return f"network card {nic.mac}"


def _libvirt_network(case: Case, nic: Nic, plan: NicPlan) -> Iterator[Finding]:
    target = case.target
    if target.networks is None:
        yield warning(
            "networks-unknown",
            _subject(nic),
            f"it hangs on network {plan.target}, and {target.name} could not be asked for its networks",
            start_driver(target, "network"),
        )
        return
    network = target.network(plan.target or "")
    if network is None:
        yield blocker(
            "network-missing",
            _subject(nic),
            f"{target.name} has no network {plan.target} (it has: {listed(n.name for n in target.networks)})",
            f"map it: --map-network {plan.source}=NETWORK; or define it: "
            f"{virsh(case.source, 'net-dumpxml', '--network', plan.source or '')} > FILE; "
            + virsh(target, "net-define", "FILE"),
        )
        return
    if not network.active:
        yield blocker(
            "network-inactive",
            _subject(nic),
            f"network {network.name} of {target.name} is inactive",
            virsh(target, "net-start", "--network", network.name),
        )
    yield from _network_traits(case, nic, network)


def _network_traits(case: Case, nic: Nic, network: Network) -> Iterator[Finding]:
    if nic.portgroup is not None and nic.portgroup not in network.portgroups:
        yield warning(
            "portgroup-missing",
            _subject(nic),
            f"network {network.name} of {case.target.name} has no port group {nic.portgroup} "
            f"(it has: {listed(network.portgroups)}): VLAN and bandwidth may differ",
            f"add it: {virsh(case.target, 'net-edit', '--network', network.name)}",
        )
    if case.live and network.forward not in _ONE_WIRE:
        yield warning(
            "network-host-only",
            _subject(nic),
            f"network {network.name} is {network.forward or 'isolated'}: each host has one of its own, so the guest's "
            "connections break and its address may be unknown there",
            "put the card on a bridge that reaches both hosts: virsh attach-interface --type bridge, or --map-network",
        )


def _bridge(case: Case, nic: Nic, plan: NicPlan) -> Iterator[Finding]:
    target = case.target
    if target.interfaces is None:
        yield warning(
            "interfaces-unknown",
            _subject(nic),
            f"it hangs on bridge {plan.target}, and {target.name} could not be asked for its bridges",
            start_driver(target, "interface"),
        )
    elif plan.target not in target.interfaces:
        yield blocker(
            "bridge-missing",
            _subject(nic),
            f"{target.name} has no bridge {plan.target} (it has: {listed(target.interfaces)})",
            f"map it: --map-network {plan.source}=BRIDGE; or make it, on {target.name}: "
            f"ip link add name {plan.target} type bridge (for good: in its network configuration)",
        )


def _macvtap(case: Case, nic: Nic, plan: NicPlan) -> Iterator[Finding]:
    target = case.target
    if target.interfaces is None:
        yield warning(
            "interfaces-unknown",
            _subject(nic),
            f"it hangs on device {plan.target}, and {target.name} could not be asked for its devices",
            start_driver(target, "interface"),
        )
    elif plan.target not in target.interfaces:
        yield blocker(
            "device-missing",
            _subject(nic),
            f"{target.name} has no network device {plan.target} (it has: {listed(target.interfaces)})",
            f"map it: --map-network {plan.source}=DEVICE",
        )
    if nic.mode == "passthrough":
        yield warning(
            "macvtap-exclusive",
            _subject(nic),
            f"it takes device {plan.target} of {target.name} for itself alone (macvtap in passthrough mode)",
            f"make sure that neither {target.name} nor another guest uses it: on {target.name}, ip -d link",
        )
    elif case.live:
        yield warning(
            "macvtap",
            _subject(nic),
            "it is a macvtap: before and after the move the guest cannot talk to its own host, and switches learn "
            "its new place only when it sends",
            "prefer a bridge; else check that it answers afterwards: ping the guest from another machine",
        )


def _of_another_kind(case: Case, nic: Nic) -> Finding:
    """One sentence for each of the kinds that are no network, bridge or macvtap."""
    key = vm_key(case.vm)
    detach = virsh(case.source, "detach-interface", "--domain", key, "--type", nic.kind, "--mac", nic.mac, "--live")
    if nic.kind == "user":
        return warning(
            "user-network",
            _subject(nic),
            "user-mode networking lives inside QEMU: every connection of the guest breaks",
            "use a bridge or a network: virsh attach-interface",
        )
    if nic.kind == "hostdev" and nic.teaming == "transient":
        return warning(
            "failover-card",
            _subject(nic),
            "it is passed through and half of a failover pair: QEMU unplugs it and plugs in one of the target's",
            f"make sure that {case.target.name} has a free virtual function for it",
        )
    if nic.kind in ("hostdev", "vdpa"):
        return blocks_live(
            case,
            "passthrough-card",
            _subject(nic),
            f"it is a device of the host handed to the guest ({nic.kind}), and cannot be moved with it",
            f"detach it first: {detach}; or pair it with a virtio card (<teaming>)",
        )
    if nic.kind == "vhostuser":
        return warning(
            "vhost-user-card",
            _subject(nic),
            f"it talks to a switch in user space through {nic.source or 'a socket'}, which has to exist at "
            f"{case.target.name}",
            f"create the port there first (ovs-vsctl add-port), or detach the card: {detach}",
        )
    return warning(
        "card-unproven",
        _subject(nic),
        f"it is of type {nic.kind}, set up by the host's own means; whether {case.target.name} does so is unknown",
        f"set it up there first, or detach it: {detach}",
    )


def switches(case: Case) -> Iterator[Finding]:
    """What libvirt cannot tell of a switch has to be said."""
    for nic in case.vm.nics:
        if nic.virtualport == "openvswitch" and nic.kind == "bridge":
            yield warning(
                "openvswitch",
                _subject(nic),
                f"it needs an Open vSwitch bridge, and libvirt cannot tell whether that of {case.target.name} is one",
                f"on {case.target.name}: ovs-vsctl br-exists BRIDGE",
            )
        tags = ", ".join(map(str, nic.vlans))
        if tags:
            yield warning(
                "vlan",
                _subject(nic),
                f"it is tagged with VLAN {tags}, and the uplink of {case.target.name} has to carry that",
                f"look at the switch port of {case.target.name}, and at bridge vlan show or ovs-vsctl show there",
            )


def packet_filters(case: Case) -> Iterator[Finding]:
    """libvirt's network filters are named in the definition and kept on the host."""
    wanted = sorted({nic.nwfilter for nic in case.vm.nics if nic.nwfilter is not None})
    known = case.target.nwfilters
    if wanted and known is None:
        yield warning(
            "nwfilters-unknown",
            f"host {case.target.name}",
            f"the VM uses network filters ({listed(wanted)}), and {case.target.name} could not be asked for its own",
            start_driver(case.target, "nwfilter"),
        )
    for name in wanted:
        if known is not None and name not in known:
            yield blocker(
                "nwfilter-missing",
                f"network filter {name}",
                f"{case.target.name} has no network filter {name}",
                f"{virsh(case.source, 'nwfilter-dumpxml', name)} > FILE; "
                + virsh(case.target, "nwfilter-define", "FILE"),
            )


def tracked_connections(case: Case) -> Iterator[Finding]:
    """A host remembers which connections it has let through, and nothing carries that over."""
    for nic in case.vm.nics:
        if case.live and nic.nwfilter is not None and not nic.nwfilter.startswith(_WITHOUT_MEMORY):
            yield warning(
                "connections-untracked",
                _subject(nic),
                f"network filter {nic.nwfilter} may let through what belongs to a connection it has seen begin: "
                f"{case.target.name} has seen none of them (conntrack is not carried), so open ones may break",
                f"if they do: let {nic.nwfilter} pass packets of connections by their addresses and ports as well",
            )


def duplicate_macs(case: Case) -> Iterator[Finding]:
    """Two cards of one address on one wire lose each other's packets."""
    for nic in case.vm.nics:
        twins = [vm for vm in case.neighbours if any(other.mac.lower() == nic.mac.lower() for other in vm.nics)]
        if twins:
            yield warning(
                "mac-duplicate",
                _subject(nic),
                f"{listed(vm.name for vm in twins)} on {case.target.name} has a card of the same address",
                f"give one of them another address (virsh edit); see {mudanza('show', vm_key(twins[0]))}",
            )
