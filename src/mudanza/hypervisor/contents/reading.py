"""What a file or device of a host contains, in digests: for comparing two hosts without carrying it to one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

from mudanza import clock
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.contents.by_libvirt import LibvirtContents
from mudanza.hypervisor.contents.by_ssh import SshContents
from mudanza.hypervisor.contents.digests import (
    CHUNK,
    UNREAD,
    Contents,
    Digests,
    Layer,
    UnreadableError,
    assembled,
    chunk_size,
    differing,
    is_readable,
)
from mudanza.hypervisor.ssh import ssh_command
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import Host

__all__ = [
    "CHUNK",
    "UNREAD",
    "Contents",
    "Digests",
    "Layer",
    "UnreadableError",
    "assembled",
    "chunk_size",
    "contents_of",
    "differing",
    "is_readable",
]

_log = logging.getLogger(__name__)


def contents_of(host: HostConnection, about: Host) -> Contents:
    """Return the best way to read a host's files: where they are, if the controller can log in there by ssh.

    A trial login takes part of a second, LOGIN_TIMEOUT seconds at most.
    """
    command = ssh_command(host.entry.uri)
    if command is not None:
        try:
            return _SshElseLibvirt(SshContents(host.name, command), LibvirtContents(host, about))
        except (HostUnreachableError, HypervisorError) as error:
            _log.info("the files of %s are read through the controller, for ssh does not do: %s", host.name, error)
    return LibvirtContents(host, about)


class _SshElseLibvirt:
    """By ssh; and by libvirt what root may not read there: on storage where root is nobody libvirt has QEMU's account
    read it."""

    def __init__(self, by_ssh: SshContents, by_libvirt: LibvirtContents) -> None:
        self._by_ssh, self._by_libvirt = by_ssh, by_libvirt
        self.images = by_ssh.images
        self.way = by_ssh.way

    def digests(
        self,
        path: str,
        length: int,
        *,
        block: bool,
        chunks: Collection[int] | None = None,
        stop: clock.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        """See Contents."""
        wanted: dict[str, Any] = {"block": block, "chunks": chunks, "stop": stop, "on_progress": on_progress}
        try:
            return self._by_ssh.digests(path, length, **wanted)
        except UnreadableError as error:
            _log.info("%s is read through the controller, for root may not read it: %s", path, error)
            self.way = f"{self._by_ssh.way}, and what root may not read there {self._by_libvirt.way}"
            return self._by_libvirt.digests(path, length, **wanted)

    def write_out(self, path: str, *, stop: clock.Event | None = None) -> None:
        """See Contents."""
        self._by_ssh.write_out(path, stop=stop)

    def close(self) -> None:
        """See Contents."""
        self._by_ssh.close()
