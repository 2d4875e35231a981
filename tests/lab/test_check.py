"""What is wrong with a VM's disks, networks, devices and machine is found by the command, which touches nothing.

What a lab on one machine cannot bring about is in ``ELSEWHERE``, with the reason; the pure tests provoke all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from mudanza.lab import faults
from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from tests.lab import test_check_states
from tests.lab.checking import FAST, IMAGES, PROVOKED, SHARED, B, Case, Checker, W, expect, make, refresh
from tests.lab.conftest import await_true
from tests.lab.domains import MEMORY, OS, card, defined, disk, disks, domain_xml, mac
from tests.lab.tiny import file
from tests.lab.troubles import EMULATOR, held, lesser_host, pool, qemu_driver_only, read_only
from tests.test_preflight_docs import rows_in_the_docs

pytestmark = pytest.mark.lab

ELSEWHERE = {
    "claim-taken-over": "test_claims.py takes one over",
    "data-elsewhere": "test_probes.py asks for images whose content lies in another file",
    "data-file-stays": "the same",
    "pool-squashes-root": "test_squashed.py has such a pool",
    "streams-post-copy": "test_streams.py asks for both",
    "streams-unsupported": "all hosts have the machine's QEMU, which can",
    "compression-memory": "all hosts have the machine's memory, of which so little is hardly ever free",
    "compression-streams": "a check is asked for neither of the two; a move is refused by both",
    "numa-memory": "all hosts have the machine's nodes and what is free there; see tests/test_numa.py",
    "numa-memory-cached": "the same",
    "lock-manager-missing": "all hosts of this lab lock alike; see tests/test_preflight_examples.py",
    "lock-spaces-differ": "the same; test_second_lock.py has hosts that lock",
    "hook-unknown": "test_hooks.py has a VM name one",
    "hook-missing": "only the controller's settings are asked: tests/test_preflight_examples.py",
    "wish-unreadable": "test_wishes.py writes one",
    "source-unreachable": "a host that does not answer lists no VM to be checked",
    "tls-unproven": "only a host that is too slow for a rehearsal leaves it open; see tests/test_rehearsal.py",
    "vm-in-between": "libvirt shows these states for an instant only",
    "chain-in-volume-group": "the lab's kernel need not have a device mapper, without which there is no volume group",
    "chain-mixed": "of one VM's images some can stay on their chain and some not only with a volume group",
    "clocks-apart": "all hosts have the machine's clock",
    "libvirt-older": "all hosts have the machine's libvirt",
    "architecture": "all hosts have the machine's architecture",
    "cpu-vendor": "all hosts have the machine's CPU",
    "cpu-passthrough": "all hosts have the machine's CPU",
    "device-unknown": "libvirt accepts no kind of device that preflight has never heard of",
    "vsock-taken": "a VM with a vsock address starts only where /dev/vhost-vsock is",
    "confinement-lost": "no lab host has AppArmor or SELinux",
}
"""Codes that are provoked by the pure tests only, and why."""

SECRET = "2ec115d7-3a88-4ceb-bc12-0ac909a6fd87"
RBD = """<source protocol='rbd' name='pool/image'><host name='mon' port='6789'/>
  <auth username='u'><secret type='ceph' usage='ceph key'/></auth></source>"""
FILTER = "<filter name='walled' chain='root'><rule action='accept' direction='inout'/></filter>"


def test_nothing_is_said_of_a_vm_that_can_go(check: Checker, sound: str) -> None:
    check(Case(sound, ()))


def store_disks(device: str) -> str:
    """Return what can be wrong with disks: no place for them, no way to copy them, something in the way."""
    luks = f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
    nvme = """<source type='pci' managed='yes' namespace='1'>
      <address domain='0' bus='1' slot='0' function='0'/></source>"""
    return "".join(
        (
            disk("/srv/only/a.qcow2", "sda"),
            disk("/srv/idle/twice.qcow2", "sdb"),
            disk("/srv/loose/c.qcow2", "sdc"),
            disk(f"{IMAGES}/taken.qcow2", "sdd"),
            disk(f"{IMAGES}/twice.qcow2", "sde"),
            disk(f"{IMAGES}/over.qcow2", "sdf"),
            disk(f"{IMAGES}/grows.qcow2", "sdg"),
            disk(f"{IMAGES}/gone.qcow2", "sdh"),
            disk(f"{FAST}/some.raw", "sdi", "raw", extra="<shareable/>"),
            disk(f"{FAST}/some.raw", "sdj", "raw", extra="<transient/>"),
            disk(f"{FAST}/some.raw", "sdk", "raw", extra=luks),
            disk(device, "sdl", "raw", kind="block"),
            disk(device, "sdm", "raw", kind="block", device="lun"),
            disk("/srv/loose", "sdn", "fat", kind="dir", extra="<readonly/>"),
            disk(f"{SHARED}/unsafe.qcow2", "sdo", cache="unsafe"),
            disk(f"{SHARED}/over.qcow2", "sdp"),
            disk("<source pool='deep' volume='v.qcow2'/>", "sdq", kind="volume"),
            disk("/srv/none.iso", "sdr", "raw", device="cdrom"),
            disk("/dev/sr9", "sds", "raw", kind="block", device="cdrom"),
            disk(RBD, "sdt", "raw", kind="network"),
            disk(nvme, "vda", "raw", kind="nvme"),
            "<tpm model='tpm-tis'><backend type='emulator'/></tpm>",
        )
    )


ANYWHERE = expect(
    ("vm-not-running", B, "VM store", "shut off"),
    ("disk-transient", B, "disk sdj", "transient"),
    ("disk-kind", B, "disk sdn", "type dir"),
    ("disk-kind", B, "disk vda", "type nvme"),
    ("disk-shareable", B, "disk sdi", f"{FAST}/some.raw"),
    ("disk-encrypted", B, "disk sdk", "luks"),
    ("disk-size-unknown", B, "disk sdh", f"{IMAGES}/gone.qcow2"),
    ("shared-pool-missing", B, "disk sdq", "pool deep, which h2 does not have"),
    ("file-missing", B, "disk sdr", "h2 has no /srv/none.iso"),
    ("host-drive", W, "disk sds", "/dev/sr9"),
    ("secret-missing", B, f"secret {SECRET}", "h2 has no value"),
    ("secret-missing", B, "secret ceph key", "h2 has no value"),
    ("volume-occupied", B, "disk sdd", f"h2 already has {IMAGES}/taken.qcow2"),
    ("disk-flattened", W, "disk sdf", f"{IMAGES}/base.qcow2"),
)
UNMAPPED = ANYWHERE + expect(
    ("pool-missing", B, "disk sda", "no pool at /srv/only, nor one named 'only'"),
    ("pool-inactive", B, "pool idle", "inactive"),
    ("pool-missing", B, "disk sdc", "no pool at /srv/loose (it has: default"),
    ("shared-unknown", B, "disk sdl", "is a device"),
    ("shared-unknown", B, "disk sdm", "is a device"),
    ("cache-mode", B, "disk sdo", "cache=unsafe"),
    ("backing-missing", B, "disk sdp", f"h2 has no {IMAGES}/base.qcow2"),
    ("pool-space-virtual", W, "pool default", "10 TiB"),
    ("pool-space", B, "pool fast", "too little"),
)
MAPS = ("only=iscsi", "idle=default", "/srv/loose=default", "/dev=fast", "shared=shared", "fast=nowhere", "typo=fast")
MAPPED = ANYWHERE + expect(
    ("pool-kind", B, "pool iscsi", "type iscsi"),
    ("volume-clash", B, "disk sde", "sdb and sde would both become"),
    ("disk-lun", B, "disk sdm", "SCSI LUN"),
    ("map-onto-itself", B, "disk sdo", "very same file, in pool shared"),
    ("map-onto-itself", B, "disk sdp", "very same file, in pool shared"),
    ("pool-missing", B, "disk sdj", "no pool named 'nowhere'"),
    ("map-unused", B, "storage map typo=fast", "matches no disk of this VM"),
    ("map-unused", B, "network map typo=lan", "matches no network card of this VM"),
    ("map-not-needed", W, "network map lan=lan", "no network card of this VM uses it"),
    ("pool-space-virtual", W, "pool default", "10 TiB"),
    ("pool-space", B, "pool fast", "too little"),
)


@pytest.fixture(scope="module")
def store(lab: Lab) -> Iterator[str]:
    """A VM with all kinds of disks at h1, and a target with no room in one of its pools."""
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    iscsi = """<pool type='iscsi'><name>iscsi</name><source><host name='h1'/><device path='iqn.x:y'/></source>
      <target><path>/dev/disk/by-path</path></target></pool>"""
    with ExitStack() as stack:
        stack.enter_context(pool(h1, "only", "/srv/only"))
        stack.enter_context(pool(h1, "idle", "/srv/idle"))
        stack.enter_context(pool(h2, "idle", "/srv/idle", start=False))
        stack.enter_context(pool(h1, "deep", f"{SHARED}/deep"))
        stack.enter_context(held(h2, "pool", "iscsi", iscsi))
        stack.callback(refresh, h1, h2)
        stack.callback(h1.run, ["rm", "-rf", "/srv/loose"])
        h1.run(["mkdir", "/srv/loose"])
        for path in ("/srv/only/a", "/srv/idle/twice", "/srv/loose/c", f"{SHARED}/deep/v", f"{SHARED}/unsafe",
                     f"{IMAGES}/taken", f"{IMAGES}/twice", f"{IMAGES}/base"):  # fmt: skip
            make(stack, h1, f"{path}.qcow2")
        make(stack, h2, f"{IMAGES}/taken.qcow2")
        make(stack, h1, f"{IMAGES}/grows.qcow2", "10T")
        for path in (f"{IMAGES}/over.qcow2", f"{SHARED}/over.qcow2"):
            make(stack, h1, path, backing=f"{IMAGES}/base.qcow2")
        stack.callback(h1.run, ["rm", f"{FAST}/some.raw"])
        h1.run(["fallocate", "--length", "64M", f"{FAST}/some.raw"])
        refresh(h1, h2)
        for name in ("only", "idle", "deep"):
            virsh(h1, "pool-refresh", name)
        # Filled behind libvirt's back: its own figure is the old one.
        stack.callback(faults.unfill, lab, "h2", "fast")
        faults.fill(lab, "h2", "fast", leave=1 << 20)
        device = h1.run(["findmnt", "--noheadings", "--output", "SOURCE", FAST]).stdout.strip()
        stack.enter_context(defined(h1, domain_xml("store", store_disks(device))))
        yield "store"


def test_everything_wrong_with_disks_and_maps_at_once(check: Checker, store: str) -> None:
    maps = [word for each in MAPS for word in ("--map-storage", each)]
    maps += ["--map-network", "typo=lan", "--map-network", "lan=lan"]
    check(Case(store, UNMAPPED), Case(store, MAPPED, tuple(maps)))


WHOLE = expect(
    ("snapshots-external", B, "disk vda", "--chain flatten"),
    ("disk-flattened", W, "disk vda", f"{IMAGES}/frozen.qcow2"),
    ("disk-shareable", B, "disk vdb", "in use by mate"),
    ("volume-occupied", B, "disk vdc", f"{IMAGES}/frozen-taken.qcow2"),
    ("file-missing", B, "disk hda", "h2 has no /srv/frozen.iso"),
)
AS_IT_IS = tuple(row for row in WHOLE if row[0] in ("disk-shareable", "volume-occupied"))


def test_everything_wrong_with_a_cold_move_at_once(lab: Lab, check: Checker) -> None:
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    over, quorum = f"{IMAGES}/frozen.over.qcow2", f"{FAST}/frozen.raw"
    with ExitStack() as stack:
        stack.callback(refresh, h1, h2)
        base, taken = (make(stack, h1, f"{IMAGES}/{name}.qcow2") for name in ("frozen", "frozen-taken"))
        make(stack, h2, taken)
        stack.callback(h1.run, ["rm", "-f", over, quorum, "/srv/frozen.iso"])
        h1.run(["truncate", "--size=1M", quorum, "/srv/frozen.iso"])
        refresh(h1, h2)
        shared = disk(quorum, "vdb", "raw", extra="<shareable/>")
        devices = disk(base, "vda") + shared + disk(taken, "vdc")
        devices += disk("/srv/frozen.iso", "hda", "raw", device="cdrom", extra="<readonly/>")
        uuid = stack.enter_context(defined(h1, domain_xml("frozen", devices)))
        specs = [f"vda,file={over}", "vdb,snapshot=no", "vdc,snapshot=no"]
        virsh(h1, "snapshot-create-as", uuid, "outside", "--disk-only", *(f"--diskspec={spec}" for spec in specs))
        stack.enter_context(defined(h1, domain_xml("mate", shared), "start", "--paused"))
        refresh(h1)
        check(
            Case("frozen", WHOLE, ("--chain", "flatten"), mode="cold"),
            Case("frozen", AS_IT_IS, ("--media", "copy", "--map-storage", "/srv=default"), mode="cold"),
        )


def pci(slot: int, tag: str = "source") -> str:
    return f"<{tag}><address type='pci' domain='0' bus='3' slot='{slot}' function='1'/></{tag}>"


PAIR = "<teaming type='transient' persistent='ua-pair'/>"
CARDS = "".join(
    (
        card("network", 1, "<source network='blue'/>"),
        card("network", 2, "<source network='asleep'/>"),
        card("network", 3, "<source network='island' portgroup='gold'/>"),
        card("network", 4, "<source network='functions'/>"),
        card("bridge", 5, "<source bridge='br7'/>", "<virtualport type='openvswitch'/><vlan><tag id='42'/></vlan>"),
        card("bridge", 6, "<source bridge='br0'/>", "<filterref filter='walled'/>"),
        card("direct", 7, "<source dev='eth7' mode='bridge'/>"),
        card("direct", 8, "<source dev='br1' mode='passthrough'/>"),
        card("user", 9),
        card("ethernet", 10, "<target dev='tap7'/>"),
        card("vhostuser", 11, "<source type='unix' path='/run/vhu.sock' mode='client'/>", "<model type='virtio'/>"),
        card("vdpa", 12, "<source dev='/dev/vhost-vdpa-0'/>"),
        card("hostdev", 13, pci(1)),
        card("hostdev", 14, pci(2), PAIR),
        card("bridge", 15, "<source bridge='br0'/>", "<teaming type='persistent'/><alias name='ua-pair'/>"
             "<model type='virtio'/>"),
    )
)  # fmt: skip
DEVICES = f"""
  <hostdev mode='subsystem' type='pci' managed='yes'>{pci(3)}</hostdev>
  <hostdev mode='subsystem' type='pci' managed='yes'>{pci(4)}{PAIR}</hostdev>
  <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>
  <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
    <source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>
  <hostdev mode='subsystem' type='scsi'>
    <source><adapter name='scsi_host0'/><address bus='0' target='0' unit='0'/></source></hostdev>
  <hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.50014057133e25dc'/></hostdev>
  <filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/a'/><target dir='a'/></filesystem>
  <filesystem type='mount'><source dir='/srv/b'/><target dir='b'/></filesystem>
  <disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/><source type='unix' path='/run/vhu-blk.sock'/>
    <target dev='vda' bus='virtio'/></disk>
  <shmem name='window'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>
  <redirdev bus='usb' type='tcp'><source mode='connect' host='localhost' service='4000'/></redirdev>
  <smartcard mode='host'/>
  <serial type='dev'><source path='/dev/ttyS7'/></serial>
  <serial type='tcp'><source mode='bind' host='127.0.0.1' service='4001'/><protocol type='raw'/></serial>
  <graphics type='vnc' autoport='yes' listen='192.0.2.7'/>
  <graphics type='spice' autoport='yes'><listen type='address' address='10.77.0.12'/></graphics>
  <video><model type='virtio'><acceleration accel3d='yes'/></model></video>
  <tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>"""
THINGS = expect(
    ("vm-not-running", B, "VM things", "shut off"),
    ("network-missing", B, f"network card {mac(1)}", "h2 has no network blue"),
    ("network-inactive", B, f"network card {mac(2)}", "network asleep of h2 is inactive"),
    ("network-inactive", B, f"network card {mac(3)}", "network island of h2 is inactive"),
    ("network-host-only", W, f"network card {mac(3)}", "isolated"),
    ("portgroup-missing", W, f"network card {mac(3)}", "no port group gold"),
    ("network-missing", B, f"network card {mac(4)}", "h2 has no network functions"),
    ("passthrough-card", B, f"network card {mac(4)}", "hostdev"),
    ("bridge-missing", B, f"network card {mac(5)}", "h2 has no bridge br7"),
    ("openvswitch", W, f"network card {mac(5)}", "Open vSwitch"),
    ("vlan", W, f"network card {mac(5)}", "VLAN 42"),
    ("nwfilter-missing", B, "network filter walled", "h2 has no network filter walled"),
    ("connections-untracked", W, f"network card {mac(6)}", "walled"),
    ("device-missing", B, f"network card {mac(7)}", "h2 has no network device eth7"),
    ("macvtap", W, f"network card {mac(7)}", "cannot talk to its own host"),
    ("macvtap-exclusive", W, f"network card {mac(8)}", "br1 of h2 for itself"),
    ("user-network", W, f"network card {mac(9)}", "inside QEMU"),
    ("card-unproven", W, f"network card {mac(10)}", "ethernet"),
    ("vhost-user-card", W, f"network card {mac(11)}", "/run/vhu.sock"),
    ("passthrough-card", B, f"network card {mac(12)}", "vdpa"),
    ("passthrough-card", B, f"network card {mac(13)}", "hostdev"),
    ("failover-card", W, f"network card {mac(14)}", "failover pair"),
    ("serial-listens", W, "device serial on 127.0.0.1:4001", "listens on an address and a port"),
    ("host-device", B, "device 0000:03:03.1", "PCI device"),
    ("failover-device", W, "device 0000:03:04.1", "failover pair"),
    ("host-device", B, "device 0x1234:0xbeef", "USB device"),
    ("host-device", B, "device c2177883-f1bb-47f0-914d-32a22e3a8804", "mediated device"),
    ("host-device", B, "device scsi_host0 0:0:0", "SCSI device"),
    ("host-device", B, "device naa.50014057133e25dc", "vhost-scsi"),
    ("host-device", B, "device /srv/a as a", "virtiofs"),
    ("host-device", B, "device /srv/b as b", "directory of the host"),
    ("disk-kind", B, "disk vda", "type vhostuser"),
    ("host-device", B, "device window (ivshmem-plain)", "shared with other processes"),
    ("usb-redirection", W, "device usb over tcp", "viewer"),
    ("host-device", B, "device smartcard (host)", "smart card"),
    ("host-device", B, "device video card with 3D acceleration", "3D"),
    ("file-unknown", W, "device serial on /dev/ttyS7", "/dev/ttyS7"),
    ("display-address", B, "display vnc", "Cannot assign requested address"),
    ("tpm-passthrough", B, "TPM tpm-tis", "passthrough"),
)  # fmt: skip


def test_everything_wrong_with_networks_and_devices_at_once(lab: Lab, check: Checker) -> None:
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    asleep = "<network><name>asleep</name><forward mode='bridge'/><bridge name='br0'/></network>"
    island = "<network><name>island</name><bridge name='virbr9'/></network>"
    functions = "<network><name>functions</name><forward mode='hostdev'><pf dev='eth9'/></forward></network>"
    body = f"{MEMORY}<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>{OS}"
    with (
        held(h2, "net", "asleep", asleep),
        held(h2, "net", "island", island),
        held(h1, "net", "functions", functions),
        held(h1, "nwfilter", "walled", FILTER),
        defined(h1, domain_xml("things", CARDS + DEVICES, body=body)),
    ):
        check(Case("things", THINGS))


# A host that has an older QEMU, as far as libvirt knows, and no KVM.
OLDER_QEMU = ("/name='pc-i440fx-2.0'/d", "s/<version>[0-9]*</<version>7000050</", "/'tpm-emulator'/d")
METAL = """<memory unit='GiB'>64</memory><maxMemory slots='4' unit='TiB'>20</maxMemory>
  <vcpu cpuset='4000-4001'>2</vcpu>
  <memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>
  <numatune><memory mode='strict' nodeset='40'/></numatune>
  <os><type arch='x86_64' machine='pc-i440fx-2.0'>hvm</type>
    <kernel>/srv/kernel</kernel><initrd>/srv/initrd</initrd></os>
  <cpu mode='custom' match='exact'><model>qemu64</model><feature policy='require' name='sgx'/>
    <feature policy='require' name='invtsc'/><numa><cell id='0' cpus='0-1' memory='64' unit='GiB'/></numa></cpu>
  <seclabel type='static' model='selinux' relabel='no'><label>system_u:system_r:svirt_t:s0:c1,c2</label></seclabel>"""
METAL_DEVICES = (
    "<emulator>/srv/qemu-here</emulator><tpm model='tpm-tis'><backend type='emulator'/></tpm>"
    + "<rng model='virtio'><backend model='random'>/srv/dice</backend></rng>"
    + "<graphics type='vnc' autoport='yes' listen='192.0.2.7'/>"
    + disks(f"{SHARED}/private.qcow2")
)
ON_LESSER = expect(
    ("vm-not-running", B, "VM metal", "shut off"),
    ("qemu-arguments", W, "VM metal", "<qemu:commandline>"),
    ("tsc-unfixed", B, "VM metal", "invtsc"),
    ("clocks-unknown", W, "host h3", "could not be compared"),
    ("qemu-older", W, "host h3", "QEMU 7.0.50"),
    ("emulator-missing", B, "host h3", "no QEMU at /srv/qemu-here"),
    ("machine-type", B, "host h3", "pc-i440fx-2.0"),
    ("cpu-incompatible", B, "host h3", "sgx"),
    ("cpu-pin-missing", B, "host h3", "pinned to CPUs 4000, 4001"),
    ("memory-hotplug", W, "host h3", "20 TiB"),
    ("huge-pages", B, "host h3", "64 GiB in huge pages of 2 MiB"),
    ("numa-node-missing", B, "host h3", "NUMA nodes 40"),
    ("file-missing", B, "file /srv/kernel", "h3 has no /srv/kernel"),
    ("file-missing", B, "file /srv/initrd", "h3 has no /srv/initrd"),
    ("file-unknown", W, "device entropy from /srv/dice", "/srv/dice"),
    ("display-address-unknown", W, "display vnc", "192.0.2.7"),
    ("tpm-missing", B, "TPM tpm-tis", "cannot emulate"),
    ("security-label", B, "VM metal", "selinux"),
    ("disk-owner", W, "disk vda", "0:0 with mode 600, and QEMU runs as 65534:65534"),
)
# Not even its own host's QEMU can do what this one wants; libvirt reads such a definition when it starts.
ODD = """<memory unit='TiB'>10</memory><currentMemory unit='TiB'>10</currentMemory><vcpu>5000</vcpu>
  <memoryBacking><source type='file'/></memoryBacking>
  <os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/srv/code.fd</loader>
  <nvram template='/srv/vars.fd'>/srv/odd.fd</nvram></os><features><acpi/></features>"""
ODD_AFTER = """<launchSecurity type='sev'><cbitpos>47</cbitpos><reducedPhysBits>1</reducedPhysBits>
  <policy>0x0003</policy></launchSecurity>"""
ODD_ON_LESSER = expect(
    ("vm-not-running", B, "VM odd", "shut off"),
    ("launch-security", B, "VM odd", "sev"),
    ("clocks-unknown", W, "host h3", "could not be compared"),
    ("qemu-older", W, "host h3", "QEMU 7.0.50"),
    ("domain-type", B, "host h3", "of type kvm, and h3 offers qemu only"),
    ("vcpus-over", W, "host h3", "5000 vCPUs"),
    ("memory", B, "host h3", "10 TiB"),
    ("memory-overcommitted", W, "host h3", "TiB"),
    ("memory-file", W, "host h3", "10 TiB free"),
    ("file-missing", B, "file /srv/code.fd", "firmware"),
    ("file-missing", B, "file /srv/vars.fd", "firmware variables"),
    ("nvram-overwritten", W, "file /srv/odd.fd", "overwritten"),
)
VAGUE_ON_LESSER = expect(
    ("vm-not-running", B, "VM vague", "shut off"),
    ("clocks-unknown", W, "host h3", "could not be compared"),
    ("qemu-older", W, "host h3", "QEMU 7.0.50"),
    ("cpu-unknown", W, "host h3", "differs between versions of QEMU"),
)


def test_everything_wrong_with_the_machine_at_once(lab: Lab, check: Checker) -> None:
    h1, h3 = lab.cell("h1"), lab.cell("h3")
    arguments = "<qemu:commandline><qemu:arg value='-nothing'/></qemu:commandline>"
    with ExitStack() as stack:
        stack.callback(h1.run, ["rm", "/srv/qemu-here"])
        h1.run(["ln", "--symbolic", EMULATOR, "/srv/qemu-here"])
        for path in ("/srv/kernel", "/srv/initrd", "/srv/dice"):
            stack.enter_context(file(h1, path))
        stack.enter_context(file(h3, "/srv/odd.fd"))
        make(stack, h1, f"{SHARED}/private.qcow2")
        h1.run(["chmod", "600", f"{SHARED}/private.qcow2"])
        refresh(h1)
        stack.enter_context(defined(h1, domain_xml("metal", METAL_DEVICES, body=METAL, after=arguments)))
        vague = domain_xml("vague", body=f"{MEMORY}{OS}<cpu mode='maximum'/>")
        stack.enter_context(defined(h1, vague))
        stack.enter_context(read_at_start(h1, "odd", domain_xml("odd", body=ODD, kind="kvm", after=ODD_AFTER)))
        stack.enter_context(lesser_host(lab, "h3", OLDER_QEMU))
        no_tls = ("--tls", "off")
        check(
            Case("metal", ON_LESSER, no_tls, to="h3"),
            Case("odd", ODD_ON_LESSER, no_tls, to="h3"),
            Case("vague", VAGUE_ON_LESSER, no_tls, to="h3"),
        )
    refresh(h1)


@contextmanager
def read_at_start(cell: Cell, name: str, xml: str) -> Iterator[None]:
    """Have a definition that libvirt would not take from a client, but reads from its directory."""
    cell.run(["tee", f"/etc/libvirt/qemu/{name}.xml"], stdin=xml)
    try:
        cell.run(["sh", "-c", "kill -HUP $(cat /run/libvirtd.pid)"])
        await_true(lambda: name in virsh(cell, "list", "--all", "--name").split(), f"{name} is read")
        yield
    finally:
        virsh(cell, "undefine", "--nvram", name, check=False)
        cell.run(["rm", "--force", f"/etc/libvirt/qemu/{name}.xml"])


UNTRIED = expect(("peer-unknown", W, "host h2", "Read-only file system"))
UNSEEN = expect(("volume-unknown", B, "disk vda", "Read-only file system"))


def test_a_host_on_which_nothing_can_be_tried(lab: Lab, check: Checker) -> None:
    """What a check makes for itself is a definition, for which a file system may have no room."""
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    with ExitStack() as stack:
        stack.callback(refresh, h1)
        path = make(stack, h1, f"{IMAGES}/untried.qcow2")
        refresh(h1)
        stack.enter_context(defined(h1, domain_xml("untried", disks(path)), "start"))
        with read_only(h1, "/etc/libvirt/qemu"):
            check(Case("untried", UNTRIED))
        with read_only(h2, "/etc/libvirt/qemu"):
            check(Case("untried", UNSEEN, ("--map-storage", "default=fast")))


BARE = expect(
    ("vm-not-running", B, "VM modest", "shut off"),
    ("clocks-unknown", W, "host h3", "could not be compared"),
    ("pools-unknown", B, "disk vda", "could not be asked"),
    ("networks-unknown", W, f"network card {mac(1)}", "network lan"),
    ("interfaces-unknown", W, f"network card {mac(2)}", "bridge br0"),
    ("connections-untracked", W, f"network card {mac(2)}", "walled"),
    ("nwfilters-unknown", W, "host h3", "walled"),
    ("secrets-unknown", W, "host h3", "ceph key"),
)


def test_what_libvirt_cannot_tell_is_not_guessed(lab: Lab, check: Checker) -> None:
    """The other drivers of a modular libvirt may not answer where its QEMU driver does."""
    h1 = lab.cell("h1")
    devices = (
        disks(f"{IMAGES}/modest.qcow2")
        + disk(RBD, "vdb", "raw", kind="network")
        + card("network", 1, "<source network='lan'/>")
        + card("bridge", 2, "<source bridge='br0'/>", "<filterref filter='walled'/>")
    )
    with ExitStack() as stack:
        make(stack, h1, f"{IMAGES}/modest.qcow2")
        refresh(h1)
        stack.enter_context(held(h1, "nwfilter", "walled", FILTER))
        stack.enter_context(defined(h1, domain_xml("modest", devices)))
        stack.enter_context(qemu_driver_only(lab, "h3"))
        check(Case("modest", BARE, to="h3"))
    refresh(h1)


IN_PLACE = expect(
    ("chain-in-place", B, "disk vda", "builds on other images"),
    ("disk-stays", W, "disk hda", "stays where it is"),
)


def test_disks_that_are_to_move_within_their_host(lab: Lab, check: Checker) -> None:
    h1 = lab.cell("h1")
    with ExitStack() as stack:
        stack.callback(refresh, h1)
        make(stack, h1, f"{IMAGES}/floor.qcow2")
        make(stack, h1, f"{IMAGES}/roof.qcow2", backing=f"{IMAGES}/floor.qcow2")
        stack.enter_context(file(h1, f"{IMAGES}/tools.iso"))
        refresh(h1)
        drive = disk(f"{IMAGES}/tools.iso", "hda", "raw", device="cdrom", extra="<readonly/>")
        stack.enter_context(defined(h1, domain_xml("indoors", disks(f"{IMAGES}/roof.qcow2") + drive)))
        options = ("--map-storage", "default=fast", "--chain", "keep")
        check(Case("indoors", IN_PLACE, options, to="h1", mode="cold"))


def test_every_finding_is_provoked_here_or_said_to_be_elsewhere() -> None:
    assert test_check_states.pytestmark, "its rows count as well"
    known = {code for code, *_ in rows_in_the_docs()}
    assert PROVOKED | ELSEWHERE.keys() == known
    assert not PROVOKED & ELSEWHERE.keys()
