"""Everything in a domain's XML that ties it to the host it is on, besides its disks and network cards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lxml import etree

from mudanza.hypervisor.xml.disks import pci_address
from mudanza.hypervisor.xml.parsing import attribute, every, first, text
from mudanza.model.vm import HostDevice

_OWN_SOCKETS = ("/var/lib/libvirt/qemu/", "/run/libvirt/qemu/", "/var/run/libvirt/qemu/")
"""Where libvirt puts sockets of its own making; it makes new ones wherever the guest goes."""


def parse_host_devices(root: etree._Element) -> tuple[HostDevice, ...]:
    """Return the host devices, shared directories, sockets and files a domain holds on to."""
    devices = first(root, "devices")
    if devices is None:
        return ()
    return tuple(found for look in _LOOKS for found in look(devices))


def _passed_through(devices: etree._Element) -> Iterator[HostDevice]:
    for device in every(devices, "hostdev"):
        kind = device.get("type") or "unknown"
        source = first(device, "source")
        yield HostDevice(
            kind,
            _describe_hostdev(kind, source),
            path=attribute(device, "source/char", "dev") or text(device, "source/char") or text(device, "source/block"),
            teaming=first(device, "teaming") is not None,
        )


def _describe_hostdev(kind: str, source: etree._Element | None) -> str:
    if source is None:
        return kind
    address = first(source, "address")
    if kind == "pci":
        return pci_address(address)
    if kind == "usb" and first(source, "vendor") is not None:
        return f"{attribute(source, 'vendor', 'id')}:{attribute(source, 'product', 'id')}"
    if kind == "usb" and address is not None:
        return f"bus {address.get('bus')} device {address.get('device')}"
    if kind == "mdev" and address is not None:
        return address.get("uuid") or "unknown"
    if kind == "scsi" and address is not None:
        place = ":".join(address.get(name) or "0" for name in ("bus", "target", "unit"))
        return f"{attribute(source, 'adapter', 'name')} {place}"
    return source.get("wwpn") or source.get("name") or kind


def _shared_directories(devices: etree._Element) -> Iterator[HostDevice]:
    for directory in every(devices, "filesystem"):
        virtiofs = attribute(directory, "driver", "type") == "virtiofs"
        socket = attribute(directory, "source", "socket")
        path = attribute(directory, "source", "dir") or attribute(directory, "source", "file") or socket
        yield HostDevice(
            "virtiofs" if virtiofs else "9p", f"{path} as {attribute(directory, 'target', 'dir')}", path=path
        )


def _shared_memory(devices: etree._Element) -> Iterator[HostDevice]:
    for memory in every(devices, "shmem"):
        yield HostDevice("shmem", f"{memory.get('name')} ({attribute(memory, 'model', 'type') or 'ivshmem'})")


def _redirected(devices: etree._Element) -> Iterator[HostDevice]:
    for device in every(devices, "redirdev"):
        yield HostDevice("redirdev", f"{device.get('bus')} over {device.get('type')}")
    for card in every(devices, "smartcard"):
        yield HostDevice("ccid", f"smartcard ({card.get('mode')})")


def _characters(devices: etree._Element) -> Iterator[HostDevice]:
    for element in ("serial", "parallel", "console", "channel"):
        for device in every(devices, element):
            kind = device.get("type") or ""
            path = attribute(device, "source", "path")
            of_the_host = kind in ("dev", "pipe") or (kind == "unix" and not (path or "").startswith(_OWN_SOCKETS))
            # The first <console> repeats the first <serial>: once is enough.
            repeated = element == "console" and attribute(device, "target", "type") == "serial"
            if path and of_the_host and not repeated:
                yield HostDevice("char", f"{element} on {path}", path=path)


def _entropy(devices: etree._Element) -> Iterator[HostDevice]:
    for backend in every(devices, "rng/backend"):
        path = (
            (backend.text or "").strip() if backend.get("model") == "random" else attribute(backend, "source", "path")
        )
        if path and path not in ("/dev/urandom", "/dev/random"):
            yield HostDevice("rng", f"entropy from {path}", path=path)


def _inputs(devices: etree._Element) -> Iterator[HostDevice]:
    for device in every(devices, "input"):
        path = attribute(device, "source", "evdev") or attribute(device, "source", "dev")
        if path:
            yield HostDevice("evdev", f"input {path}", path=path)


def _memories(devices: etree._Element) -> Iterator[HostDevice]:
    for memory in every(devices, "memory"):
        model = memory.get("model") or ""
        path = text(memory, "source/path")
        if path and model in ("nvdimm", "virtio-pmem"):
            yield HostDevice(model, f"{model} on {path}", path=path)
        elif model == "sgx-epc":
            yield HostDevice("sgx", "SGX enclave memory")


def _accelerated_video(devices: etree._Element) -> Iterator[HostDevice]:
    for video in every(devices, "video"):
        if attribute(video, "driver", "name") == "vhostuser":
            yield HostDevice("vhost-user", "video card")
        elif attribute(video, "model/acceleration", "accel3d") == "yes":
            yield HostDevice("virgl", "video card with 3D acceleration")
    for display in every(devices, "graphics"):
        if attribute(display, "gl", "enable") == "yes":
            yield HostDevice("virgl", f"{display.get('type')} display with OpenGL")


def _rendering(devices: etree._Element) -> Iterator[HostDevice]:
    for display in every(devices, "graphics"):
        path = attribute(display, "gl", "rendernode")
        if path and display.get("type") == "egl-headless":
            yield HostDevice("render", f"display rendered on {path}", path=path)


def _ssh_files(devices: etree._Element) -> Iterator[HostDevice]:
    for source in every(devices, "disk/source"):
        for path in (attribute(source, "identity", "keyfile"), attribute(source, "knownHosts", "path")):
            if path:
                yield HostDevice("ssh", f"disk over ssh by {path}", path=path)


def _listening(devices: etree._Element) -> Iterator[HostDevice]:
    for element in ("serial", "parallel", "console", "channel"):
        for device in every(devices, element):
            repeated = element == "console" and attribute(device, "target", "type") == "serial"
            for source in every(device, "source") if not repeated else ():
                if source.get("mode") == "bind" and source.get("service"):
                    yield HostDevice("listener", f"{element} on {source.get('host') or ''}:{source.get('service')}")


def _crash_store(devices: etree._Element) -> Iterator[HostDevice]:
    for store in every(devices, "pstore"):
        path = text(store, "path")
        yield HostDevice("pstore", f"store of crashes{f' in {path}' if path else ''}", path=path)


_LOOKS: tuple[Callable[[etree._Element], Iterator[HostDevice]], ...] = (
    _passed_through,
    _shared_directories,
    _shared_memory,
    _redirected,
    _characters,
    _entropy,
    _inputs,
    _memories,
    _accelerated_video,
    _rendering,
    _ssh_files,
    _listening,
    _crash_store,
)
