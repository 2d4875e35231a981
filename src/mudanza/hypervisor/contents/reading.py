"""What a file or device of a host contains, in digests: for comparing two hosts without carrying it to one of them."""

from __future__ import annotations

import logging

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.contents.by_libvirt import LibvirtContents
from mudanza.hypervisor.contents.by_ssh import SshContents
from mudanza.hypervisor.contents.digests import (
    CHUNK,
    UNREAD,
    Contents,
    Digests,
    Layer,
    assembled,
    differing,
    is_readable,
)
from mudanza.hypervisor.ssh import ssh_command
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import Host

__all__ = ["CHUNK", "UNREAD", "Contents", "Digests", "Layer", "assembled", "contents_of", "differing", "is_readable"]

_log = logging.getLogger(__name__)


def contents_of(host: HostConnection, about: Host) -> Contents:
    """Return the best way to read a host's files: where they are, if the controller can log in there by ssh.

    A trial login takes part of a second, LOGIN_TIMEOUT seconds at most.
    """
    command = ssh_command(host.entry.uri)
    if command is not None:
        try:
            return SshContents(host.name, command)
        except (HostUnreachableError, HypervisorError) as error:
            _log.info("the files of %s are read through the controller, for ssh does not do: %s", host.name, error)
    return LibvirtContents(host, about)
