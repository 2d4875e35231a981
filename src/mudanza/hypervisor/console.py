"""A guest's serial console over the libvirt connection."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import libvirt

from mudanza.hypervisor.connection import HostConnection, refusal

_CHUNK = 4096


class Console:
    """An open console. ``receive`` and ``send`` may be used from two threads at once."""

    def __init__(self, host: HostConnection, stream: Any) -> None:
        self._host = host
        self._stream = stream
        self._closed = False

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def receive(self) -> bytes:
        """Wait for what the guest writes and return it; empty at the end (closed, guest gone, connection lost)."""
        try:
            return bytes(self._stream.recv(_CHUNK))
        except libvirt.libvirtError as error:
            if self._closed or not self._host.alive:
                return b""
            raise refusal(self._host.name, error) from None

    def send(self, data: bytes) -> None:
        """Type into the guest. Raises HypervisorError when the console is gone."""
        rest = data
        while rest:
            try:
                sent = self._stream.send(rest)
            except libvirt.libvirtError as error:
                raise refusal(self._host.name, error) from None
            rest = rest[sent:]

    def close(self) -> None:
        """Let the console go; a ``receive`` that waits returns empty."""
        if self._closed:
            return
        self._closed = True
        try:
            self._stream.abort()
        except libvirt.libvirtError:
            # The guest or the host hung up first.
            return
