"""What a guest is asked to be, and libvirt's XML for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from lxml import etree

from mudanza.lab.layout import PREFIX_LENGTH
from mudanza.model.errors import UsageError
from mudanza.model.units import GIB, MIB, format_size

SMALLEST_MEMORY = 96 * MIB
"""Less, and kernel and initramfs do not come up."""
MEMORY_BESIDE = 96 * MIB
"""What kernel, initramfs and agent need beside the working set."""
SMALLEST_DISK = 16 * MIB


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest to be made. Bytes, bytes per second, seconds.

    Raises UsageError for what cannot be. Names are anything libvirt takes.
    """

    name: str
    memory: int = 256 * MIB
    vcpus: int = 1
    disk: int = GIB
    """Size of its data disk; 0: none."""
    disk_format: str = "qcow2"
    pool: str = "default"
    """``default`` and ``fast`` are local to each host, ``shared`` is one directory seen by all."""
    cache: str = "none"
    write_rate: int = 0
    """Memory dirtied, from the start."""
    working_set: int = 0
    """Memory filled with incompressible data, and rewritten at the write rate; 0: chosen when first needed."""
    disk_write_rate: int = 0
    beat: float = 0.02
    burn: int = 0
    """Threads that keep a CPU busy."""
    cpu_model: str | None = None
    """A model's name, or ``host-model``, ``host-passthrough`` or ``maximum``; None: the hypervisor's default."""
    machine: str = "pc"
    network: str = "lan"
    vnc: bool = False
    address: str | None = None
    """None: the next free one of the lab."""
    mac: str | None = None
    """None: made from the address."""
    uuid: str | None = None
    """None: a new one."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or "\n" in self.name:
            raise UsageError(f"{self.name!r} is no name for a guest: libvirt takes neither '/' nor line ends")
        if self.memory < SMALLEST_MEMORY:
            raise UsageError(f"a guest needs at least {format_size(SMALLEST_MEMORY)} of memory")
        if self.working_set and self.working_set + MEMORY_BESIDE > self.memory:
            raise UsageError(
                f"a working set of {format_size(self.working_set)} leaves too little of"
                f" {format_size(self.memory)} of memory",
                remedy=f"leave at least {format_size(MEMORY_BESIDE)} beside it",
            )
        if self.disk and self.disk < SMALLEST_DISK:
            raise UsageError(f"a guest's disk has at least {format_size(SMALLEST_DISK)}", remedy="0 means no disk")
        if self.disk_write_rate and not self.disk:
            raise UsageError("a guest without a disk cannot write to it")
        if min(self.vcpus, self.beat) <= 0 or min(self.write_rate, self.disk_write_rate, self.burn) < 0:
            raise UsageError("vCPUs and the beat must be above 0, rates and burners not below")

    @property
    def volume(self) -> str:
        """The name of its volume."""
        return f"{self.name}.{self.disk_format}"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """Kernel and initramfs by their paths on the lab's hosts."""

    kernel: str
    initrd: str


def mac_of(address: str) -> str:
    """Return the MAC address of the guest of that IPv4 address."""
    low = int(IPv4Address(address)) & 0xFFFF
    return f"52:54:00:6d:{low >> 8:02x}:{low & 0xFF:02x}"


def console_log(uuid: str) -> str:
    """Return the file, on the host it runs on, that keeps what the guest of that UUID says on its console."""
    return f"/var/log/libvirt/console-{uuid}.log"


def command_line(spec: GuestSpec) -> str:
    """Return the kernel command line, which carries the agent's settings."""
    settings = {
        "ip": f"{spec.address}/{PREFIX_LENGTH}",
        "beat": round(spec.beat * 1000),
        "write": spec.write_rate,
        "workingset": spec.working_set,
        "diskwrite": spec.disk_write_rate,
        "burn": spec.burn,
    }
    # Mitigations cost emulated CPUs a lot, and a lab guest has no secrets.
    kernel = "console=ttyS0 quiet loglevel=3 panic=1 mitigations=off ipv6.disable=1"
    return " ".join([kernel, *(f"mudanza.{key}={value}" for key, value in settings.items())])


def volume_xml(spec: GuestSpec) -> str:
    """Return the XML that creates the guest's volume."""
    volume = etree.Element("volume")
    _add(volume, "name", spec.volume)
    _add(volume, "capacity", str(spec.disk), unit="bytes")
    _add(_add(volume, "target"), "format", type=spec.disk_format)
    return _text(volume)


def domain_xml(spec: GuestSpec, boot: BootFiles, disk_path: str | None) -> str:
    """Return the XML that defines the guest; its address, MAC and UUID must be settled."""
    domain = etree.Element("domain", type="qemu")
    _add(domain, "name", spec.name)
    _add(domain, "uuid", spec.uuid)
    _add(domain, "memory", str(spec.memory), unit="bytes")
    _add(domain, "vcpu", str(spec.vcpus))
    _add_os(domain, spec, boot)
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    _add_cpu(domain, spec.cpu_model)
    _add(domain, "on_crash", "destroy")
    devices = _add(domain, "devices")
    _add(devices, "controller", type="usb", model="none")
    if disk_path:
        _add_disk(devices, spec, disk_path)
    _add_interface(devices, spec)
    serial = _add(devices, "serial", type="pty")
    # What a dying guest says on its way is kept on the host it died on.
    _add(serial, "log", file=console_log(str(spec.uuid)), append="on")
    _add(serial, "target", port="0")
    _add(_add(devices, "console", type="pty"), "target", type="serial", port="0")
    _add(devices, "memballoon", model="virtio")
    if spec.vnc:
        _add(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    return _text(domain)


def _add(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    child = etree.SubElement(parent, tag, attrib=attributes)
    if text is not None:
        try:
            child.text = text
        except ValueError as error:
            raise UsageError(f"{text!r} cannot stand in XML: {error}", remedy="choose another name") from error
    return child


def _add_os(domain: etree._Element, spec: GuestSpec, boot: BootFiles) -> None:
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=spec.machine)
    _add(system, "kernel", boot.kernel)
    _add(system, "initrd", boot.initrd)
    _add(system, "cmdline", command_line(spec))


def _add_cpu(domain: etree._Element, model: str | None) -> None:
    if model in ("host-model", "host-passthrough", "maximum"):
        _add(domain, "cpu", mode=model)
    elif model:
        cpu = _add(domain, "cpu", mode="custom", match="exact", check="partial")
        _add(cpu, "model", model, fallback="forbid")


def _add_disk(devices: etree._Element, spec: GuestSpec, path: str) -> None:
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type=spec.disk_format, cache=spec.cache)
    _add(disk, "source", file=path)
    _add(disk, "target", dev="vda", bus="virtio")


def _add_interface(devices: etree._Element, spec: GuestSpec) -> None:
    interface = _add(devices, "interface", type="network")
    _add(interface, "mac", address=str(spec.mac))
    _add(interface, "source", network=spec.network)
    _add(interface, "model", type="virtio")


def _text(root: etree._Element) -> str:
    return etree.tostring(root, encoding="unicode", pretty_print=True)
