"""Hosts that live and whose guests have lost their network: what libvirt tells, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.availability.uplinks import Decision, Lines, State, Terms, cut_off, decide, refuges, wanted_on
from mudanza.hypervisor.xml.uplinks import uplinks_of
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.uplinks import UplinkLosses
from mudanza.model.vm import VmState
from tests import factories as make

EVERY = 15.0
Seen = Mapping[str, Mapping[str, bool] | None]


def bridge(name: str, *ports: tuple[str, str, str]) -> str:
    inner = "".join(
        f"<interface type='{kind}' name='{port}'><link state='{link}'/></interface>" for port, kind, link in ports
    )
    return f"<interface type='bridge' name='{name}'><bridge stp='off'>{inner}</bridge></interface>"


def device(name: str, link: str, path: str = "pci0000:00/0000:00:02.0") -> str:
    parent = "computer" if "virtual" in path else "pci_0000_00_02_0"
    return (
        f"<device><path>/sys/devices/{path}/net/{name}</path><parent>{parent}</parent>"
        f"<capability type='net'><interface>{name}</interface><link speed='1000' state='{link}'/></capability></device>"
    )


@pytest.mark.parametrize(
    ("interfaces", "devices", "named", "expected"),
    [
        ([bridge("br0", ("eth0", "ethernet", "up"))], [device("eth0", "up")], (), {"br0": True, "eth0": True}),
        ([bridge("br0", ("eth0", "ethernet", "down"))], [device("eth0", "down")], (), {"br0": False, "eth0": False}),
        (
            [bridge("br0", ("eth0", "ethernet", "down"), ("eth1", "ethernet", "up"))],
            [device("eth0", "down"), device("eth1", "up")],
            (),
            {"br0": True, "eth0": False, "eth1": True},
        ),
        ([bridge("virbr0", ("veth1", "ethernet", "down"))], [device("veth1", "down", "virtual")], (), {}),
        (
            [bridge("br1", ("patch1", "ethernet", "lowerlayerdown"))],
            [device("patch1", "lowerlayerdown", "virtual")],
            ("patch1",),
            {"br1": False},
        ),
        ([bridge("br0", ("bond0", "bond", "down"))], [device("bond0", "down", "virtual")], (), {"br0": False}),
        ([bridge("br0", ("eth0.7", "vlan", "lowerlayerdown"))], [], (), {"br0": False}),
        (
            [bridge("br0", ("eth0", "ethernet", "unknown"))],
            [device("eth0", "unknown")],
            (),
            {"br0": True, "eth0": True},
        ),
        (["<interface type='bond' name='bond0'><link state='down'/></interface>"], [], (), {"bond0": False}),
        (["<interface type='ethernet' name='lo'/>", bridge("br2")], [device("lo", "unknown", "virtual")], (), {}),
    ],
)
def test_uplinks_are_read_off_what_libvirt_tells(
    interfaces: list[str], devices: list[str], named: tuple[str, ...], expected: dict[str, bool]
) -> None:
    assert uplinks_of(interfaces, devices, named, "h1") == expected


def play(*rounds: Seen, lines: Lines | None = None) -> Decision:
    decision = None
    for number, seen in enumerate(rounds):
        decision = decide(lines or {}, seen, number * EVERY, Terms(confirm=30.0))
        lines = decision.lines
    assert decision is not None
    return decision


def net(**carries: bool | None) -> Seen:
    return {host: None if each is None else {"br0": each} for host, each in carries.items()}


WELL = net(h1=True, h2=True, h3=True)
DOWN = net(h1=False, h2=True, h3=True)


def test_an_uplink_is_lost_once_it_has_carried_nothing_for_long_enough() -> None:
    assert play(WELL, DOWN).lost == {}
    assert play(WELL, DOWN).told == ("the uplink of br0 on h1 carries nothing; lost in 30.0 s if that lasts",)
    assert play(WELL, DOWN, DOWN).lost == {}
    assert play(WELL, DOWN, DOWN, DOWN).lost == {"h1": ("br0",)}
    assert play(WELL, DOWN, WELL, DOWN, DOWN).lost == {}, "it counts anew"
    assert play(DOWN, DOWN, DOWN).lost == {"h1": ("br0",)}, "also where it was never seen well"


def test_it_is_well_again_once_it_has_carried_for_as_long() -> None:
    lost = (WELL, DOWN, DOWN, DOWN)
    assert not play(*lost, WELL, WELL).is_well("h1")
    assert play(*lost, WELL, WELL, WELL).is_well("h1")
    assert play(*lost, WELL, DOWN).lost == {"h1": ("br0",)}, "one that flaps is lost still"
    assert not play(*lost, WELL, DOWN, WELL, WELL).is_well("h1")


def test_who_could_not_be_asked_is_neither_lost_nor_well() -> None:
    unseen = net(h1=None, h2=True, h3=True)
    assert play(WELL, unseen, unseen, unseen, unseen).lost == {}
    assert play(WELL, DOWN, unseen, DOWN, DOWN).lost == {}, "what was not seen does not count"
    assert play(WELL, DOWN, unseen, DOWN, DOWN, DOWN).lost == {"h1": ("br0",)}
    assert not play(WELL, unseen).is_well("h1")
    assert not play(WELL, unseen).carries("h1", "br0")
    assert play(WELL, DOWN, DOWN, DOWN, unseen).lost == {"h1": ("br0",)}
    without = {"h1": {"br1": True}, "h2": {"br0": True}, "h3": {"br0": True}}
    assert play(WELL, DOWN, DOWN, DOWN, without, without).lost == {"h1": ("br0",)}, "it is not told of any more"
    assert not play(WELL, DOWN, DOWN, DOWN, without, without, without).is_well("h1")
    assert not play(WELL, DOWN, DOWN, DOWN, WELL, unseen, WELL).is_well("h1")


def test_where_most_hosts_lose_it_at_once_nobody_gains() -> None:
    both = net(h1=False, h2=False, h3=True)
    decision = play(WELL, both, both, both)
    assert decision.worth_leaving("h1") == ()
    assert decision.told[0].startswith("2 of 3 hosts have lost the uplink of br0 at once")
    assert play(net(h1=True, h2=True), *[net(h1=False, h2=True)] * 3).worth_leaving("h1") == ("br0",), "one of two may"
    assert play(net(h1=True), *[net(h1=False)] * 3).worth_leaving("h1") == (), "there is nowhere to go"


looks = st.fixed_dictionaries({f"h{n}": st.sampled_from([True, False, None]) for n in range(1, 5)})


@given(st.lists(looks, max_size=12))
def test_nobody_leaves_a_host_whose_uplink_was_not_seen_down_for_long_enough(
    rounds: list[dict[str, bool | None]],
) -> None:
    lines: Lines = {}
    for number, carries in enumerate(rounds):
        decision = decide(lines, net(**carries), number * EVERY, Terms(confirm=30.0))
        lines = decision.lines
        for host in decision.lost:
            # By the last three looks in which it was seen, it carried nothing, or had been lost before.
            assert carries[host] is not True
            seen = [each[host] for each in rounds[: number + 1] if each[host] is not None]
            assert [False, False] in [seen[n : n + 2] for n in range(len(seen) - 1)]
            if decision.worth_leaving(host):
                gone = [line for line in lines.values() if line.state in (State.DOWN, State.LOST)]
                assert len(gone) <= 0.5 * len(lines)


HOSTS = [make.host(name) for name in ("h1", "h2", "h3")]


def test_who_is_cut_off_and_who_could_take_them() -> None:
    on_bridge = make.vm(name="a", uuid="u-a")
    on_network = make.vm(name="b", uuid="u-b", nics=(make.nic(kind="network", source="lan"),))
    elsewhere = make.vm(name="c", uuid="u-c", nics=(make.nic(source="br9"),))
    off = make.vm(name="d", uuid="u-d", state=VmState.SHUTOFF)
    cluster = make.cluster(HOSTS, [on_bridge, on_network, elsewhere, off])
    vms = cut_off(cluster, "h1", ["br0"])
    assert [vm.name for vm in vms] == ["a", "b"]
    decision = play(WELL, *[net(h1=False, h2=True, h3=True)] * 3)
    assert refuges(cluster, vms, ["br0"], decision) == {"h2", "h3"}
    half = play(WELL, net(h1=False, h2=True, h3=False))
    assert refuges(cluster, vms, ["br0"], half) == {"h2"}
    assert refuges(cluster, vms, ["br0"], play(net(h1=False, h2=None, h3=True))) == {"h3"}, "not known is not well"
    assert wanted_on(cluster, HOSTS[0]) == {"br0", "br9"}
    assert wanted_on(make.cluster(HOSTS, [off]), HOSTS[0]) == frozenset(), "it needs no network"
    closed = make.cluster([HOSTS[0], make.host("h2", entry=make.entry("h2", maintenance=True)), HOSTS[2]], cluster.vms)
    assert refuges(closed, vms, ["br0"], decision) == {"h3"}


def test_a_host_is_closed_for_its_uplink_and_opened_again_and_a_persons_wish_counts(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "m.db"))
    inventory, losses = Inventory(engine), UplinkLosses(engine)
    inventory.put_hosts([make.entry("h1"), make.entry("h2", maintenance=True)])

    def closed() -> list[str]:
        return [entry.name for entry in inventory.hosts() if entry.maintenance]

    assert losses.begin("h1", ["br0"], close=True)
    assert closed() == ["h1", "h2"]
    assert losses.end("h1")
    assert closed() == ["h2"]
    assert not losses.begin("h2", ["br0"], close=True), "it was closed before"
    assert not losses.end("h2")
    assert closed() == ["h2"]
    losses.begin("h1", ["br0"], close=True)
    inventory.set_maintenance("h1", on=False)
    assert not losses.begin("h1", ["br0", "br1"], close=True), "a person has opened it"
    assert losses.all()["h1"].networks == ("br0", "br1")
    assert not losses.end("h1")
    losses.begin("h1", ["br0"], close=False)
    assert losses.begin("h1", ["br0"], close=True), "it was only told before"
    inventory.set_maintenance("h1", on=True)
    assert not losses.end("h1"), "by now a person wants it closed"
    assert closed() == ["h1", "h2"]
    losses.begin("h1", ["br0"], close=True)
    inventory.remove_host("h1")
    assert losses.all() == {}
