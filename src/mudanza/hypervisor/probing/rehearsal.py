"""A rehearsal: a migration of next to nothing, for what only a migration can tell.

No call of libvirt's says whether migration data gets from one host to another, or whether it does so encrypted. So a
tiny guest without disks, started paused and never run, goes the way the VM would go: same login, address, ports and
certificates. It is ended afterwards wherever it is.
"""

from __future__ import annotations

from typing import Any

import libvirt

from mudanza.hypervisor.bounded import Deadline
from mudanza.hypervisor.connection import HostConnection, message
from mudanza.hypervisor.domains import migration_flags
from mudanza.hypervisor.own.ghost import domain_xml
from mudanza.hypervisor.own.throwaway import REMOVAL_TIMEOUT, Throwaway, remove_domain, throwaway_name
from mudanza.hypervisor.uris import migration_uri, peer_uri
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Vm

TRY_TIMEOUT = 30.0
"""Seconds that starting and migrating the guest may take."""
REHEARSAL_TIMEOUT = TRY_TIMEOUT + 2 * REMOVAL_TIMEOUT
"""Seconds the whole rehearsal may take, with ending the guest on both hosts."""

_BAD_HANDSHAKE = "the two QEMUs did not accept each other's certificates"
_MEANINGS = (
    ("Unable to access credentials", "TLS for migration is not set up on one of the hosts"),
    ("does not match the hostname", "the target's certificate does not name the address that data is sent to"),
    # What the target says when the source has hung up on it during the handshake.
    ("TLS channel", _BAD_HANDSHAKE),
    ("TLS handshake failed", _BAD_HANDSHAKE),
)


class RehearsalImpossibleError(MudanzaError):
    """It could not even begin."""


def rehearse(source: HostConnection, target: HostConnection, here: Host, there: Host, vm: Vm, *, tls: bool) -> Probe:
    """Return whether migration data gets from source to target, encrypted if ``tls``.

    NO is what libvirt said when it tried, and in the clear that nothing came through in time while the source answers.
    UNKNOWN: it could not be tried, or with TLS took too long, which a busy host's handshake may. ``vm`` lends its
    architecture, its machine type and its kind of virtualization.
    """
    uri = peer_uri(there.entry)
    if uri is None:
        return Probe(Answer.UNKNOWN, f"no URI is known by which {here.name} reaches {there.name}")
    if vm.domain_type not in there.domain_types or vm.machine not in there.machines:
        return Probe(Answer.UNKNOWN, f"{there.name} cannot run a guest like it ({vm.domain_type}, {vm.machine})")
    name = throwaway_name("rehearsal")
    xml = domain_xml(name, vm.domain_type, vm.arch, machine=vm.machine)
    # First it goes from the source, so that it cannot come to the target any more.
    with Throwaway(target, name, remove_domain), Throwaway(source, name, remove_domain) as guest:
        deadline = Deadline(TRY_TIMEOUT)
        try:
            guest.ask(lambda raw: _start(raw, xml), timeout=deadline.left)
            guest.ask(lambda raw: _migrate(raw, name, uri, there, tls=tls), timeout=deadline.left)
            encrypted = ", encrypted" if tls else ""
            return Probe(Answer.YES, f"a rehearsal went from {here.name} to {there.name}{encrypted}")
        except RehearsalImpossibleError as error:
            return Probe(Answer.UNKNOWN, str(error))
        except HypervisorError as error:
            return Probe(Answer.NO, _explained(error.reason))
        except HostUnreachableError as error:
            # The source answers and its migration does not end: the data gets nowhere.
            hangs = not tls and deadline.left == 0 and source.answers()
            return Probe(Answer.NO if hangs else Answer.UNKNOWN, str(error))


def _explained(said: str) -> str:
    """Put what is known to be behind it before what libvirt said."""
    for sign, meaning in _MEANINGS:
        if sign in said:
            return f"{meaning}: {said}"
    return said


def _start(raw: Any, xml: str) -> None:
    try:
        raw.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
    except libvirt.libvirtError as error:
        why = message(error)
    else:
        return
    raise RehearsalImpossibleError(f"no guest could be started for a rehearsal: {why}")


def _migrate(raw: Any, name: str, uri: str, there: Host, *, tls: bool) -> None:
    parameters: dict[str, str] = {}
    address = migration_uri(there.entry)
    if address is not None:
        parameters[libvirt.VIR_MIGRATE_PARAM_URI] = address
    if tls and there.entry.tls_name is not None:
        parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = there.entry.tls_name
    flags = migration_flags(["PEER2PEER", "LIVE", "PAUSED", *(["TLS"] if tls else [])])
    raw.lookupByName(name).migrateToURI3(uri, parameters, flags)
