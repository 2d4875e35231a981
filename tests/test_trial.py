"""Test failover: what the double is like, what keeps points from being thinned, and what counts as changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree
from typer.testing import CliRunner

from mudanza.cli.main import app
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.database import open_database
from mudanza.journal.protections import Protections
from mudanza.model.automation import Automation
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.host import Host, HostEntry, Network
from mudanza.model.protection import Protection, Trial
from mudanza.model.vm import VmState
from mudanza.protection.cut_off import NAMESPACE, double_of
from mudanza.protection.evidence import GONE, NOBODY, compared, in_production
from mudanza.protection.trial import refuse_shared
from tests.test_protection import VALUES, point

NAME, UUID = "db-test-2", "11111111-2222-3333-4444-555555555555"
DEFINITION = """<domain type='kvm' id='7'><name>db</name><uuid>6c1d0f1e-6a4b-4a8f-9c55-0a5cbb1a5e01</uuid>
<metadata><x:claim xmlns:x='https://mudanza.dev/xmlns/claim/1/j' job='1'/></metadata>
<os><type>hvm</type><nvram template='/t'>/var/lib/libvirt/qemu/nvram/db_VARS.fd</nvram></os>
<sysinfo type='smbios'><system><entry name='uuid'>6c1d0f1e-6a4b-4a8f-9c55-0a5cbb1a5e01</entry></system></sysinfo>
<devices>
<disk type='file' device='disk'><source file='/replica/test/vda.qcow2'/><target dev='vda'/></disk>
<interface type='bridge' trustGuestRxFilters='yes'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>
 <virtualport type='openvswitch'/><vlan><tag id='5'/></vlan><filterref filter='clean'/><target dev='vnet0'/>
 <model type='virtio'/><address type='pci' slot='0x03'/></interface>
<interface type='user'><mac address='52:54:00:00:00:02'/><model type='e1000'/></interface>
<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:03'/><source><address type='pci'/></source>
</interface>
<hostdev mode='subsystem' type='pci' managed='yes'/><filesystem type='mount'><source dir='/srv'/></filesystem>
<serial type='tcp'><source mode='connect' host='10.0.0.1' service='99'/><protocol type='raw'/><log file='/var/log/x'/>
 <target port='0'/></serial><console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/></console>
<channel type='unix'><source mode='bind' path='/run/agent'/><target type='virtio' name='org.qemu.guest_agent.0'/>
</channel><channel type='tcp'><source mode='connect' host='10.0.0.1' service='98'/></channel>
<rng model='virtio'><backend model='egd' type='tcp'/></rng>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<graphics type='vnc' port='5900' autoport='no' websocket='5700'><listen type='socket' socket='/run/vnc'/></graphics>
</devices></domain>"""


def double() -> etree._Element:
    text = double_of(DEFINITION, name=NAME, uuid=UUID, directory="/replica/test", about=("6c1d", 2))
    return etree.fromstring(text)


def test_a_double_has_a_name_and_variables_of_its_own_and_the_images_it_was_given() -> None:
    found = double()
    assert (found.findtext("name"), found.findtext("uuid"), found.get("id")) == (NAME, UUID, None)
    assert found.findtext("sysinfo/system/entry") == UUID, "libvirt refuses another one"
    assert found.findtext("os/nvram") == "/replica/test/variables.fd"
    assert found.xpath("string(os/nvram/@template)") == "/t"
    assert found.xpath("string(devices/disk/source/@file)") == "/replica/test/vda.qcow2"


def test_a_double_says_what_it_is_and_that_balance_leaves_it_alone() -> None:
    found = double()
    [about] = found.iterfind(f"metadata/{{{NAMESPACE}}}double")
    assert (about.get("of"), about.get("point")) == ("6c1d", "2")
    assert not found.xpath("//*[local-name()='claim']")
    vm = parse_vm(etree.tostring(found, encoding="unicode"), host="h2", state=VmState.RUNNING)
    assert vm.wishes is not None
    assert vm.wishes.balance is Automation.NEVER


def test_nothing_of_a_double_leads_out() -> None:
    devices = double().find("devices")
    assert devices is not None
    cards = devices.findall("interface")
    assert [card.items() for card in cards] == [[("type", "ethernet")]] * 3
    assert {child.tag for card in cards for child in card} == {"mac", "model", "address"}
    addresses = {mac.get("address", "") for mac in devices.iterfind("interface/mac")}
    assert len(addresses) == 3
    assert not any(address in DEFINITION for address in addresses)
    assert all(address.startswith("52:54:00:") for address in addresses)
    assert [device.tag for device in devices if device.tag in ("hostdev", "filesystem")] == []
    assert [line.get("type") for line in devices.findall("serial") + devices.findall("console")] == ["pty", "pty"]
    assert [channel.xpath("string(target/@name)") for channel in devices.findall("channel")] == [
        "org.qemu.guest_agent.0"
    ]
    assert [rng.xpath("string(backend/@model)") for rng in devices.findall("rng")] == ["random"]
    left = etree.tostring(devices, encoding="unicode")
    for way in ("10.0.0.1", "br0", "/run/", "/srv", "vnet0", "5900", "5700", "/var/log", "openvswitch"):
        assert way not in left, way


def test_a_card_hangs_on_an_isolated_network_if_one_is_named_for_it() -> None:
    text = double_of(DEFINITION, name=NAME, uuid=UUID, directory="/r", about=("6c1d", 2), networks={"br0": "apart"})
    cards = etree.fromstring(text).findall("devices/interface")
    assert [card.get("type") for card in cards] == ["network", "ethernet", "ethernet"]
    assert [child.tag for child in cards[0]] == ["mac", "source", "model", "address"]
    assert cards[0].xpath("string(source/@network)") == "apart"
    assert "br0" not in text


def test_a_network_that_somebody_else_is_on_or_that_leads_out_is_refused() -> None:
    networks = (Network("apart", active=True, forward=None, bridge="a0"), Network("lan", True, "nat", "l0"))
    host = Host(HostEntry("h2", "qemu+ssh://root@h2/system"), networks=(*networks, Network("off", False, None, "o0")))
    card = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='apart'/></interface>"
    definition = f"<domain type='kvm'><name>x</name><uuid>u-x</uuid><devices>{card}</devices></domain>"
    there = Cluster((host,), (parse_vm(definition, host="h2", state=VmState.RUNNING),))
    refuse_shared(["apart"], Cluster((host,), ()), "h2", ())
    refuse_shared(["apart"], there, "h2", {"u-x"})
    for name, cluster, said in (
        ("apart", there, "has VMs on it that are no doubles: x"),
        ("lan", there, r"leads out of it \(nat\)"),
        ("off", there, "no active network"),
        ("none", there, "no active network"),
    ):
        with pytest.raises(BlockedError, match=said):
            refuse_shared([name], cluster, "h2", ())


def test_what_has_options_of_its_own_for_qemu_is_not_tried() -> None:
    qemu = (
        "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-netdev'/></q:commandline>"
    )
    with pytest.raises(BlockedError, match="may lead anywhere"):
        double_of(DEFINITION.replace("</domain>", f"{qemu}</domain>"), name="x", uuid="y", directory="/", about=("", 1))


@pytest.fixture
def store(database: str) -> Protections:
    return Protections(open_database(database))


def test_no_point_is_given_up_while_a_double_stands_on_one(store: Protections) -> None:
    made = with_points(store, 1, 2, 3)
    trial = Trial(2, UUID, NAME, "h2", 0.0)
    store.begin_trial(made.id, trial)
    assert store.give_up(made.id, 1) is False
    assert [each.number for each in store.of("db").points] == [1, 2, 3]
    store.tell_before_trial(made.id, {"image a": "7 bytes"})
    store.tell_trial(made.id, started=1.5)
    found = store.of("db").trial
    assert found is not None
    assert found.begun_at > 0
    expected = replace(trial, begun_at=found.begun_at, before={"image a": "7 bytes"}, times={"started": 1.5})
    assert found == expected
    with pytest.raises(BlockedError, match="up already"):
        store.begin_trial(made.id, replace(trial, point=3))
    store.end_trial(made.id)
    assert store.give_up(made.id, 1) is True
    assert store.of("db").trial is None


@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_double_stands_on_no_point_that_is_being_thinned_or_is_not_there(store: Protections, number: int) -> None:
    made = with_points(store, 1, 2)
    if number < 3:
        assert store.give_up(made.id, 1) is True
    with pytest.raises(BlockedError, match="cannot be stood upon"):
        store.begin_trial(made.id, Trial(number, UUID, NAME, "h2", 0.0))
    assert store.of("db").trial is None


def with_points(store: Protections, *numbers: int) -> Protection:
    made = store.make(VALUES)
    for number in numbers:
        store.add_point(made.id, point(number, whole=number == 1), f"c-{number}")
    return made


def test_what_was_there_before_is_compared_and_what_has_come_is_not() -> None:
    before = {"image a": "7 bytes", "image b": "8 bytes"}
    assert [each.same for each in compared(before, {**before, "image c": "new"})] == [True, True]
    found = compared(before, {"image a": "7 bytes, other"})
    assert [(each.what, each.after, each.same) for each in found] == [
        ("image a", "7 bytes, other", False),
        ("image b", GONE, False),
    ]


def test_a_restart_in_production_is_seen_and_a_claim_or_the_balloon_is_not(store: Protections) -> None:
    made = store.make(VALUES)
    running = DEFINITION.replace("<os>", "<currentMemory>1024</currentMemory><os>")

    def seen(xml: str, *, state: VmState = VmState.RUNNING) -> str:
        return in_production(made, Cluster((), (parse_vm(xml, host="h1", state=state),)))

    assert seen(running) == seen(running.replace("1024", "2048"))
    assert seen(running) == seen(running.replace("job='1'", "job='2'"))
    assert seen(running) != seen(running.replace("id='7'", "id='8'"))
    assert seen(running) != seen(running, state=VmState.SHUTOFF)
    assert in_production(made, Cluster((), ())) == NOBODY


def test_a_word_that_is_no_command_of_the_verb_is_a_vm(tmp_path: Path) -> None:
    config = tmp_path / "mudanza.toml"
    config.write_text(f'database = "{tmp_path}/mudanza.db"\n')
    for words in (("test-failover", "db", "--point", "3"), ("test-failover", "end", "db")):
        result = CliRunner().invoke(app, ["--config", str(config), *words])
        assert "is not protected" in str(result.exception) or "no host" in str(result.exception), words
    assert CliRunner().invoke(app, ["test-failover"]).exit_code == 2
