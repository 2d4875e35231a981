"""Things of our own on a host that go again: domains without a guest, markers, overlays, pools to put them into.

Each is made for one question or one errand and taken away after it. Its name carries when it was made and by which
process, so that what a killed controller left behind can be told from what another one still needs, and swept up.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import libvirt

from mudanza import clock
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.jobs import job_name
from mudanza.model.errors import MudanzaError

STALE_AFTER = 3600.0
"""Seconds after which such a thing is a leftover, whoever made it: no question takes that long, and no controller's
clock is that wrong."""
CARRIER_STALE_AFTER = 7 * 24 * 3600.0
"""The same for a carrier and its overlays, which live for as long as its files are on their way."""
REMOVAL_TIMEOUT = 5.0
"""Seconds that taking one thing away may take; libvirt goes on waiting for what stands in its way without us."""

_NAME = re.compile(
    r"mudanza-(?P<purpose>probe|rehearsal|marker|overlay|carrier)-"
    r"(?P<time>[0-9a-f]{8})-(?P<seat>[0-9a-f]{8})-(?P<pid>[0-9a-f]+)-[0-9a-f]{16}"
)
_GONE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


def throwaway_name(purpose: str) -> str:
    """Return a name nothing else has; ``purpose``: ``probe``, ``rehearsal``, ``marker``, ``overlay``, ``carrier``."""
    return f"mudanza-{purpose}-{int(clock.time()):08x}-{_seat()}-{os.getpid():x}-{secrets.token_hex(8)}"


def is_throwaway(name: str) -> bool:
    """Whether something is ours and young enough to be at work: nobody needs to see it."""
    match = _NAME.fullmatch(name)
    return match is not None and not _is_stale(match)


def purpose_of(name: str) -> str | None:
    """Return what something of ours was made for, None for what is not ours."""
    match = _NAME.fullmatch(name)
    return match["purpose"] if match else None


def made_at(name: str) -> float:
    """Return when something of ours was made, in seconds since the epoch, by the clock of whoever made it."""
    match = _NAME.fullmatch(name)
    return float(int(match["time"], 16)) if match else 0.0


def is_abandoned(name: str) -> bool:
    """Whether something is ours and nobody needs it any more.

    Of a process of this machine it is known whether it lives; another controller's is given until it is stale.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    dead = match["seat"] == _seat() and not _lives(int(match["pid"], 16))
    return dead or _is_stale(match)


def _is_stale(match: re.Match[str]) -> bool:
    limit = CARRIER_STALE_AFTER if match["purpose"] in ("carrier", "overlay") else STALE_AFTER
    return abs(clock.time() - int(match["time"], 16)) >= limit


@cache
def _seat() -> str:
    """Return where process numbers mean what they mean here: this boot of this machine, this PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        place = boot + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        place = secrets.token_hex()  # no other process will know it: then age alone counts
    return hashlib.blake2s(place.encode(), digest_size=4).hexdigest()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class Throwaway:
    """Something of ours on a host, which is taken away when the block ends, whatever has become of the block.

    That is asked for in a call of its own, for the one that made or used it may hang. A call that returns after the
    end, when nobody waits for it any more, takes it away as well: it may have come to be only now.
    """

    def __init__(self, host: HostConnection, name: str, remove: Callable[[Any, str], None]) -> None:
        """``remove``, given a connection and the name, raises libvirtError, also where there is nothing to remove."""
        self.name = name
        self._host = host
        self._remove = remove
        self._over = False

    def ask(self, function: Callable[[Any], Result], *, timeout: float) -> Result:
        """Make it or use it: like HostConnection.ask."""
        return self._host.ask(lambda raw: self._call(raw, function), timeout=timeout)

    def _call(self, raw: Any, function: Callable[[Any], Result]) -> Result:
        try:
            return function(raw)
        finally:
            if self._over:
                self._take_away(raw)

    def _take_away(self, raw: Any) -> None:
        with gone_is_fine():
            self._remove(raw, self.name)

    def __enter__(self) -> Throwaway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over = True
        try:
            self._host.ask(self._take_away, timeout=REMOVAL_TIMEOUT)
        except MudanzaError as failure:
            # What was found out by it holds all the same.
            _log.warning("%s could not be taken away yet, else the next check does it: %s", self.name, failure)


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """Take it well that something is no longer there, or never was."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _GONE:
            raise


def remove_domain(raw: Any, name: str) -> None:
    """End a domain of ours and its definition, whichever of them there is. Raises libvirtError."""
    domain = raw.lookupByName(name)
    for step in (domain.destroy, domain.undefine):
        try:
            step()
        except libvirt.libvirtError as error:
            # Not running, or transient and therefore gone already: then there was nothing to do.
            if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise


def sweep(raw: Any) -> None:
    """Take away what controllers that are gone have left on a host. Raises libvirtError."""
    for domain in raw.listAllDomains():
        if is_abandoned(name := domain.name()):
            with gone_is_fine():
                if not is_carrying(domain):
                    remove_domain(raw, name)
    for pool in active_pools(raw):
        sweep_markers(pool)
        if is_abandoned(pool.name()):
            with gone_is_fine():
                pool.destroy()


def is_carrying(domain: Any) -> bool:
    """Whether it is a carrier under way, which goes on without its controller: whoever resumes its job ends it."""
    match = _NAME.fullmatch(domain.name())
    return match is not None and match["purpose"] == "carrier" and job_name(domain) is not None


def sweep_markers(pool: Any) -> None:
    """Take away the markers and overlays that controllers that are gone have left in a pool. Raises libvirtError."""
    with gone_is_fine():
        left = [name for name in pool.listVolumes() if is_abandoned(name)]
        for name in left:
            with gone_is_fine():
                pool.storageVolLookupByName(name).delete(0)


def active_pools(raw: Any) -> list[Any]:
    """Return the pools in use. Raises libvirtError."""
    try:
        return list(raw.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return []  # a libvirt without its storage driver has no pools to put anything into
        raise
