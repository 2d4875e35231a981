"""A virtual machine as one host describes it at one instant."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mudanza.model.claim import Claim
from mudanza.model.wishes import VmWishes


class VmState(StrEnum):
    """libvirt's domain states, in virsh's words."""

    RUNNING = "running"
    BLOCKED = "idle"
    PAUSED = "paused"
    SHUTDOWN = "in shutdown"
    SHUTOFF = "shut off"
    CRASHED = "crashed"
    PMSUSPENDED = "pmsuspended"
    NOSTATE = "no state"

    @property
    def active(self) -> bool:
        """Whether a QEMU process stands behind it."""
        return self not in (VmState.SHUTOFF, VmState.CRASHED, VmState.NOSTATE)


@dataclass(frozen=True, slots=True)
class Backing:
    """One image below a disk's top image."""

    path: str
    format: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, CD-ROM or floppy drive. Sizes in bytes, None where the host could not tell."""

    target: str
    """The guest's name for it, such as ``vda``."""
    device: str
    """``disk``, ``cdrom``, ``floppy`` or ``lun``."""
    bus: str
    kind: str
    """libvirt's disk type: ``file``, ``block``, ``network``, ``volume``, ``dir``, ``nvme``, ``vhostuser``."""
    source: str | None
    """Path, or ``protocol://host:port/name`` of a network disk; None for an empty drive."""
    format: str
    cache: str = "default"
    readonly: bool = False
    shareable: bool = False
    capacity: int | None = None
    allocation: int | None = None
    backing: tuple[Backing, ...] = ()
    """From the image just below the top one down to the base."""
    pool: str | None = None
    """The pool of its host that holds it."""
    volume: str | None = None
    """Its name in that pool."""
    owner: tuple[int, int] | None = None
    """User and group id of the image file."""
    mode: int | None = None
    secret: str | None = None
    """UUID or usage of the libvirt secret that opens it."""
    iotune: bool = False
    transient: bool = False
    """``<transient/>``: its writes are thrown away when the VM stops."""
    mirror: bool = False
    """A block job copies or commits it right now (``<mirror>`` in the live definition)."""
    encryption: str | None = None
    """``luks`` or ``qcow`` where QEMU encrypts the image."""
    old_qcow2: bool = False
    """Whether its image is known to be of version 2 of qcow2, which has no room for what tells of changes."""

    @property
    def is_local_image(self) -> bool:
        """Whether it is an image or a device named by a path of its host."""
        return self.kind in ("file", "block", "volume") and self.source is not None


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card."""

    mac: str
    kind: str
    """libvirt's interface type: ``network``, ``bridge``, ``direct``, ``user``, ``ethernet``, ``hostdev``…"""
    source: str | None
    """The network, bridge or host device it hangs on."""
    model: str | None = None
    virtualport: str | None = None
    """``openvswitch``, ``802.1Qbh``… where set."""
    vlans: tuple[int, ...] = ()
    nwfilter: str | None = None
    portgroup: str | None = None
    mode: str | None = None
    """``bridge``, ``vepa``, ``private`` or ``passthrough`` of a ``direct`` card (macvtap)."""
    teaming: str | None = None
    """``persistent`` or ``transient`` where it is half of a failover pair."""


@dataclass(frozen=True, slots=True)
class HostDevice:
    """Something that ties the VM to its host: a passed-through device, a shared directory, a socket."""

    kind: str
    """``pci``, ``usb``, ``mdev``, ``scsi``, ``virtiofs``, ``9p``, ``vhost-user``, ``shmem``, ``redirdev``…"""
    description: str
    path: str | None = None
    """The path of its host that it needs (a serial device, a source of entropy, an input device)."""
    teaming: bool = False
    """Half of a failover pair: QEMU unplugs it for a migration by itself."""


@dataclass(frozen=True, slots=True)
class Graphics:
    """A VNC or SPICE display and the address it listens on (None: the host's default)."""

    kind: str
    listen: str | None
    port: int | None = None
    """The TCP port it has; None where it has none yet."""
    autoport: bool = True
    """Whether libvirt chooses the port anew wherever it starts."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One libvirt snapshot."""

    name: str
    external: bool
    current: bool
    parent: str | None = None
    memory: str | None = None
    """The file an external snapshot of a running guest has its memory in."""
    disks: frozenset[str] = frozenset()
    """The images that were the VM's disks when it was made."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """UEFI or BIOS files given to the guest; paths on the host."""

    loader: str | None
    nvram: str | None
    nvram_template: str | None = None


@dataclass(frozen=True, slots=True)
class Tpm:
    """An emulated or passed-through TPM."""

    model: str
    backend: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """How many bytes were written by when, in seconds of the controller's monotonic clock."""

    amount: int
    at: float

    def rate_since(self, earlier: Written) -> float:
        """Return the bytes per second between two of them; 0 where there is no time between them."""
        passed = self.at - earlier.at
        return max(0, self.amount - earlier.amount) / passed if passed > 0 else 0.0


@dataclass(frozen=True, slots=True)
class BoundMemory:
    """A part of a VM's memory that must come from some of its host's NUMA nodes. Bytes."""

    nodes: frozenset[int]
    size: int
    pages: tuple[int, ...] = ()
    """Sizes of the huge pages it must come in, as ``Vm.hugepages`` has them; empty: ordinary memory."""


@dataclass(frozen=True, slots=True)
class Vm:
    """One domain on one host. Memory in bytes."""

    uuid: str
    name: str
    host: str
    state: VmState
    reason: str
    """libvirt's reason for the state, in virsh's words: ``booted``, ``migrated``, ``migrating``, ``user``…"""
    persistent: bool
    autostart: bool
    memory: int
    """The most it may have."""
    vcpus: int
    arch: str
    machine: str
    domain_type: str
    """``kvm`` or ``qemu`` (software emulation)."""
    xml: str = field(repr=False)
    """The live definition while it runs, else the inactive one; with security info."""
    inactive_xml: str | None = field(default=None, repr=False)
    """The definition for its next start; None for a transient domain."""
    memory_used: int | None = None
    """What its QEMU occupies on the host (RSS) while it runs."""
    cpu_mode: str | None = None
    """``host-passthrough``, ``host-model``, ``custom``, ``maximum`` or None (the hypervisor's default)."""
    cpu_xml: str | None = field(default=None, repr=False)
    """The live ``<cpu>`` element."""
    cpu_required: frozenset[str] = frozenset()
    """Features that its ``<cpu>`` names, beyond those its model stands for, and that it must have."""
    cpu_seconds: float | None = None
    """CPU time used since it started."""
    written: Written | None = None
    """What it had written to its disks since it started, and when that was asked."""
    emulator: str | None = None
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    host_devices: tuple[HostDevice, ...] = ()
    graphics: tuple[Graphics, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    checkpoints: tuple[str, ...] = ()
    firmware: Firmware | None = None
    tpm: Tpm | None = None
    boot_files: tuple[str, ...] = ()
    """Kernel, initrd and device tree on the host, for a direct kernel boot."""
    hugepages: tuple[int, ...] = ()
    """Page sizes in bytes its memory must come from; 0 stands for the host's default size."""
    pinned_cpus: frozenset[int] = frozenset()
    """Host CPUs that vCPUs, the emulator or I/O threads are pinned to."""
    numa_nodes: frozenset[int] = frozenset()
    """Host NUMA nodes its memory is bound to."""
    bound_memory: tuple[BoundMemory, ...] = ()
    """Its memory, as far as it must come from certain nodes (``strict`` or ``restrictive``)."""
    memory_limit: int | None = None
    """``<maxMemory>``: up to where memory may be plugged in; None: no memory hotplug."""
    memory_source: str | None = None
    """``file``, ``memfd``… where ``<memoryBacking>`` names a source."""
    tsc_unfixed: bool = False
    """Its CPU has ``invtsc``, and its definition fixes no TSC frequency."""
    launch_security: str | None = None
    """``sev``, ``sev-snp``, ``tdx``, ``s390-pv``: memory the host cannot read."""
    vsock_cid: int | None = None
    """A context id it insists on; None where libvirt chooses one."""
    qemu_arguments: bool = False
    """``<qemu:commandline>``: arguments libvirt knows nothing about."""
    guest_agent: bool = False
    """It has a channel for QEMU's guest agent; whether one answers there is another matter."""
    secrets: tuple[str, ...] = ()
    seclabels: tuple[str, ...] = ()
    """Security models with a static label: ``selinux``, ``apparmor``."""
    has_managed_save: bool = False
    job: str | None = None
    """The libvirt job running on it (``migration out``, ``backup``…), whoever started it."""
    claims: tuple[Claim, ...] = ()
    """Who works on it, as its metadata says; more than one only while controllers find out who came first."""
    epoch: int = 0
    """How often it had changed its place by failover, as this definition says: of two copies the lower one is old."""
    tags: tuple[str, ...] = ()
    wishes: VmWishes | None = None
    """What its metadata wishes of its moves; None: nothing."""
    title: str | None = None
    error: str | None = None
    """Why its host could not describe it fully; None: it could."""
