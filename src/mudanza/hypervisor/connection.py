"""One open connection to a host's libvirt, with a limit on every call and errors in words for people."""

from __future__ import annotations

import atexit
import shlex
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import libvirt

from mudanza.hypervisor.bounded import Task, all_of
from mudanza.hypervisor.uris import controller_uri
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.host import HostEntry

CONNECT_TIMEOUT = 10.0
"""Seconds that reaching a host and logging in may take."""
CALL_TIMEOUT = 20.0
"""Seconds that one ordinary call may take."""
CLOSE_TIMEOUT = 2.0
"""Seconds that saying good-bye may take; the connection is dropped after them."""
KEEPALIVE_INTERVAL = 5
"""Seconds between two signs of life."""
KEEPALIVE_COUNT = 3
"""Signs of life a host may miss before the connection counts as lost."""

Result = TypeVar("Result")
Raw = Any
"""libvirt-python comes without types: a ``virConnect``, which no caller outside this room gets to see."""

_loop_lock = threading.Lock()
_loop_started = False
_open: weakref.WeakSet[HostConnection] = weakref.WeakSet()


class HostConnection:
    """An open connection. It may be used from several threads at once."""

    def __init__(self, entry: HostEntry, raw: Raw) -> None:
        self.entry = entry
        self.name = entry.name
        self._raw: Raw | None = raw
        with _loop_lock:
            _open.add(self)

    def __enter__(self) -> HostConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as this side knows: nothing is asked over it."""
        raw = self._raw
        try:
            return raw is not None and raw.isAlive() == 1
        except libvirt.libvirtError:
            return False

    def ask(self, function: Callable[[Raw], Result], *, timeout: float = CALL_TIMEOUT) -> Result:
        """Return what ``function`` gets from libvirt, within ``timeout`` seconds.

        ``function`` must return plain data: a libvirt object would be freed by whoever drops it last, and freeing
        may wait for a host that does not answer. Raises HostUnreachableError (no answer, or none in time; the call
        is then left to itself and may still take effect) and HypervisorError (libvirt refuses).
        """
        try:
            return Task(lambda: self.call(function)).wait(timeout)
        except TimeoutError:
            raise HostUnreachableError(
                self.name,
                f"libvirt did not answer within {timeout:.3g} s",
                remedy="look at its daemon there: systemctl status libvirtd (or virtqemud)",
            ) from None

    def call(self, function: Callable[[Raw], Result]) -> Result:
        """Like ``ask``, but in the caller's own thread and for as long as it takes."""
        raw = self._raw
        if raw is None:
            raise HostUnreachableError(self.name, "the connection is closed")
        try:
            return function(raw)
        except libvirt.libvirtError as error:
            failure = self._in_words(error)
        # Raised out here, it does not keep the frames, and with them the libvirt objects, of the failed call.
        raise failure

    def _in_words(self, error: libvirt.libvirtError) -> MudanzaError:
        if self.alive:
            return refusal(self.name, error)
        return HostUnreachableError(
            self.name, f"the connection was lost: {_message(error)}", remedy=_by_hand(self.entry.uri)
        )

    def close(self) -> None:
        """Say good-bye, for CLOSE_TIMEOUT seconds at most."""
        raw, self._raw = self._raw, None
        with _loop_lock:
            _open.discard(self)
        if raw is None:
            return
        farewell = Task(raw.close)
        del raw  # The thread holds the last reference now, so that freeing it cannot block this one.
        try:
            farewell.wait(CLOSE_TIMEOUT)
        except (TimeoutError, libvirt.libvirtError):
            return


def refusal(host: str, error: libvirt.libvirtError) -> HypervisorError:
    """Return libvirt's refusal as ours."""
    return HypervisorError(host, _message(error), code=error.get_error_code(), domain=error.get_error_domain())


def open_host(entry: HostEntry, *, timeout: float = CONNECT_TIMEOUT) -> HostConnection:
    """Connect to a host within ``timeout`` seconds. Raises HostUnreachableError saying why not."""
    return await_opening(entry, start_opening(entry), timeout)


def start_opening(entry: HostEntry) -> Task[HostConnection]:
    """Begin to connect, in a thread of its own."""
    return Task(lambda: _connect(entry))


def await_opening(entry: HostEntry, opening: Task[HostConnection], timeout: float) -> HostConnection:
    """Return the connection. Raises HostUnreachableError when it fails or is not there after ``timeout`` seconds."""
    try:
        return opening.wait(timeout)
    except TimeoutError:
        raise HostUnreachableError(
            entry.name, f"no connection to {entry.uri} within {timeout:.3g} s", remedy=_by_hand(entry.uri)
        ) from None


def _connect(entry: HostEntry) -> HostConnection:
    _start_event_loop()
    try:
        raw = libvirt.openAuth(controller_uri(entry.uri), [[], _never_prompt, None], 0)
        _keep_alive(raw)
        return HostConnection(entry, raw)
    except libvirt.libvirtError as error:
        failure = HostUnreachableError(
            entry.name, f"cannot connect to {entry.uri}: {_message(error)}", remedy=_by_hand(entry.uri)
        )
    raise failure


def _never_prompt(_credentials: object, _data: object) -> int:
    """Refuse every question libvirt would put to a person: there may be none."""
    return -1


def _keep_alive(raw: Raw) -> None:
    try:
        raw.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
    except libvirt.libvirtError as error:
        # Drivers that live inside this process (test:///) have no connection to keep alive.
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise


def _start_event_loop() -> None:
    """Keepalive needs an event loop, and libvirt wants it registered before the first connection is opened."""
    global _loop_started  # noqa: PLW0603 - libvirt knows one loop in a process
    with _loop_lock:
        if _loop_started:
            return
        libvirt.registerErrorHandler(_print_nothing, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_event_loop, name="mudanza-libvirt-events", daemon=True).start()
        atexit.register(_close_all)
        _loop_started = True


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _print_nothing(_context: object, _error: object) -> None:
    """Stand in for libvirt's own handler, which writes to stderr what is raised as an exception anyway."""


def _close_all() -> None:
    """Close what is open when the program ends: freed later, it could hold up the end."""
    with _loop_lock:
        still_open = list(_open)
    all_of([connection.close for connection in still_open], timeout=CLOSE_TIMEOUT)


def _message(error: libvirt.libvirtError) -> str:
    return (error.get_error_message() or str(error)).strip()


def _by_hand(uri: str) -> str:
    return f"try it by hand: virsh -c {shlex.quote(controller_uri(uri))} version"
