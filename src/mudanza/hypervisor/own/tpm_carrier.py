"""The state of an emulated TPM brought from host to host by libvirt itself.

swtpm keeps it in files that only libvirt knows to place, own and label. So a guest that has the VM's name, UUID and TPM
and nothing else, paused and never run, is migrated to where the VM's definition already is; ended there, it leaves
the state behind.
"""

from __future__ import annotations

from typing import Any

import libvirt
from lxml import etree

from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connection import CALL_TIMEOUT, HostConnection
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.own.throwaway import gone_is_fine
from mudanza.hypervisor.uris import migration_uri, peer_uri
from mudanza.hypervisor.xml.parsing import MUDANZA_NAMESPACE, outer, parse
from mudanza.model.errors import HypervisorError
from mudanza.model.host import Host

TPM_TIMEOUT = 90.0
"""Seconds it may take: an swtpm that starts for the first time makes its keys."""
CARRYING_LIMIT = 2 * TPM_TIMEOUT + 2 * CALL_TIMEOUT
"""Seconds that all of ``carry_tpm`` may last."""
_MARK = f"{{{MUDANZA_NAMESPACE}}}tpm-carrier"


def tpm_carrier_xml(definition: str) -> str:
    """Return the guest that carries the TPM of that definition. Raises HypervisorError for what is not XML."""
    whole = parse(definition, "source")
    root = etree.Element("domain", type=whole.get("type", "kvm"))
    for name in ("name", "uuid"):
        etree.SubElement(root, name).text = whole.findtext(name)
    metadata = etree.SubElement(root, "metadata")
    etree.SubElement(metadata, f"{{{MUDANZA_NAMESPACE}}}mudanza", nsmap={"m": MUDANZA_NAMESPACE}).append(
        etree.Element(_MARK)
    )
    etree.SubElement(root, "memory", unit="MiB").text = "1"
    etree.SubElement(root, "vcpu").text = "1"
    kind = whole.find("os/type")
    system = etree.SubElement(etree.SubElement(root, "os"), "type")
    system.text = "hvm"
    for name in ("arch", "machine"):
        if kind is not None and (value := kind.get(name)):
            system.set(name, value)
    devices = etree.SubElement(root, "devices")
    etree.SubElement(devices, "controller", type="usb", model="none")
    etree.SubElement(devices, "memballoon", model="none")
    devices.extend(whole.iterfind("devices/tpm"))
    return outer(root)


def carry_tpm(
    source: HostConnection, target: HostConnection, there: Host, uuid: str, definition: str, *, tls: bool
) -> None:
    """Bring the TPM's state over. The VM is shut off at the source and defined, and shut off, at the target.

    Raises HypervisorError, HostUnreachableError. Whatever happens: ``end_tpm_carrier`` at both hosts afterwards.
    """
    peer = peer_uri(there.entry)
    if peer is None:
        raise HypervisorError(source.name, f"it knows no way to {there.name}")
    xml = tpm_carrier_xml(definition)
    source.ask(lambda raw: _start(raw, xml), timeout=TPM_TIMEOUT)
    parameters: dict[str, int | str | list[str]] = {}
    if uri := migration_uri(there.entry):
        parameters["migrate_uri"] = uri
    if tls and there.entry.tls_name:
        parameters["tls.destination"] = there.entry.tls_name
    flags = ("LIVE", "PAUSED", *(("TLS",) if tls else ()))
    call = Task(lambda: Domains(source).migrate_p2p(uuid, peer, parameters, flags))
    try:
        call.wait(TPM_TIMEOUT)
    except TimeoutError:
        Domains(source).abort_job(uuid)
        late = f"the TPM's state did not get to {there.name} within {TPM_TIMEOUT:g} s"
        raise HypervisorError(source.name, late) from None
    if not target.ask(lambda raw: _is_carrier(raw, uuid)):
        raise HypervisorError(target.name, "the TPM's state did not arrive, though libvirt said so")


def _start(raw: Any, xml: str) -> None:
    raw.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)


def end_tpm_carrier(host: HostConnection, uuid: str) -> None:
    """End it on one host if it is there; the VM itself is never touched.

    Raises HypervisorError, HostUnreachableError.
    """
    host.ask(lambda raw: _end(raw, uuid), timeout=TPM_TIMEOUT)


def _end(raw: Any, uuid: str) -> None:
    if _is_carrier(raw, uuid):
        with gone_is_fine():
            raw.lookupByUUIDString(uuid).destroy()


def _is_carrier(raw: Any, uuid: str) -> bool:
    with gone_is_fine():
        domain = raw.lookupByUUIDString(uuid)
        return bool(domain.isActive()) and next(parse(domain.XMLDesc(0), "host").iter(_MARK), None) is not None
    return False
