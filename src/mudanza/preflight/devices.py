"""Devices that tie a VM to its host: hardware handed over, displays, TPM, vsock."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from mudanza.model.finding import Finding
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Graphics, HostDevice, Vm
from mudanza.preflight.case import Case, blocks_live
from mudanza.preflight.files import OPENED_BY_PATH
from mudanza.preflight.wording import because, blocker, listed, virsh, vm_key, warning

_UNKNOWN = Probe()
_TIED = {
    "pci": "a PCI device of the host",
    "mdev": "a mediated device of the host",
    "usb": "a USB device of the host",
    "scsi": "a SCSI device of the host",
    "scsi_host": "a vhost-scsi target of the host",
    "ccid": "a smart card of the host",
    "vdpa": "a vDPA device of the host",
    "sgx": "SGX memory of the host",
    "shmem": "memory shared with other processes of the host",
    "virtiofs": "a directory of the host, served by virtiofsd",
    "9p": "a directory of the host",
    "vhost-user": "a process of the host, by vhost-user",
    "virgl": "the host's graphics card, for 3D",
    "virtio-pmem": "persistent memory of the host",
}
"""What QEMU or libvirt refuses to migrate, and USB, which libvirt lets pass while the device stays behind."""


def host_devices(case: Case) -> Iterator[Finding]:
    """Each device the host lends; those that are only a path are looked up as files."""
    for device in case.vm.host_devices:
        if device.kind not in OPENED_BY_PATH or device.path is None:
            yield _lent(case, device)


def _lent(case: Case, device: HostDevice) -> Finding:
    subject = f"device {device.description}"
    if device.teaming:
        return warning(
            "failover-device",
            subject,
            "it is half of a failover pair: QEMU unplugs it and plugs in one of the target's",
            f"make sure that {case.target.name} has a free device for it",
        )
    if device.kind == "redirdev":
        return warning(
            "usb-redirection",
            subject,
            "USB devices redirected from a viewer are lost to the guest until the viewer connects again",
            "disconnect them in the viewer first",
        )
    if device.kind == "listener":
        return warning(
            "serial-listens",
            subject,
            f"it listens on an address and a port of its host; whether {case.target.name} has both, and free, was not "
            "found out, and whoever is connected to it is cut off",
            f"see to it that it can listen there (ss -ltnu on {case.target.name}), and connect anew after the move",
        )
    if device.kind in _TIED:
        now = "--live" if case.vm.state.active else "--config"
        return blocks_live(
            case,
            "host-device",
            subject,
            f"the VM uses {_TIED[device.kind]}, which cannot move with it",
            f"detach it: virsh detach-device {now} {vm_key(case.vm)} FILE; "
            f"a VM moved cold finds only what {case.target.name} has under the same name",
        )
    return warning(
        "device-unknown",
        subject,
        f"it is of a kind preflight does not know ({device.kind}); libvirt decides when the move starts",
        f"make sure that {case.target.name} has the like of it, or detach it: virsh detach-device",
    )


def addresses_needed(vm: Vm) -> tuple[str, ...]:
    """Return the addresses to be tried on the target (``Facts.addresses``): not those that every host has."""
    named = (display.listen for display in vm.graphics)
    return tuple(dict.fromkeys(address for address in named if address is not None and not _on_every_host(address)))


def displays(case: Case) -> Iterator[Finding]:
    """A display listens on an address and maybe on a port of its host."""
    for display in case.vm.graphics:
        yield from _listen_address(case, display)
        if not display.autoport and display.port is not None and display.port in _ports_taken(case):
            yield blocker(
                "display-port",
                f"display {display.kind}",
                f"it insists on port {display.port}, which a VM on {case.target.name} uses already",
                f"let libvirt choose (autoport='yes', virsh edit {vm_key(case.vm)}) and restart the VM",
            )


def _listen_address(case: Case, display: Graphics) -> Iterator[Finding]:
    address = display.listen
    if address is None or _on_every_host(address):
        return
    probe = case.facts.addresses.get(address, _UNKNOWN)
    remedy = (
        f"listen on 127.0.0.1 or 0.0.0.0 (virsh edit {vm_key(case.vm)}) and restart the VM, "
        f"or give {case.target.name} that address"
    )
    if probe.answer is Answer.UNKNOWN:
        yield warning(
            "display-address-unknown",
            f"display {display.kind}",
            f"it listens on {address}; whether it can on {case.target.name} was not found out{because(probe.detail)}",
            remedy,
        )
    elif probe.answer is Answer.NO:
        yield blocker(
            "display-address",
            f"display {display.kind}",
            f"it listens on {address}, and on {case.target.name} it could not{because(probe.detail)}",
            remedy,
        )


def _on_every_host(address: str) -> bool:
    if address in ("", "localhost"):
        return True
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return parsed.is_unspecified or parsed.is_loopback


def _ports_taken(case: Case) -> set[int]:
    active = [vm for vm in case.neighbours if vm.state.active]
    return {display.port for vm in active for display in vm.graphics if display.port is not None}


def tpm(case: Case) -> Iterator[Finding]:
    """An emulated TPM needs swtpm at the target; a real one stays where it is soldered."""
    chip = case.vm.tpm
    if chip is None:
        return
    if chip.backend != "emulator":
        yield blocks_live(
            case,
            "tpm-passthrough",
            f"TPM {chip.model}",
            f"its TPM is of the host ({chip.backend}), and what is sealed in it does not move",
            f"use an emulated one (virsh edit {vm_key(case.vm)}: <backend type='emulator' version='2.0'/>)",
        )
    elif chip.backend not in case.target.tpm_backends:
        yield blocker(
            "tpm-missing",
            f"TPM {chip.model}",
            f"{case.target.name} cannot emulate a TPM (it offers: {listed(case.target.tpm_backends)})",
            f"install swtpm and swtpm-tools on {case.target.name}, restart libvirt there; "
            f"see {virsh(case.target, 'domcapabilities')}",
        )


def vsock(case: Case) -> Iterator[Finding]:
    """A vsock address is one of a kind on its host."""
    cid = case.vm.vsock_cid
    if cid is None:
        return
    for other in case.neighbours:
        if other.vsock_cid == cid and other.state.active:
            yield blocker(
                "vsock-taken",
                f"VM {case.vm.name}",
                f"{other.name} on {case.target.name} uses vsock address {cid} already",
                f"let libvirt choose one (<cid auto='yes'/>, virsh edit {vm_key(case.vm)}) and restart one of the two",
            )
