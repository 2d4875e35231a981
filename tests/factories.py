"""Model objects with sane defaults, so that a test names only what it is about.

Everything fits together: ``vm()`` runs on ``host("h1")`` and moves to ``host("h2")`` without a single finding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from mudanza.model.claim import Claim
from mudanza.model.cluster import Cluster
from mudanza.model.host import Host, HostEntry, Network, Pool
from mudanza.model.migration import Answer, Facts, Probe
from mudanza.model.units import GIB
from mudanza.model.vm import Disk, Nic, Vm, VmState
from mudanza.preflight.devices import addresses_needed
from mudanza.preflight.files import files_needed

YES = Probe(Answer.YES)
NO = Probe(Answer.NO)
UNKNOWN = Probe(Answer.UNKNOWN)

IMAGES = "/var/lib/libvirt/images"
EMULATOR = "/usr/bin/qemu-system-x86_64"
UUID = "11111111-2222-4333-8444-555555555555"
OTHER_UUID = "99999999-2222-4333-8444-555555555555"


def disk(**changes: Any) -> Disk:
    """A 10 GiB qcow2 image with 2 GiB in use, in the pool ``images``."""
    base = Disk(
        target="vda",
        device="disk",
        bus="virtio",
        kind="file",
        source=f"{IMAGES}/web.qcow2",
        format="qcow2",
        capacity=10 * GIB,
        allocation=2 * GIB,
        pool="images",
        volume="web.qcow2",
        owner=(64055, 64055),
        mode=0o600,
    )
    return replace(base, **changes)


def iso(**changes: Any) -> Disk:
    """A CD-ROM drive with an image in it."""
    base = Disk("sda", "cdrom", "sata", "file", f"{IMAGES}/debian.iso", "raw", readonly=True)
    return replace(base, **changes)


def nic(**changes: Any) -> Nic:
    """A virtio card on the bridge ``br0``."""
    return replace(Nic(mac="52:54:00:00:00:01", kind="bridge", source="br0", model="virtio"), **changes)


CLAIM = Claim("0123456789abcdef" * 2, 7, 1, "ana@laptop", "live", "h1", "h2", "2026-01-01T10:00:00+00:00")
"""Another controller's."""


def vm(**changes: Any) -> Vm:
    """A running VM of 1 GiB and 2 vCPUs on ``h1`` with one disk and one card."""
    base = Vm(
        uuid=UUID,
        name="web",
        host="h1",
        state=VmState.RUNNING,
        reason="booted",
        persistent=True,
        autostart=False,
        memory=1 * GIB,
        vcpus=2,
        arch="x86_64",
        machine="pc-q35-7.2",
        domain_type="kvm",
        xml="<domain/>",
        inactive_xml="<domain/>",
        cpu_mode="host-model",
        emulator=EMULATOR,
        disks=(disk(),),
        nics=(nic(),),
    )
    return replace(base, **changes)


def pool(**changes: Any) -> Pool:
    """The directory pool ``images`` with 60 of 100 GiB free."""
    return replace(Pool("images", "dir", IMAGES, active=True, capacity=100 * GIB, available=60 * GIB), **changes)


def network(**changes: Any) -> Network:
    """A libvirt network that forwards to a bridge of the host."""
    return replace(Network("lan", active=True, forward="bridge", bridge="br0"), **changes)


def host(name: str = "h1", **changes: Any) -> Host:
    """A host of 8 CPUs and 16 GiB with a pool, a network and a bridge."""
    base = Host(
        entry=HostEntry(name, f"qemu+tls://{name}.example/system"),
        hostname=f"{name}.example",
        host_uuid=str(uuid5(NAMESPACE_DNS, name)),
        arch="x86_64",
        cpus=8,
        cpu_model="Skylake-Server-IBRS",
        cpu_vendor="Intel",
        cpu_features=frozenset({"vmx", "pdpe1gb"}),
        memory_total=16 * GIB,
        memory_free=12 * GIB,
        libvirt_version=9_000_000,
        qemu_version=7_002_000,
        daemon="libvirtd",
        encrypted=True,
        domain_types=frozenset({"kvm", "qemu"}),
        machines=frozenset({"pc-q35-7.2", "q35", "pc-i440fx-7.2", "pc"}),
        pools=(pool(),),
        networks=(network(),),
        interfaces=frozenset({"br0", "eth0"}),
        cpu_count_by_node=(8,),
        security_models=frozenset({"dac", "apparmor"}),
        qemu_owner=(64055, 64055),
        tpm_backends=frozenset({"emulator"}),
    )
    return replace(base, **changes)


def entry(name: str, **changes: Any) -> HostEntry:
    """What the operator told us of a host."""
    return replace(host(name).entry, **changes)


def cluster(hosts: Iterable[Host] = (), vms: Iterable[Vm] = ()) -> Cluster:
    """A snapshot of those hosts and VMs; without hosts, of ``h1`` and ``h2``."""
    return Cluster(tuple(hosts) or (host("h1"), host("h2")), tuple(vms))


def facts(of: Vm, target: Host, **changes: Any) -> Facts:
    """Everything probed and well: disks are local, files are there, volumes are not, clocks agree."""
    nvram = of.firmware.nvram if of.firmware else None
    base = Facts(
        cpu=YES,
        peer=YES,
        tls=YES,
        data_path=YES,
        shared={d.target: NO for d in of.disks},
        files={path: NO if path == nvram else YES for path in files_needed(of, target)},
        occupied={d.target: NO for d in of.disks},
        addresses=dict.fromkeys(addresses_needed(of), YES),
        clock_offset=0.0,
    )
    return replace(base, **changes)
