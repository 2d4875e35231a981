"""What a guest is asked to be, and libvirt's XML for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from string import ascii_lowercase

from lxml import etree

from mudanza.lab.layout import PREFIX_LENGTH
from mudanza.model.errors import UsageError
from mudanza.model.units import GIB, MIB, format_size

SMALLEST_MEMORY = 96 * MIB
"""Less, and kernel and initramfs do not come up."""
MEMORY_BESIDE = 96 * MIB
"""What kernel, initramfs and agent need beside the working set."""
SMALLEST_DISK = 16 * MIB
DISK_FORMATS = ("qcow2", "raw")

FIRMWARE = "/usr/share/OVMF/OVMF_CODE.fd"
"""Without secure boot, which would refuse a kernel handed over directly. (With a TPM the 4 MiB build boots in 17 s.)"""
NVRAM_TEMPLATE = "/usr/share/OVMF/OVMF_VARS.fd"
NVRAM_DIRECTORY = "/var/lib/libvirt/qemu/nvram"


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
    """Of the data disk and the extra one: ``qcow2`` or ``raw``."""
    backing: str | None = None
    """Name of the volume in its pool that the data disk is an overlay of; its size is the disk's."""
    extra_disk: int = 0
    """Size of a second, blank disk; 0: none."""
    pool: str = "default"
    """``default`` and ``fast`` are local to each host, ``shared`` is one directory seen by all."""
    cache: str = "none"
    write_rate: int = 0
    """Memory dirtied, from the start."""
    working_set: int = 0
    """Memory filled with incompressible data, and rewritten at the write rate; 0: chosen when first needed."""
    changes_little: bool = False
    """Of each page that it dirties it changes one word only, and not all of it."""
    disk_write_rate: int = 0
    beat: float = 0.02
    burn: int = 0
    """Threads that keep a CPU busy."""
    cpu_model: str | None = None
    """A model's name, or ``host-model``, ``host-passthrough`` or ``maximum``; None: the hypervisor's default."""
    machine: str = "pc"
    uefi: bool = False
    """OVMF instead of a BIOS, with variables of its own in NVRAM."""
    tpm: bool = False
    """An emulated TPM 2.0."""
    guest_agent: bool = False
    """QEMU's own guest agent runs in it."""
    stubborn: bool = False
    """It does not heed the power button."""
    devices: str = ""
    """Further devices, as XML; whoever brings them takes away what is behind them."""
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
        if self.disk_format not in DISK_FORMATS:
            raise UsageError(f"{self.disk_format!r} is no disk format", remedy=f"one of: {', '.join(DISK_FORMATS)}")
        if self.backing and (self.disk_format != "qcow2" or not self.disk):
            raise UsageError("only a qcow2 disk can be an overlay of another image")
        if self.disk and self.disk < SMALLEST_DISK:
            raise UsageError(f"a guest's disk has at least {format_size(SMALLEST_DISK)}", remedy="0 means no disk")
        if self.disk_write_rate and not self.disk:
            raise UsageError("a guest without a disk cannot write to it")
        rates = (self.write_rate, self.disk_write_rate, self.burn, self.extra_disk)
        if min(self.vcpus, self.beat) <= 0 or min(rates) < 0:
            raise UsageError("vCPUs and the beat must be above 0, rates, burners and the extra disk not below")

    @property
    def volume(self) -> str:
        """The name of its data disk's volume."""
        return f"{self.name}.{self.disk_format}"

    @property
    def extra_volume(self) -> str:
        """The name of its extra disk's volume."""
        return f"{self.name}-extra.{self.disk_format}"


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
        "little": int(spec.changes_little),
        "diskwrite": spec.disk_write_rate,
        "burn": spec.burn,
        "stubborn": int(spec.stubborn),
    }
    # Mitigations, and looking whether ciphers work, cost emulated CPUs a lot, and a lab guest has no secrets.
    kernel = "console=ttyS0 quiet loglevel=3 panic=1 mitigations=off ipv6.disable=1 cryptomgr.notests"
    kernel += " initcall_blacklist=load_system_certificate_list"
    return " ".join([kernel, *(f"mudanza.{key}={value}" for key, value in settings.items())])


def volume_xml(name: str, size: int, image_format: str, backing: tuple[str, str] | None = None) -> str:
    """Return the XML that creates a volume of ``size`` bytes; ``backing``: path and format of the image below it."""
    volume = etree.Element("volume")
    _add(volume, "name", name)
    _add(volume, "capacity", str(size), unit="bytes")
    target = _add(volume, "target")
    _add(target, "format", type=image_format)
    if image_format == "qcow2":
        # Not told, libvirt makes version 2, which can hold no checkpoint's bitmap.
        _add(target, "compat", "1.1")
    if backing:
        path, below = backing
        store = _add(volume, "backingStore")
        _add(store, "path", path)
        _add(store, "format", type=below)
    return _text(volume)


def domain_xml(spec: GuestSpec, boot: BootFiles, disk_paths: Sequence[str]) -> str:
    """Return the XML that defines the guest, its own disks from ``vda`` on.

    Its address, MAC and UUID must be settled. Raises UsageError if its further devices are not XML.
    """
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
    for path, letter in zip(disk_paths, ascii_lowercase, strict=False):
        _add_disk(devices, spec, path, f"vd{letter}")
    _add_interface(devices, spec)
    serial = _add(devices, "serial", type="pty")
    # What a dying guest says on its way is kept on the host it died on.
    _add(serial, "log", file=console_log(str(spec.uuid)), append="on")
    _add(serial, "target", port="0")
    _add(_add(devices, "console", type="pty"), "target", type="serial", port="0")
    if spec.guest_agent:
        _add(_add(devices, "channel", type="unix"), "target", type="virtio", name="org.qemu.guest_agent.0")
    _add(devices, "memballoon", model="virtio")
    if spec.vnc:
        _add(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    if spec.tpm:
        _add(_add(devices, "tpm", model="tpm-crb"), "backend", type="emulator", version="2.0")
    devices.extend(_parse_devices(spec.devices))
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
    if spec.uefi:
        _add(system, "loader", FIRMWARE, readonly="yes", type="pflash")
        # Named here, because a definition that leaves it to libvirt does not tell where it is.
        _add(system, "nvram", f"{NVRAM_DIRECTORY}/{spec.name}_VARS.fd", template=NVRAM_TEMPLATE)
    _add(system, "kernel", boot.kernel)
    _add(system, "initrd", boot.initrd)
    _add(system, "cmdline", command_line(spec))


def _add_cpu(domain: etree._Element, model: str | None) -> None:
    if model in ("host-model", "host-passthrough", "maximum"):
        _add(domain, "cpu", mode=model)
    elif model:
        cpu = _add(domain, "cpu", mode="custom", match="exact", check="partial")
        _add(cpu, "model", model, fallback="forbid")


def _parse_devices(text: str) -> list[etree._Element]:
    try:
        return list(etree.fromstring(f"<devices>{text}</devices>"))
    except etree.XMLSyntaxError as error:
        raise UsageError(f"the further devices are not XML: {error}") from error


def _add_disk(devices: etree._Element, spec: GuestSpec, path: str, target: str) -> None:
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type=spec.disk_format, cache=spec.cache)
    _add(disk, "source", file=path)
    _add(disk, "target", dev=target, bus="virtio")


def _add_interface(devices: etree._Element, spec: GuestSpec) -> None:
    interface = _add(devices, "interface", type="network")
    _add(interface, "mac", address=str(spec.mac))
    _add(interface, "source", network=spec.network)
    _add(interface, "model", type="virtio")


def _text(root: etree._Element) -> str:
    return etree.tostring(root, encoding="unicode", pretty_print=True)
