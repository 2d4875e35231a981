"""Capabilities, domain capabilities, pools, volumes, networks and snapshots: their XML and what is read from it."""

from __future__ import annotations

import pytest

from mudanza.hypervisor.xml.capabilities import (
    free_of,
    parse_cpu_models,
    with_capabilities,
    with_domain_capabilities,
)
from mudanza.hypervisor.xml.resources import Volume, parse_network, parse_pool, parse_snapshot, parse_volume
from mudanza.model.errors import HypervisorError
from mudanza.model.host import Host, HostEntry, HugePages, Network, NumaNode, Pool
from mudanza.model.units import GIB, KIB, MIB
from mudanza.model.vm import Backing, Snapshot

BARE = Host(HostEntry("h1", "qemu:///system"))

CAPABILITIES = """<capabilities><host><uuid>0cc175b9-c0f1-b6a8-31c3-99e269772661</uuid>
  <cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor><feature name='ht'/><feature name='invtsc'/></cpu>
  <migration_features><live/><uri_transports><uri_transport>tcp</uri_transport>
  <uri_transport>rdma</uri_transport></uri_transports></migration_features>
  <topology><cells num='2'>
    <cell id='0'><memory unit='KiB'>4194304</memory><pages unit='KiB' size='4'>1000</pages>
    <pages unit='KiB' size='2048'>10</pages>
      <pages unit='KiB' size='1048576'>1</pages><cpus num='2'><cpu id='0'/><cpu id='1'/></cpus></cell>
    <cell id='1'><memory unit='KiB'>4194304</memory><pages unit='KiB' size='2048'>5</pages>
    <pages unit='KiB' size='4'>1000</pages>
      <cpus num='1'><cpu id='2'/></cpus></cell>
  </cells></topology>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+109</baselabel>
  <baselabel type='qemu'>+64055:+109</baselabel></secmodel>
</host>
<guest><os_type>hvm</os_type><arch name='i686'><machine>isapc</machine><domain type='qemu'/></arch></guest>
<guest><os_type>hvm</os_type><arch name='x86_64'><emulator>/usr/bin/qemu-system-x86_64</emulator>
  <machine maxCpus='255'>pc-i440fx-7.2</machine><machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine>
  <domain type='qemu'/><domain type='kvm'><machine>pc-q35-7.2</machine></domain></arch></guest>
</capabilities>"""

DOMAIN_CAPABILITIES = """<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>kvm</domain>
  <arch>x86_64</arch>
  <os supported='yes'><enum name='firmware'><value>efi</value></enum><loader supported='yes'>
    <value>/usr/share/OVMF/OVMF_CODE_4M.fd</value><enum name='type'><value>rom</value></enum></loader></os>
  <cpu><mode name='host-passthrough' supported='yes'/><mode name='maximum' supported='no'/>
    <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model></mode>
    <mode name='custom' supported='yes'><model usable='yes'>qemu64</model><model usable='unknown'>max</model>
    <model usable='no'>Snowridge</model></mode></cpu>
  <devices><tpm supported='yes'><enum name='model'><value>tpm-tis</value></enum>
    <enum name='backendModel'><value>passthrough</value><value>emulator</value></enum></tpm></devices>
</domainCapabilities>"""


def test_capabilities() -> None:
    host = with_capabilities(BARE, CAPABILITIES)
    assert host.host_uuid == "0cc175b9-c0f1-b6a8-31c3-99e269772661"
    assert (host.arch, host.cpu_model, host.cpu_vendor) == ("x86_64", "EPYC", "AMD")
    assert host.cpu_features == {"ht", "invtsc"}
    assert host.cpu_xml.startswith("<cpu>")
    assert host.migration_transports == {"tcp", "rdma"}
    assert host.memory_total == 8 * GIB
    assert host.cpu_count_by_node == (2, 1)
    assert host.security_models == {"apparmor", "dac"}
    assert host.qemu_owner == (64055, 109)


def test_machines_and_their_aliases_of_the_hosts_own_kind_only() -> None:
    host = with_capabilities(BARE, CAPABILITIES)
    assert host.machines == {"pc-i440fx-7.2", "pc", "pc-q35-7.2"}
    assert host.domain_types == {"qemu", "kvm"}


def test_hugepages_of_all_nodes_together_without_ordinary_pages() -> None:
    host = with_capabilities(BARE, CAPABILITIES)
    assert host.hugepages == (HugePages(2 * MIB, 15, 0), HugePages(GIB, 1, 0))
    assert host.nodes == (
        NumaNode(0, 4 * GIB, 0, (HugePages(2 * MIB, 10, 0), HugePages(GIB, 1, 0))),
        NumaNode(1, 4 * GIB, 0, (HugePages(2 * MIB, 5, 0),)),
    )
    assert free_of(host, {2 * MIB: 7}).hugepages == (HugePages(2 * MIB, 15, 7), HugePages(GIB, 1, 0))


@pytest.mark.parametrize("label", ["libvirt-qemu:kvm", "", "+12"])
def test_an_owner_that_is_no_pair_of_numbers_is_not_known(label: str) -> None:
    xml = CAPABILITIES.replace("+64055:+109", label)
    assert with_capabilities(BARE, xml).qemu_owner is None


def test_a_security_driver_that_is_off_is_none() -> None:
    assert with_capabilities(BARE, CAPABILITIES.replace("apparmor", "none")).security_models == {"dac"}


def test_domain_capabilities() -> None:
    host = with_domain_capabilities(BARE, DOMAIN_CAPABILITIES)
    assert host.firmware_loaders == {"/usr/share/OVMF/OVMF_CODE_4M.fd"}
    assert host.tpm_backends == {"passthrough", "emulator"}


def test_a_tpm_that_is_not_supported_has_no_backends() -> None:
    without = DOMAIN_CAPABILITIES.replace("<tpm supported='yes'>", "<tpm supported='no'>")
    assert with_domain_capabilities(BARE, without).tpm_backends == frozenset()


def test_cpu_models() -> None:
    models = parse_cpu_models(DOMAIN_CAPABILITIES, "h1")
    assert models.usable == {"qemu64", "max"}
    assert models.unusable == {"Snowridge"}


def test_a_pool() -> None:
    xml = """<pool type='dir'><name>default</name><capacity unit='bytes'>1000</capacity>
    <allocation unit='bytes'>400</allocation>
      <available unit='bytes'>600</available><target><path>/var/lib/libvirt/images</path></target></pool>"""
    assert parse_pool(xml, "h1", active=True) == Pool("default", "dir", "/var/lib/libvirt/images", True, 1000, 600)


def test_a_pool_without_a_path() -> None:
    pool = parse_pool("<pool type='rbd'><name>ceph</name><source><name>p</name></source></pool>", "h1", active=False)
    assert pool == Pool("ceph", "rbd", None, False, 0, 0)


def test_a_volume() -> None:
    xml = """<volume type='file'><name>a.qcow2</name><capacity unit='KiB'>4</capacity>
    <allocation unit='bytes'>7</allocation>
      <target><path>/p/a.qcow2</path><format type='qcow2'/><permissions><mode>0640</mode><owner>64055</owner>
      <group>109</group></permissions>
      <timestamps><mtime>1700000000.25</mtime></timestamps></target>
      <backingStore><path>/p/base</path><format type='raw'/></backingStore></volume>"""
    assert parse_volume(xml, "h1") == Volume(
        "a.qcow2", "/p/a.qcow2", "qcow2", 4 * KIB, 7, (64055, 109), 0o640, 1700000000.25, Backing("/p/base", "raw")
    )


def test_a_volume_that_says_little() -> None:
    assert parse_volume("<volume><name>x</name></volume>", "h1") == Volume("x", None, "raw", None, None)


@pytest.mark.parametrize(
    ("forward", "mode"),
    [("", None), ("<forward/>", "nat"), ("<forward mode='bridge'/>", "bridge"), ("<forward mode='route'/>", "route")],
)
def test_networks(forward: str, mode: str | None) -> None:
    xml = f"""<network><name>lan</name>{forward}<bridge name='br0'/><portgroup name='blue'/>
    <portgroup name='red' default='yes'/></network>"""
    assert parse_network(xml, "h1", active=True) == Network("lan", True, mode, "br0", ("blue", "red"))


@pytest.mark.parametrize(
    ("body", "external", "memory"),
    [
        ("<memory snapshot='internal'/><disks><disk name='vda' snapshot='internal'/></disks>", False, None),
        (
            "<memory snapshot='no'/><disks><disk name='vda' snapshot='no'/>"
            "<disk name='vdb' snapshot='external'/></disks>",
            True,
            None,
        ),
        ("<memory snapshot='external' file='/m'/>", True, "/m"),
        ("", False, None),
    ],
)
def test_snapshots(body: str, external: bool, memory: str | None) -> None:
    xml = f"<domainsnapshot><name>s2</name><parent><name>s1</name></parent>{body}</domainsnapshot>"
    assert parse_snapshot(xml, "h1", current=True) == Snapshot("s2", external, True, "s1", memory)


def test_document_types_are_refused_here_as_well() -> None:
    with pytest.raises(HypervisorError, match="document type"):
        parse_network("<!DOCTYPE network><network/>", "h1", active=True)
