"""Whether a display can listen on an address of a host: libvirt does not tell which addresses a host has.

So a tiny guest, started paused and ended at once, has a display there in the VM's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import libvirt

from mudanza.hypervisor.connection import HostConnection, message
from mudanza.hypervisor.own.ghost import domain_xml
from mudanza.hypervisor.own.throwaway import Throwaway, remove_domain, throwaway_name
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Vm

LISTEN_TIMEOUT = 10.0
"""Seconds that trying one address may take."""
_REFUSALS = ("Failed to bind socket", "address resolution failed")
"""What QEMU says of an address that is not its host's, or is none."""
_PORT_TAKEN = "already in use"


def probe_addresses(target: HostConnection, about: Host, vm: Vm, addresses: Iterable[str]) -> Mapping[str, Probe]:
    """Return for each address whether a display of the VM could listen on it. UNKNOWN where it could not be tried."""
    return {address: _try(target, about, vm, address) for address in addresses}


def _try(target: HostConnection, about: Host, vm: Vm, address: str) -> Probe:
    if vm.domain_type not in about.domain_types or vm.machine not in about.machines:
        return Probe(Answer.UNKNOWN, f"{about.name} cannot run a guest like it ({vm.domain_type}, {vm.machine})")
    name = throwaway_name("probe")
    xml = domain_xml(name, vm.domain_type, vm.arch, machine=vm.machine, listen=address)
    try:
        with Throwaway(target, name, remove_domain) as guest:
            return guest.ask(lambda raw: _listen(raw, xml), timeout=LISTEN_TIMEOUT)
    except MudanzaError as error:
        return Probe(Answer.UNKNOWN, str(error))


def _listen(raw: Any, xml: str) -> Probe:
    try:
        # Should this program die, libvirt ends the guest together with the connection.
        raw.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY)
    except libvirt.libvirtError as error:
        said = message(error)
    else:
        return Probe(Answer.YES, "a display could listen there")
    refusal = next((said[said.index(sign) :] for sign in _REFUSALS if sign in said), "")
    if refusal and _PORT_TAKEN not in refusal:
        return Probe(Answer.NO, refusal)
    return Probe(Answer.UNKNOWN, said)
