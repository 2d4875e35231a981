"""A guest's serial console over a connection of its own."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import Any

import libvirt

from mudanza.hypervisor.connection import Raw, hang_up
from mudanza.hypervisor.line import Line
from mudanza.model.errors import HypervisorError

MOST_WAITING = 1024
"""Pieces of what a guest writes that wait to be received. Of more the oldest are lost."""
_CHUNK = 4096
_NOT_NOW = -2
"""What a stream returns where it would have to wait."""
_QUIET = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
_BUSY = _QUIET | libvirt.VIR_STREAM_EVENT_WRITABLE


class Console(Line):
    """An open console. ``receive`` and ``send`` may be used from two threads at once.

    Reading and writing happen in libvirt's event thread alone, see ``HostConnection``.
    """

    def __init__(self, host: str, line: Raw, stream: Any) -> None:
        self._host = host
        self._line = line
        self._stream = stream
        self._came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._to_send = b""
        self._ended = False
        stream.eventAddCallback(_QUIET, self._on_event, None)

    def receive(self) -> bytes:
        """Wait for what the guest writes and return it: empty at the end (closed, guest gone, connection lost).

        What is not received for long is lost, the oldest first: see MOST_WAITING.
        """
        return self._came.get()

    def send(self, data: bytes) -> None:
        """Type into the guest; returns at once. Raises HypervisorError when the console is gone."""
        with self._lock:
            if self._ended:
                raise HypervisorError(self._host, "the console is closed")
            self._to_send += data
            self._stream.eventUpdateCallback(_BUSY)

    def close(self) -> None:
        """Let the console go; a ``receive`` that waits returns empty."""
        if self._end():
            hang_up(self._stream.abort)
        hang_up(self._line.close)

    def _on_event(self, _stream: Any, events: int, _data: None) -> None:
        try:
            if events & libvirt.VIR_STREAM_EVENT_WRITABLE:
                self._write()
            if events & libvirt.VIR_STREAM_EVENT_READABLE:
                self._read()
            if events & (libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP):
                self._end()
        except libvirt.libvirtError:
            # The guest or the host has hung up: that is the end, however it is put.
            self._end()

    def _read(self) -> None:
        while (data := self._stream.recv(_CHUNK)) != _NOT_NOW:
            if not data:
                self._end()
                return
            self._came.put(data)
            if self._came.qsize() > MOST_WAITING:
                with suppress(queue.Empty):
                    self._came.get_nowait()

    def _write(self) -> None:
        with self._lock:
            while self._to_send:
                sent = self._stream.send(self._to_send)
                if sent == _NOT_NOW:
                    return
                self._to_send = self._to_send[sent:]
            self._stream.eventUpdateCallback(_QUIET)

    def _end(self) -> bool:
        """Note the end once; return whether it had not been noted before."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self._stream.eventRemoveCallback()
        self._came.put(b"")
        return True
