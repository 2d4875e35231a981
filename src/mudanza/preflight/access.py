"""Can the hosts be reached, by the controller and by each other, and is the way encrypted?"""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Tls
from mudanza.preflight.case import Case
from mudanza.preflight.identity import named_alike
from mudanza.preflight.wording import (
    because,
    blocker,
    listen_unit,
    mudanza,
    reachable_from_elsewhere,
    uri_transport,
    virsh,
    virsh_by,
    vm_key,
    warning,
)

CLOCK_TOLERANCE = 1.0
"""Seconds that two hosts' clocks may differ unmentioned: guests take their wall clock from the host."""

_SSH = "; root of the source needs a key without a passphrase, and the target's key among its known hosts"
_CREDENTIALS = {
    "ssh": _SSH,
    "libssh": _SSH,
    "libssh2": _SSH,
    "tls": "; the source needs /etc/pki/CA/cacert.pem, clientcert.pem and private/clientkey.pem in /etc/pki/libvirt",
}


def source_answers(case: Case) -> Iterator[Finding]:
    """The controller sees the source."""
    if not case.source.seen:
        yield blocker("source-unreachable", f"host {case.source.name}", *_unread(case.source))


def hooks(case: Case) -> Iterator[Finding]:
    """A hook that cannot be run is not passed over: a VM that names it may need it."""
    for name, probe in case.facts.hooks.items():
        subject = f"hook {name}"
        if probe.answer is Answer.UNKNOWN:
            yield blocker(
                "hook-unknown",
                subject,
                f"the VM wishes it to be run around its moves, and {probe.detail}",
                f"write [hooks.{name}] into them (docs/settings.md); or take it out of the VM's wishes: "
                f"{mudanza('wish', vm_key(case.vm), '--hook', '')}; or move it without: --no-hooks",
            )
        elif probe.answer is Answer.NO:
            yield blocker(
                "hook-missing",
                subject,
                f"it is to be run around the move, and {probe.detail}",
                f"install it, or mend [hooks.{name}] in the settings; or move it without: --no-hooks",
            )


def target_answers(case: Case) -> Iterator[Finding]:
    """The controller sees the target."""
    if not case.target.seen:
        yield blocker("target-unreachable", f"host {case.target.name}", *_unread(case.target))


def _unread(host: Host) -> tuple[str, str]:
    remedy = f"try it: {virsh(host, 'version')}; correct it: {mudanza('host', 'edit', host.name, '--uri', 'URI')}"
    return f"{host.name} could not be read: {host.error}", remedy


def maintenance(case: Case) -> Iterator[Finding]:
    """A host in maintenance takes no newcomers."""
    if case.target.entry.maintenance:
        yield blocker(
            "target-maintenance",
            f"host {case.target.name}",
            f"{case.target.name} is in maintenance and takes no VMs",
            f"open it again: {mudanza('maintenance', 'leave', case.target.name)}",
        )


def peer(case: Case) -> Iterator[Finding]:
    """The source's libvirt logs in to the target's: memory and disks flow from host to host."""
    target, probe = case.target, case.facts.peer
    uri = target.entry.peer_uri or target.entry.uri
    credentials = _CREDENTIALS.get(uri_transport(uri), "")
    login = (
        f"on {case.source.name}, as root: {virsh_by(uri, 'version')}; "
        f"on {target.name}: {listen_unit(target, uri)}{credentials}"
    )
    if not reachable_from_elsewhere(target.entry):
        yield blocker(
            "peer-uri-missing",
            f"host {target.name}",
            f"{target.entry.uri} means something on the controller only, so {case.source.name} has no way in",
            mudanza("host", "edit", target.name, "--peer-uri", f"qemu+tls://{target.hostname or 'ADDRESS'}/system"),
        )
    elif probe.answer is Answer.NO:
        yield blocker(
            "peer-unreachable",
            f"host {target.name}",
            f"{case.source.name} cannot log in to libvirt on {target.name} by {uri}{because(probe.detail)}",
            login,
        )
    elif probe.answer is Answer.UNKNOWN:
        yield warning(
            "peer-unknown",
            f"host {target.name}",
            f"whether {case.source.name} can log in to {target.name} by {uri} was not found out{because(probe.detail)}",
            login,
        )


def migration_address(case: Case) -> Iterator[Finding]:
    """libvirt sends the data to the target's host name unless told otherwise, and refuses "localhost"."""
    target = case.target
    if case.facts.data_path.answer is Answer.NO and _has_no_address(target):
        yield blocker(
            "migration-address",
            f"host {target.name}",
            f"{target.name} calls itself {target.hostname}, which leads nowhere from {case.source.name}",
            mudanza("host", "edit", target.name, "--migration-address", "ADDRESS"),
        )


def _has_no_address(target: Host) -> bool:
    """Whether it is up to libvirt where data goes, and its host name leads nowhere."""
    return target.entry.migration_address is None and target.hostname.split(".")[0] == "localhost"


def data_path(case: Case) -> Iterator[Finding]:
    """QEMU talks to QEMU on ports of its own. Unproven is no finding: a failure there leaves the guest running."""
    target, probe = case.target, case.facts.data_path
    if probe.answer is Answer.NO and not _has_no_address(target) and not named_alike(case):
        yield blocker(
            "data-path",
            f"host {target.name}",
            f"migration data does not get from {case.source.name} to {target.name}{because(probe.detail)}",
            f"open TCP ports 49152 to 49215 of {target.name} (migration_port_min and _max in /etc/libvirt/qemu.conf); "
            "where it has several networks: " + mudanza("host", "edit", target.name, "--migration-address", "ADDRESS"),
        )


def encryption(case: Case) -> Iterator[Finding]:
    """Memory and disks travel by TLS where both ends can."""
    tls, wanted = case.facts.tls, case.options.tls
    if wanted is Tls.OFF or tls.answer is Answer.YES:
        return
    fails = tls.answer is Answer.NO
    state = "does not work" if fails else "was not proven to work"
    message = f"encrypted migration from {case.source.name} to {case.target.name} {state}{because(tls.detail)}"
    remedy = (
        "put ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem and client-key.pem into "
        "/etc/pki/qemu on both hosts, readable for QEMU's user, with the address data is sent to in the certificate "
        "(else: " + mudanza("host", "edit", case.target.name, "--tls-name", "NAME") + ")"
    )
    if wanted is Tls.REQUIRE:
        yield blocker("tls-required", f"host {case.target.name}", message, f"{remedy}; or give up --tls require")
    elif fails:
        yield warning("tls-missing", f"host {case.target.name}", f"{message}: data may travel in the clear", remedy)
    else:
        yield warning(
            "tls-unproven",
            f"host {case.target.name}",
            f"{message}: it is tried, and if it fails, the VM stays as it is",
            "check again when the hosts are less busy, or let the data travel in the clear: --tls off",
        )


def clocks(case: Case) -> Iterator[Finding]:
    """A guest's clock jumps with its host's; certificates and logs suffer as well."""
    offset = case.facts.clock_offset
    remedy = "on both hosts: chronyc tracking (or timedatectl timesync-status)"
    if offset is None:
        yield warning(
            "clocks-unknown",
            f"host {case.target.name}",
            f"the clocks of {case.source.name} and {case.target.name} could not be compared",
            remedy,
        )
    elif abs(offset) > CLOCK_TOLERANCE:
        order = "ahead of" if offset > 0 else "behind"
        yield warning(
            "clocks-apart",
            f"host {case.target.name}",
            f"the clock of {case.target.name} is {abs(offset):.1f} s {order} that of {case.source.name}",
            remedy,
        )


def way_in_is_encrypted(case: Case) -> Iterator[Finding]:
    """Data encrypted or not: by plain TCP the VM's definition and its passwords are readable on the wire."""
    uri = case.target.entry.peer_uri or case.target.entry.uri
    if case.options.tls is Tls.REQUIRE and uri_transport(uri) == "tcp":
        yield warning(
            "peer-in-the-clear",
            f"host {case.target.name}",
            f"{case.source.name} would log in to {case.target.name} by {uri}, which is not encrypted",
            mudanza(
                "host", "edit", case.target.name, "--peer-uri", f"qemu+tls://{case.target.hostname or 'ADDRESS'}/system"
            ),
        )
