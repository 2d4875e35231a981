"""Domain XML, by hand and as odd as libvirt allows, and what is read from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from mudanza.hypervisor.xml.disks import image_path
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.hypervisor.xml.parsing import number_set, unit_bytes
from mudanza.model.errors import HypervisorError
from mudanza.model.units import GIB, KIB, MIB
from mudanza.model.vm import Backing, Disk, Firmware, Graphics, HostDevice, Nic, Tpm, Vm, VmState

UUID = "c7a5fdbd-cdaf-9455-926a-d65c16db1809"


def domain(*, devices: str = "", body: str = "", name: str = "web", root: str = "<domain type='kvm'>") -> Vm:
    xml = f"""{root}
      <name>{name}</name><uuid>{UUID}</uuid>
      <memory unit='KiB'>2097152</memory><vcpu>2</vcpu>
      {body if "<os>" in body else "<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>" + body}
      <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices>
    </domain>"""
    return parse_vm(xml, host="h1", state=VmState.RUNNING, reason="booted")


def only_disk(devices: str) -> Disk:
    (found,) = domain(devices=devices).disks
    return found


def only_nic(devices: str) -> Nic:
    (found,) = domain(devices=devices).nics
    return found


def only_device(devices: str) -> HostDevice:
    (found,) = domain(devices=devices).host_devices
    return found


def test_what_every_domain_has() -> None:
    vm = domain()
    assert (vm.uuid, vm.name, vm.host, vm.state, vm.reason) == (UUID, "web", "h1", VmState.RUNNING, "booted")
    assert (vm.memory, vm.vcpus) == (2 * GIB, 2)
    assert (vm.arch, vm.machine, vm.domain_type) == ("x86_64", "pc-q35-7.2", "kvm")
    assert vm.emulator == "/usr/bin/qemu-system-x86_64"
    assert "<domain" in vm.xml
    assert (vm.firmware, vm.tpm, vm.title, vm.cpu_mode, vm.cpu_xml, vm.memory_limit) == (None,) * 6
    assert (vm.disks, vm.nics, vm.host_devices, vm.graphics, vm.tags, vm.hugepages, vm.secrets) == ((),) * 7


def test_the_name_is_taken_as_it_is() -> None:
    assert domain(name="a;reboot $(id) --help &quot;&gt; ü").name == 'a;reboot $(id) --help "> ü'
    assert domain(name=" x ").name == " x "


def test_vcpus_that_are_plugged_in_count_not_those_that_could_be() -> None:
    xml = f"<domain type='qemu'><name>x</name><uuid>{UUID}</uuid><vcpu current='3'>16</vcpu></domain>"
    assert parse_vm(xml, host="h1", state=VmState.SHUTOFF).vcpus == 3


def test_memory_that_can_be_plugged_in_and_where_memory_comes_from() -> None:
    vm = domain(
        body="""<maxMemory slots='16' unit='GiB'>64</maxMemory>
        <memoryBacking><hugepages><page size='2' unit='MiB'/><page size='1' unit='G' nodeset='0'/></hugepages>
        <source type='memfd'/></memoryBacking>"""
    )
    assert vm.memory_limit == 64 * GIB
    assert vm.hugepages == (2 * MIB, GIB)
    assert vm.memory_source == "memfd"


def test_hugepages_without_a_size_are_the_hosts_default() -> None:
    assert domain(body="<memoryBacking><hugepages/></memoryBacking>").hugepages == (0,)
    assert domain(body="<memoryBacking><nosharepages/></memoryBacking>").hugepages == ()


def test_pins_of_vcpus_emulator_and_io_threads() -> None:
    vm = domain(
        body="""<cputune><vcpupin vcpu='0' cpuset='1-3,^2'/><emulatorpin cpuset='8'/>
        <iothreadpin iothread='1' cpuset='9'/>
        </cputune><numatune><memory mode='strict' nodeset='0'/>
        <memnode cellid='0' mode='strict' nodeset='2-3'/></numatune>"""
    )
    assert vm.pinned_cpus == {1, 3, 8, 9}
    assert vm.numa_nodes == {0, 2, 3}


def test_a_cpuset_of_the_whole_guest_pins_too() -> None:
    xml = f"<domain type='kvm'><name>x</name><uuid>{UUID}</uuid><vcpu cpuset='4,6'>2</vcpu></domain>"
    assert parse_vm(xml, host="h1", state=VmState.SHUTOFF).pinned_cpus == {4, 6}


@pytest.mark.parametrize(
    ("cpu", "mode"),
    [
        ("<cpu mode='host-passthrough' check='none' migratable='on'/>", "host-passthrough"),
        ("<cpu mode='host-model' check='partial'/>", "host-model"),
        ("<cpu mode='custom' match='exact'><model>EPYC</model></cpu>", "custom"),
        ("<cpu match='exact'><model>EPYC</model></cpu>", "custom"),
        ("<cpu mode='maximum'/>", "maximum"),
        ("<cpu><topology sockets='1' dies='1' cores='2' threads='1'/></cpu>", None),
    ],
)
def test_cpu_modes(cpu: str, mode: str | None) -> None:
    vm = domain(body=cpu)
    assert vm.cpu_mode == mode
    assert vm.cpu_xml is not None
    assert etree.fromstring(vm.cpu_xml).tag == "cpu"


@pytest.mark.parametrize(
    ("body", "unfixed"),
    [
        ("<cpu mode='custom'><model>EPYC</model><feature policy='require' name='invtsc'/></cpu>", True),
        ("<cpu mode='custom'><model>EPYC</model><feature policy='disable' name='invtsc'/></cpu>", False),
        (
            "<cpu mode='custom'><model>EPYC</model><feature policy='require' name='invtsc'/></cpu>"
            "<clock offset='utc'><timer name='tsc' frequency='2500000000'/></clock>",
            False,
        ),
    ],
)
def test_an_invariant_tsc_without_a_frequency(body: str, unfixed: bool) -> None:
    assert domain(body=body).tsc_unfixed is unfixed


def test_firmware_and_the_files_of_a_direct_boot() -> None:
    vm = domain(
        body="""<os><type arch='x86_64' machine='q35'>hvm</type>
        <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
        <nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>
        <kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd</initrd><dtb>/boot/tree</dtb>
        <acpi><table type='slic'>/boot/slic</table></acpi></os>
        <sysinfo type='fwcfg'><entry name='opt/a' file='/etc/ignition'/><entry name='opt/b'>text</entry></sysinfo>"""
    )
    assert vm.firmware == Firmware(
        "/usr/share/OVMF/OVMF_CODE.fd", "/var/lib/libvirt/qemu/nvram/web_VARS.fd", "/usr/share/OVMF/OVMF_VARS.fd"
    )
    assert vm.boot_files == ("/boot/vmlinuz", "/boot/initrd", "/boot/tree", "/boot/slic", "/etc/ignition")


def test_nvram_in_the_newer_form() -> None:
    vm = domain(body="<os><type>hvm</type><nvram type='file'><source file='/nv/x.fd'/></nvram></os>")
    assert vm.firmware == Firmware(None, "/nv/x.fd")


@pytest.mark.parametrize(
    ("named", "by", "path"),
    [
        ("base.qcow2", "/srv/top.qcow2", "/srv/base.qcow2"),
        ("./base.qcow2", "/srv/top.qcow2", "/srv/base.qcow2"),
        ("/srv//a/./base.qcow2", "/elsewhere/top.qcow2", "/srv/a/base.qcow2"),
        ("../base.qcow2", "/srv/link/top.qcow2", "/srv/link/../base.qcow2"),
        ("nbd://h:1/./disk", "", "nbd://h:1/./disk"),
        ("/srv/blank ", "", "/srv/blank "),
    ],
)
def test_an_image_is_known_by_one_path(named: str, by: str, path: str) -> None:
    assert image_path(named, by) == path


def test_a_local_image_with_its_chain() -> None:
    disk = only_disk("""<disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' io='native'/>
      <source file='/images/top.qcow2' index='1'/>
      <backingStore type='file' index='2'><format type='qcow2'/><source file='/images/mid.qcow2'/>
        <backingStore type='block' index='3'><format type='raw'/><source dev='/dev/vg/base'/><backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/><iotune><total_iops_sec>100</total_iops_sec></iotune></disk>""")
    assert disk == Disk(
        target="vda",
        device="disk",
        bus="virtio",
        kind="file",
        source="/images/top.qcow2",
        format="qcow2",
        cache="none",
        backing=(Backing("/images/mid.qcow2", "qcow2"), Backing("/dev/vg/base", "raw")),
        iotune=True,
    )


def test_flags_of_a_disk() -> None:
    disk = only_disk("""<disk type='block' device='lun'><driver name='qemu' type='raw'/>
    <source dev='/dev/sdb'/><backingStore/>
      <mirror type='file' job='copy'><source file='/x'/></mirror><target dev='sda' bus='scsi'/>
      <readonly/><shareable/><transient/><encryption format='luks'><secret type='passphrase' uuid='u-1'/>
      </encryption></disk>""")
    assert (disk.kind, disk.device, disk.source, disk.backing) == ("block", "lun", "/dev/sdb", ())
    assert (disk.readonly, disk.shareable, disk.transient, disk.mirror) == (True,) * 4
    assert (disk.encryption, disk.secret) == ("luks", "u-1")
    assert disk.cache == "default"


def test_an_empty_drive_has_no_source() -> None:
    disk = only_disk("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>")
    assert (disk.source, disk.device, disk.is_local_image) == (None, "cdrom", False)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "<source protocol='rbd' name='pool/image'><host name='mon1' port='6789'/><host name='mon2'/></source>",
            "rbd://mon1:6789,mon2/pool/image",
        ),
        (
            "<source protocol='iscsi' name='iqn.2013-07.com.example:disk/1'><host name='san' port='3260'/></source>",
            "iscsi://san:3260/iqn.2013-07.com.example:disk/1",
        ),
        (
            "<source protocol='nbd' name='export'><host transport='unix' socket='/run/nbd.sock'/></source>",
            "nbd:///run/nbd.sock/export",
        ),
        ("<source protocol='gluster' name='/vol/x'><host name='g'/></source>", "gluster://g/vol/x"),
    ],
)
def test_network_disks(source: str, said: str) -> None:
    disk = only_disk(f"<disk type='network' device='disk'>{source}<target dev='vdb' bus='virtio'/></disk>")
    assert (disk.kind, disk.source, disk.is_local_image) == ("network", said, False)


def test_secrets_of_network_disks_by_uuid_and_by_usage() -> None:
    vm = domain(
        devices="""<disk type='network' device='disk'><source protocol='rbd' name='p/i'>
        <auth username='libvirt'><secret type='ceph' uuid='u-ceph'/></auth></source><target dev='vda'/></disk>
        <disk type='network' device='disk'><auth username='a'><secret type='iscsi' usage='chap'/></auth>
        <source protocol='iscsi' name='i'/><target dev='vdb'/></disk>
        <tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='u-tpm'/></backend></tpm>"""
    )
    assert [disk.secret for disk in vm.disks] == ["u-ceph", "chap"]
    assert vm.secrets == ("u-ceph", "chap", "u-tpm")


def test_a_volume_disk_names_its_pool() -> None:
    disk = only_disk("""<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>
      <source pool='default' volume='web.qcow2'/><target dev='vda'/></disk>""")
    assert (disk.kind, disk.pool, disk.volume, disk.source) == ("volume", "default", "web.qcow2", "default/web.qcow2")
    assert disk.is_local_image


def test_nvme_and_vhost_user_disks_are_told_by_their_kind_alone() -> None:
    vm = domain(
        devices="""<disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'>
        <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source><target dev='vda'/></disk>
        <disk type='vhostuser' device='disk'><source type='unix' path='/run/spdk.sock'/><target dev='vdb'/></disk>"""
    )
    assert [(disk.kind, disk.source) for disk in vm.disks] == [
        ("nvme", "nvme:0000:01:00.0/1"),
        ("vhostuser", "/run/spdk.sock"),
    ]
    assert vm.host_devices == ()


def test_a_card_on_a_network() -> None:
    assert only_nic("""<interface type='network'><mac address='52:54:00:00:00:01'/>
      <source network='lan' portgroup='blue' bridge='br0'/><vlan trunk='yes'><tag id='42'/>
      <tag id='123' nativeMode='untagged'/></vlan>
      <model type='virtio'/><filterref filter='clean-traffic'/></interface>""") == Nic(
        mac="52:54:00:00:00:01",
        kind="network",
        source="lan",
        model="virtio",
        vlans=(42, 123),
        nwfilter="clean-traffic",
        portgroup="blue",
    )


def test_a_card_on_open_vswitch() -> None:
    nic = only_nic("""<interface type='bridge'><mac address='m'/><source bridge='ovs0'/>
      <virtualport type='openvswitch'><parameters interfaceid='x'/></virtualport></interface>""")
    assert (nic.kind, nic.source, nic.virtualport) == ("bridge", "ovs0", "openvswitch")


def test_macvtap() -> None:
    nic = only_nic("<interface type='direct'><mac address='m'/><source dev='eth0' mode='vepa'/></interface>")
    assert (nic.kind, nic.source, nic.mode) == ("direct", "eth0", "vepa")


def test_cards_that_are_devices_of_the_host_are_told_by_their_kind_alone() -> None:
    vm = domain(
        devices="""<interface type='hostdev' managed='yes'><mac address='m1'/><source>
        <address type='pci' domain='0x0000' bus='0x07' slot='0x10' function='0x6'/></source>
        <teaming type='transient' persistent='ua'/></interface>
        <interface type='vhostuser'><mac address='m2'/><source type='unix' path='/run/ovs.sock' mode='server'/>
        </interface>
        <interface type='vdpa'><mac address='m3'/><source dev='/dev/vhost-vdpa-0'/></interface>
        <interface type='network'><mac address='m4'/><source network='lan'/><teaming type='persistent'/></interface>
        <interface type='user'><mac address='m5'/></interface>"""
    )
    assert [(nic.kind, nic.source, nic.teaming) for nic in vm.nics] == [
        ("hostdev", "0000:07:10.6", "transient"),
        ("vhostuser", "/run/ovs.sock", None),
        ("vdpa", "/dev/vhost-vdpa-0", None),
        ("network", "lan", "persistent"),
        ("user", None, None),
    ]
    assert vm.host_devices == ()


@pytest.mark.parametrize(
    ("xml", "kind", "words"),
    [
        (
            "<hostdev mode='subsystem' type='pci' managed='yes'><source>"
            "<address domain='0x0000' bus='0x3b' slot='0x00' function='0x1'/></source></hostdev>",
            "pci",
            "0000:3b:00.1",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source>"
            "</hostdev>",
            "usb",
            "0x1234:0xbeef",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='4'/></source></hostdev>",
            "usb",
            "bus 1 device 4",
        ),
        (
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='c2177883'/></source>"
            "</hostdev>",
            "mdev",
            "c2177883",
        ),
        (
            "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/>"
            "<address bus='0' target='1' unit='2'/></source></hostdev>",
            "scsi",
            "scsi_host0 0:1:2",
        ),
        (
            "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.500'/></hostdev>",
            "scsi_host",
            "naa.500",
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/x'/><target dir='x'/></filesystem>",
            "virtiofs",
            "/srv/x",
        ),
        ("<filesystem type='mount'><source dir='/srv/y'/><target dir='y'/></filesystem>", "9p", "/srv/y"),
        ("<shmem name='ring'><model type='ivshmem-plain'/></shmem>", "shmem", "ring (ivshmem-plain)"),
        ("<redirdev bus='usb' type='spicevmc'/>", "redirdev", "usb"),
        ("<smartcard mode='host'/>", "ccid", "host"),
        ("<memory model='sgx-epc'><target><size>1</size></target></memory>", "sgx", "SGX"),
        ("<video><driver name='vhostuser'/><model type='virtio'/></video>", "vhost-user", "video"),
        ("<video><model type='virtio'><acceleration accel3d='yes'/></model></video>", "virgl", "3D"),
        ("<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>", "virgl", "OpenGL"),
    ],
)
def test_what_ties_to_the_host(xml: str, kind: str, words: str) -> None:
    device = only_device(xml)
    assert device.kind == kind
    assert words in device.description


@pytest.mark.parametrize(
    ("xml", "kind", "path"),
    [
        ("<serial type='dev'><source path='/dev/ttyS0'/><target port='1'/></serial>", "char", "/dev/ttyS0"),
        ("<parallel type='pipe'><source path='/srv/pipe'/></parallel>", "char", "/srv/pipe"),
        ("<channel type='unix'><source mode='connect' path='/srv/agent.sock'/></channel>", "char", "/srv/agent.sock"),
        ("<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>", "rng", "/dev/hwrng"),
        ("<input type='passthrough'><source evdev='/dev/input/event1'/></input>", "evdev", "/dev/input/event1"),
        ("<memory model='nvdimm'><source><path>/srv/nv</path></source></memory>", "nvdimm", "/srv/nv"),
        ("<memory model='virtio-pmem'><source><path>/srv/pm</path></source></memory>", "virtio-pmem", "/srv/pm"),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/x'/><target dir='x'/></filesystem>",
            "virtiofs",
            "/srv/x",
        ),
    ],
)
def test_paths_of_the_host(xml: str, kind: str, path: str) -> None:
    device = only_device(xml)
    assert (device.kind, device.path) == (kind, path)


@pytest.mark.parametrize(
    "xml",
    [
        "<serial type='pty'><source path='/dev/pts/3'/></serial>",
        "<serial type='file'><source path='/var/log/x'/></serial>",
        "<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/x'/></channel>",
        "<channel type='unix'>"
        "<source mode='bind' path='/run/libvirt/qemu/channel/1-web/org.qemu.guest_agent.0'/></channel>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<input type='tablet' bus='usb'/>",
        "<memory model='dimm'><target><size unit='KiB'>524287</size></target></memory>",
        "<video><model type='qxl' ram='65536'/></video>",
    ],
)
def test_what_libvirt_finds_or_makes_anywhere_ties_to_no_host(xml: str) -> None:
    assert domain(devices=xml).host_devices == ()


def test_a_console_that_repeats_a_serial_port_is_told_once() -> None:
    devices = """<serial type='dev'><source path='/dev/ttyS0'/></serial>
      <console type='dev'><source path='/dev/ttyS0'/><target type='serial' port='0'/></console>"""
    assert [device.path for device in domain(devices=devices).host_devices] == ["/dev/ttyS0"]


@pytest.mark.parametrize(
    ("xml", "graphics"),
    [
        (
            "<graphics type='vnc' port='5900' autoport='yes' listen='10.0.0.1'>"
            "<listen type='address' address='10.0.0.1'/></graphics>",
            Graphics("vnc", "10.0.0.1", 5900, autoport=True),
        ),
        ("<graphics type='vnc' port='5907' listen='0.0.0.0'/>", Graphics("vnc", "0.0.0.0", 5907, autoport=False)),
        ("<graphics type='vnc' port='-1' autoport='yes'><listen type='address'/></graphics>", Graphics("vnc", None)),
        (
            "<graphics type='spice'><listen type='network' network='lan' address='10.0.0.2'/></graphics>",
            Graphics("spice", "10.0.0.2"),
        ),
        ("<graphics type='vnc'><listen type='socket' socket='/run/vnc'/></graphics>", Graphics("vnc", None)),
        ("<graphics type='spice'><listen type='none'/></graphics>", Graphics("spice", None)),
    ],
)
def test_displays(xml: str, graphics: Graphics) -> None:
    assert domain(devices=xml).graphics == (graphics,)


def test_tpm() -> None:
    emulated = domain(devices="<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")
    assert emulated.tpm == Tpm("tpm-crb", "emulator", "2.0")
    real = domain(devices="<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>")
    assert real.tpm == Tpm("tpm-tis", "passthrough")


def test_only_static_labels_bind() -> None:
    vm = domain(
        body="""<seclabel type='static' model='selinux' relabel='yes'><label>s</label></seclabel>
        <seclabel type='dynamic' model='dac' relabel='yes'/><seclabel type='none' model='apparmor'/>"""
    )
    assert vm.seclabels == ("selinux",)


def test_what_libvirt_cannot_see_or_the_host_cannot_read() -> None:
    vm = domain(
        root="<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
        body="<launchSecurity type='sev'/><qemu:commandline><qemu:arg value='-foo'/></qemu:commandline>",
        devices="<vsock model='virtio'><cid auto='no' address='7'/></vsock>",
    )
    assert (vm.launch_security, vm.qemu_arguments, vm.vsock_cid) == ("sev", True, 7)
    assert domain(devices="<vsock><cid auto='yes' address='7'/></vsock>").vsock_cid is None
    assert domain().qemu_arguments is False


def test_tags_are_those_in_our_own_namespace() -> None:
    vm = domain(
        body="""<title>The web server</title><metadata>
        <m:mudanza xmlns:m='https://mudanza.dev/xmlns/1'><m:tag>db</m:tag><m:tag> prod </m:tag><m:tag/></m:mudanza>
        <other xmlns='https://example.org'><tag>not ours</tag></other></metadata>"""
    )
    assert vm.tags == ("db", "prod")
    assert vm.title == "The web server"


@pytest.mark.parametrize(
    "xml",
    [
        "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>",
        "<!DOCTYPE domain><domain/>",
        "<!DOCTYPE d [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]><domain><name>&b;</name></domain>",
    ],
)
def test_document_types_are_refused(xml: str) -> None:
    with pytest.raises(HypervisorError, match="host h1: XML with a document type"):
        parse_vm(xml, host="h1", state=VmState.SHUTOFF)


def test_what_is_no_xml_is_said_to_be_none() -> None:
    with pytest.raises(HypervisorError, match="host h1: its libvirt sent XML that cannot be read"):
        parse_vm("<domain><name>", host="h1", state=VmState.SHUTOFF)


@given(st.sets(st.integers(0, 500), max_size=20))
def test_a_set_of_numbers_is_read_back(numbers: set[int]) -> None:
    assert number_set(",".join(map(str, numbers))) == numbers


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 600))
def test_ranges_and_exceptions(low: int, length: int, without: int) -> None:
    assert number_set(f"{low}-{low + length},^{without}") == set(range(low, low + length + 1)) - {without}


@pytest.mark.parametrize(
    ("unit", "number"),
    [
        ("b", 1),
        ("bytes", 1),
        ("k", KIB),
        ("KiB", KIB),
        ("KB", 1000),
        ("MiB", MIB),
        ("M", MIB),
        ("GB", 10**9),
        ("TiB", 1024**4),
    ],
)
def test_units(unit: str, number: int) -> None:
    assert unit_bytes(unit) == number


@pytest.mark.parametrize(
    ("device", "kind", "path"),
    [
        ("<graphics type='egl-headless'><gl rendernode='/dev/dri/r0'/></graphics>", "render", "/dev/dri/r0"),
        ("<disk type='network'><source protocol='ssh'><identity keyfile='/root/k'/></source></disk>", "ssh", "/root/k"),
        ("<disk type='network'><source protocol='ssh'><knownHosts path='/root/h'/></source></disk>", "ssh", "/root/h"),
        ("<serial type='tcp'><source mode='bind' host='10.0.0.9' service='24'/></serial>", "listener", None),
        ("<pstore backend='acpi-erst'><path>/srv/p</path></pstore>", "pstore", "/srv/p"),
    ],
)  # fmt: skip
def test_what_else_ties_a_vm_to_its_host(device: str, kind: str, path: str | None) -> None:
    xml = f"<domain type='kvm'><name>a</name><uuid>u</uuid><devices>{device}</devices></domain>"
    found = parse_vm(xml, host="h1", state=VmState.SHUTOFF).host_devices
    assert [(each.kind, each.path) for each in found] == [(kind, path)]


def test_what_connects_out_listens_nowhere() -> None:
    serial = "<serial type='tcp'><source mode='connect' host='log' service='24'/></serial>"
    console = "<console type='tcp'><source mode='bind' service='24'/><target type='serial' port='0'/></console>"
    xml = f"<domain type='kvm'><name>a</name><uuid>u</uuid><devices>{serial}{console}</devices></domain>"
    assert parse_vm(xml, host="h1", state=VmState.SHUTOFF).host_devices == (), "the first console repeats the serial"
