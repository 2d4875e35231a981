"""Which machine is it? What a host's own firmware says of it, and what says whoever switches its power: pure.

UUIDs of BMCs are a trap. SMBIOS writes the first three fields of a UUID with their low bytes first, IPMI all of it, and
what reads them turns some of that round or nothing. So two are the same if one is the other in any of these orders;
that two machines are so by chance will not be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_NO_UUIDS = frozenset(
    {"0" * 32, "f" * 32, "03000200040005000006000700080009", "00020003000400050006000700080009", "1" * 32}
)
"""What firmware says where nobody has given the board one: many boards have the same."""
_NO_SERIALS = frozenset(
    {
        *("", "0", "none", "n/a", "na", "null", "unknown", "empty", "default", "default string", "not specified"),
        *("not available", "not applicable", "not provided", "invalid", "o.e.m.", "oem", "system serial number"),
        *("chassis serial number", "base board serial number", "serial number", "to be filled by o.e.m."),
        *("to be filled by o.e.m", "0123456789", "1234567890", "123456789", "xxxxxxxxxx", "unspecified"),
    }
)
"""What it says in place of a serial number, in small letters."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What tells a machine from every other one. Either may be empty: nobody says."""

    uuids: frozenset[str] = frozenset()
    """Sixteen bytes each, in hexadecimal and small letters, without dashes."""
    serials: frozenset[str] = frozenset()
    """Of its system, its chassis, its board: BMCs say one or another."""

    @property
    def in_words(self) -> str:
        """What is known of it."""
        words = [f"UUID {_dashed(each)}" for each in sorted(self.uuids)]
        words += [f"serial number {each}" for each in sorted(self.serials)]
        return ", ".join(words) or "neither UUID nor serial number"

    def __bool__(self) -> bool:
        """Whether anything is known of it."""
        return bool(self.uuids or self.serials)


class Verdict(StrEnum):
    """Whether what switches the power switches the host's."""

    SAME = "same"
    OTHER = "another machine"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two descriptions are of one machine, and by what that is known."""

    verdict: Verdict
    said: str


def machine(uuids: Iterable[str | None], serials: Iterable[str | None]) -> Machine:
    """Return a machine of which this is said; what is no UUID, and what many machines say alike, is left out."""
    found = ((each or "").strip().lower() for each in uuids)
    bare = {each.replace("-", "") for each in found if _UUID.fullmatch(each)}
    named = {(each or "").strip() for each in serials}
    telling = {each for each in named if each.lower() not in _NO_SERIALS and _tells(each)}
    return Machine(frozenset(bare - _NO_UUIDS), frozenset(telling))


def _tells(serial: str) -> bool:
    """Whether it is more than one sign again and again."""
    return len(set(serial.lower()) - set(" .-_")) > 1


def compare(host: Machine, behind: Machine) -> Comparison:
    """Return whether what a host says of itself, and what its device says of the machine that it switches, is of one
    machine: that has the same UUID, or the same serial number."""
    for uuid in host.uuids:
        if same := _orders(uuid) & behind.uuids:
            how = "" if uuid in same else " (its bytes in another order)"
            return Comparison(Verdict.SAME, f"UUID {_dashed(uuid)}{how}")
    if same := _folded(host.serials) & _folded(behind.serials):
        return Comparison(Verdict.SAME, f"serial number {min(same)}")
    if (host.uuids and behind.uuids) or (host.serials and behind.serials):
        said = f"the host has {host.in_words}; the machine that is switched has {behind.in_words}"
        return Comparison(Verdict.OTHER, said)
    if not behind:
        return Comparison(Verdict.UNKNOWN, "it says neither UUID nor serial number of the machine that it switches")
    if not host:
        return Comparison(Verdict.UNKNOWN, "the host says neither UUID nor serial number of itself")
    said = f"the host has {host.in_words}, and the machine that is switched has {behind.in_words}"
    return Comparison(Verdict.UNKNOWN, said)


def _folded(serials: Iterable[str]) -> set[str]:
    return {each.upper() for each in serials}


def _orders(uuid: str) -> set[str]:
    """Return a UUID in every order in which its bytes are told."""
    found = {uuid}
    for _ in range(3):
        found |= {turn(each) for each in found for turn in _TURNS}
    return found


def _swapped(uuid: str) -> str:
    """As SMBIOS has it: the low bytes of the first three fields first."""
    raw = bytes.fromhex(uuid)
    return (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).hex()


def _reversed(uuid: str) -> str:
    """As IPMI has it: the last byte first."""
    return bytes.fromhex(uuid)[::-1].hex()


_TURNS: tuple[Callable[[str], str], ...] = (_swapped, _reversed)


def _dashed(uuid: str) -> str:
    return "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))
