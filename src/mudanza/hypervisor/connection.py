"""The way to one host's libvirt, with a limit on every call and errors in words for people."""

from __future__ import annotations

import atexit
import re
import shlex
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

import libvirt

from mudanza import clock
from mudanza.hypervisor.apart import apart
from mudanza.hypervisor.bounded import Deadline, Task, all_of, one_by_one
from mudanza.hypervisor.uris import controller_uri
from mudanza.model.errors import DiskLockedError, HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.host import HostEntry

CONNECT_TIMEOUT = 10.0
"""Seconds that reaching a host and logging in may take."""
CALL_TIMEOUT = 20.0
"""Seconds that one ordinary call may take."""
ANSWER_TIMEOUT = 3.0
"""Seconds a host may take to say that it is there at all."""
CLOSE_TIMEOUT = 2.0
"""Seconds that saying good-bye may take; the connection is dropped after them."""
KEEPALIVE_INTERVAL = 5
"""Seconds between two signs of life."""
KEEPALIVE_COUNT = 3
"""Signs of life a host may miss before a connection counts as lost."""
MAX_LINES = 8
"""Connections to one host at a time: as many calls may hang before further ones are turned away."""

Result = TypeVar("Result")
Raw = Any
"""libvirt-python comes without types: a ``virConnect``, which nobody outside this room gets to see."""

_TIME_AND_PROGRAM = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (qemu-system-\S+: )?")
_DISK_LOCKED = re.compile(
    r"Lockspace resource '.*' is locked"  # virtlockd, whose error number gets lost on its way through libvirtd
    r"|Failed to acquire lock: (?:(?:sanlock )?error -24[3-6]|Lease |File exists|.*busy|.*temporarily unavailable)"
    r'|Failed to get (?:shared )?"[^"]+" lock'  # QEMU's own
)
"""How a lock that somebody else holds is told of: by the lock managers (sanlock by number or in words), and by QEMU."""

_process_lock = threading.Lock()
_loop_started = False
_open: weakref.WeakSet[HostConnection] = weakref.WeakSet()


_assert_may_act: ContextVar[Callable[[], None]] = ContextVar("assert_may_act", default=lambda: None)


@contextmanager
def acting_only_if(assert_may_act: Callable[[], None]) -> Iterator[None]:
    """Have every call to any host, by this thread and those it starts, ask first whether it may still be made.

    ``assert_may_act`` raises where it may not. It is asked at the last moment, when there is a line already.
    """
    before = _assert_may_act.set(assert_may_act)
    try:
        yield
    finally:
        _assert_may_act.reset(before)


class HostConnection:
    """The way to a host. It may be used from several threads at once.

    Each call has a connection of libvirt's (a *line*) to itself while it lasts: several threads on one line can crash
    libvirt clients before 10.4 (CVE-2024-4418). Lines are opened as calls need them, used again, and replaced when
    lost.
    """

    def __init__(self, entry: HostEntry) -> None:
        self.entry = entry
        self.name = entry.name
        self._changed = clock.new_condition()
        self._idle: list[Raw] = []
        self._lines = 0
        self._closed = False
        with _process_lock:
            _open.add(self)

    def __enter__(self) -> HostConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, function: Callable[[Raw], Result], *, timeout: float = CALL_TIMEOUT) -> Result:
        """Return what ``function`` gets from libvirt, within ``timeout`` seconds.

        ``function`` must return plain data: a libvirt object would be freed by whoever drops it last, and freeing
        may wait for a host that does not answer. Raises HostUnreachableError (no way to it, or no answer in time; a
        call that has begun is then left to itself and may still take effect) and HypervisorError (libvirt refuses).
        """
        deadline = Deadline(timeout)
        try:
            return Task(lambda: self._call(function, deadline)).wait(timeout)
        except TimeoutError:
            raise self._silent(timeout) from None

    def ask_each(
        self, functions: Sequence[Callable[[Raw], Result]], *, timeout: float, deadline: Deadline
    ) -> list[Result | MudanzaError]:
        """Like ``ask`` for each of these, one after the other and each within ``timeout`` seconds; what ``ask`` would
        raise stands among the results. They share a thread as long as none takes longer."""

        def call(function: Callable[[Raw], Result]) -> Result:
            return self._call(function, Deadline(timeout))

        outcomes: list[Result | MudanzaError] = []
        for each in one_by_one(call, functions, timeout=timeout, deadline=deadline):
            if isinstance(each, TimeoutError):
                outcomes.append(self._silent(timeout))
            elif isinstance(each, BaseException) and not isinstance(each, MudanzaError):
                raise each
            else:
                outcomes.append(each)
        return outcomes

    def carry_out(self, function: Callable[[Raw], Result]) -> Result:
        """Like ``ask``, but in the caller's own thread and, once it has a line, for as long as it takes."""
        try:
            line = Task(lambda: self._take_line(Deadline(CONNECT_TIMEOUT))).wait(CONNECT_TIMEOUT)
        except TimeoutError:
            raise self._silent(CONNECT_TIMEOUT) from None
        return self._use(line, function)

    def open_line(self, timeout: float) -> None:
        """Open a line, in the caller's own thread; one that takes longer than ``timeout`` seconds is given up."""
        self._give_back(self._take_line(Deadline(timeout)))

    def open_further_line(self) -> None:
        """Begin to open one more line, waiting for nothing: a call that takes long will not hold up the next one."""

        def open_it() -> None:
            with self._changed:
                if self._closed or self._lines >= MAX_LINES:
                    return
                self._lines += 1
            with suppress(HostUnreachableError):  # who needs it then is told
                self._give_back(self._new_line())

        Task(open_it)

    def open_own_line(self) -> Raw:
        """Return a line that no call uses and its owner closes. Raises HostUnreachableError."""
        try:
            return Task(lambda: _connect(self.entry)).wait(CONNECT_TIMEOUT)
        except TimeoutError:
            raise self._silent(CONNECT_TIMEOUT) from None

    def answers(self) -> bool:
        """Return whether the host answers now, within ANSWER_TIMEOUT seconds."""
        try:
            self.ask(lambda raw: int(raw.getLibVersion()), timeout=ANSWER_TIMEOUT)
        except (HostUnreachableError, HypervisorError):
            return False
        return True

    def close(self) -> None:
        """Say good-bye on all lines, for CLOSE_TIMEOUT seconds at most; one that is in use closes after its call."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        with _process_lock:
            _open.discard(self)
        farewells = [line.close for line in idle]
        del idle  # The threads hold the last references then, so that freeing a line cannot block this one.
        all_of(farewells, timeout=CLOSE_TIMEOUT)

    def _call(self, function: Callable[[Raw], Result], deadline: Deadline) -> Result:
        return self._use(self._take_line(deadline), function)

    def _use(self, line: Raw, function: Callable[[Raw], Result]) -> Result:
        try:
            _assert_may_act.get()()
            return function(line)
        except libvirt.libvirtError as error:
            failure = self._in_words(line, error)
        finally:
            self._give_back(line)
        # Raised out here, it does not keep the frames, and with them the libvirt objects, of the failed call.
        raise failure

    def _take_line(self, deadline: Deadline) -> Raw:
        line = self._idle_line(deadline)
        if line is None:
            line = self._new_line()
        if not deadline.left:
            # Nobody waits any more: what was asked must not be done behind everybody's back.
            self._give_back(line)
            raise self._silent(deadline.timeout)
        return line

    def _idle_line(self, deadline: Deadline) -> Raw | None:
        """Return a line that is free, or None when a new one may be opened. Waits where there are too many."""
        with self._changed:
            while True:
                if self._closed:
                    raise HostUnreachableError(self.name, "the connection is closed")
                while self._idle:
                    line = self._idle.pop()
                    if _stands(line):
                        return line
                    self._lines -= 1
                if self._lines < MAX_LINES:
                    self._lines += 1
                    return None
                if not self._changed.wait(deadline.left):
                    raise HostUnreachableError(self.name, f"{self._lines} calls to its libvirt are unanswered")

    def _new_line(self) -> Raw:
        try:
            return _connect(self.entry)
        except BaseException:
            with self._changed:
                self._lines -= 1
                self._changed.notify()
            raise

    def _give_back(self, line: Raw) -> None:
        with self._changed:
            self._changed.notify()
            if not self._closed and _stands(line):
                self._idle.append(line)
                return
            self._lines -= 1
        hang_up(line.close)

    def _in_words(self, line: Raw, error: libvirt.libvirtError) -> HostUnreachableError | HypervisorError:
        if _stands(line):
            return refusal(self.name, error)
        return HostUnreachableError(
            self.name, f"the connection was lost: {message(error)}", remedy=_by_hand(self.entry.uri)
        )

    def _silent(self, timeout: float) -> HostUnreachableError:
        return HostUnreachableError(
            self.name,
            f"libvirt did not answer within {timeout:.3g} s",
            remedy="look at its daemon there: systemctl status libvirtd (or virtqemud)",
        )


def open_host(entry: HostEntry, *, timeout: float = CONNECT_TIMEOUT) -> HostConnection:
    """Connect to a host within ``timeout`` seconds. Raises HostUnreachableError saying why not."""
    return await_opening(entry, start_opening(entry, timeout), timeout)


def start_opening(entry: HostEntry, timeout: float) -> Task[HostConnection]:
    """Begin to connect, in a thread of its own. What takes longer than ``timeout`` seconds is given up."""

    def connect() -> HostConnection:
        host = HostConnection(entry)
        host.open_line(timeout)
        return host

    return Task(connect)


def await_opening(entry: HostEntry, opening: Task[HostConnection], timeout: float) -> HostConnection:
    """Return the connection. Raises HostUnreachableError when it fails or is not there after ``timeout`` seconds."""
    try:
        return opening.wait(timeout)
    except TimeoutError:
        raise HostUnreachableError(
            entry.name, f"no connection to {entry.uri} within {timeout:.3g} s", remedy=_by_hand(entry.uri)
        ) from None


def refusal(host: str, error: libvirt.libvirtError) -> HypervisorError:
    """Return libvirt's refusal as ours."""
    said = message(error)
    kind = DiskLockedError if _DISK_LOCKED.search(said) else HypervisorError
    return kind(host, said, code=error.get_error_code(), domain=error.get_error_domain())


def message(error: libvirt.libvirtError) -> str:
    """Return what libvirt said in one line, without the time and program name of what QEMU said."""
    said = (error.get_error_message() or str(error)).strip()
    return _TIME_AND_PROGRAM.sub("", said).replace("\n", "; ")


def _open_by_libvirt(uri: str) -> Raw:
    _start_event_loop()
    return libvirt.openAuth(apart(uri), [[], _never_prompt, None], 0)


_open_line: Callable[[str], Raw] = _open_by_libvirt


@contextmanager
def lines_opened_by(opener: Callable[[str], Raw]) -> Iterator[None]:
    """Have every new line opened by ``opener``, given its URI: for the simulated twin."""
    global _open_line  # noqa: PLW0603 - there is one world outside a program
    before, _open_line = _open_line, opener
    try:
        yield
    finally:
        _open_line = before


def _connect(entry: HostEntry) -> Raw:
    try:
        line = _open_line(controller_uri(entry.uri))
        _keep_alive(line)
        return line
    except libvirt.libvirtError as error:
        failure = HostUnreachableError(
            entry.name, f"cannot connect to {entry.uri}: {message(error)}", remedy=_by_hand(entry.uri)
        )
    raise failure


def _never_prompt(_credentials: object, _data: object) -> int:
    """Refuse every question libvirt would put to a person: there may be none."""
    return -1


def _keep_alive(line: Raw) -> None:
    try:
        line.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
    except libvirt.libvirtError as error:
        # Drivers that live inside this process (test:///) have no connection to keep alive.
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise


def _stands(line: Raw) -> bool:
    """Whether a line is open as far as this side knows: nothing is asked over it."""
    try:
        return bool(line.isAlive() == 1)
    except libvirt.libvirtError:
        return False


def hang_up(farewell: Callable[[], object]) -> None:
    """Say good-bye on a line or a stream, for CLOSE_TIMEOUT seconds at most; it is dropped, whatever it answers."""
    all_of([farewell], timeout=CLOSE_TIMEOUT)


def _start_event_loop() -> None:
    """Keepalive needs an event loop, and libvirt wants it registered before the first connection is opened."""
    global _loop_started  # noqa: PLW0603 - libvirt knows one loop in a process
    with _process_lock:
        if _loop_started:
            return
        libvirt.registerErrorHandler(_print_nothing, None)
        libvirt.virEventRegisterDefaultImpl()
        clock.start_thread(_run_event_loop, "mudanza-libvirt-events")
        atexit.register(_close_all)
        _loop_started = True


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _print_nothing(_context: object, _error: object) -> None:
    """Stand in for libvirt's own handler, which writes to stderr what is raised as an exception anyway."""


def _close_all() -> None:
    """Close what is open when the program ends: freed later, it could hold up the end."""
    with _process_lock:
        still_open = list(_open)
    all_of([host.close for host in still_open], timeout=CLOSE_TIMEOUT)


def _by_hand(uri: str) -> str:
    return f"try it by hand: virsh -c {shlex.quote(controller_uri(uri))} version"
