"""Sizes in bytes, rates in bytes per second, durations in seconds: reading and writing them."""

from __future__ import annotations

import math
import re

from mudanza.model.errors import UsageError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "k": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": GIB, "gib": GIB, "gb": 1000**3,
    "t": 1024**4, "tib": 1024**4, "tb": 1000**4,
}  # fmt: skip
_BIT_UNITS = {"bit": 1, "kbit": 1000, "mbit": 1000**2, "gbit": 1000**3}
_TIME_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is not a {what}", remedy=f"write it like {example}")
    return float(match[1]), match[2].lower()


def parse_size(text: str) -> int:
    """Read a size such as ``512MiB``, ``1GiB``, ``10G`` or ``4096`` and return bytes.

    Raises UsageError for anything else.
    """
    number, unit = _split(text, "size", "512MiB or 10GiB")
    if unit not in _SIZE_UNITS:
        raise UsageError(f"{text!r} is not a size: unknown unit {unit!r}", remedy="use KiB, MiB, GiB or TiB")
    return round(number * _SIZE_UNITS[unit])


def parse_rate(text: str) -> int:
    """Read a rate such as ``100MiB/s`` or ``1gbit`` and return bytes per second.

    ``bit`` units are powers of ten and count bits, as network people mean them. Raises UsageError.
    """
    bare = re.sub(r"(/s|ps)\s*$", "", text.strip(), flags=re.IGNORECASE)
    number, unit = _split(bare, "rate", "100MiB/s or 1gbit")
    if unit in _BIT_UNITS:
        return round(number * _BIT_UNITS[unit] / 8)
    if unit not in _SIZE_UNITS:
        raise UsageError(f"{text!r} is not a rate: unknown unit {unit!r}", remedy="use MiB/s, GiB/s, mbit or gbit")
    return round(number * _SIZE_UNITS[unit])


def parse_duration(text: str) -> float:
    """Read a duration such as ``300ms``, ``90s``, ``10m`` or ``2h`` and return seconds. Raises UsageError."""
    number, unit = _split(text, "duration", "300ms, 90s or 10m")
    if unit not in _TIME_UNITS:
        raise UsageError(f"{text!r} is not a duration: unknown unit {unit!r}", remedy="use ms, s, m, h or d")
    return number * _TIME_UNITS[unit]


def format_size(size: float) -> str:
    """Write bytes for people: ``1.5 GiB``, ``512 MiB``, ``17 B``."""
    for factor, unit in ((1024**4, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        # One digit too many would read "1024 MiB": step up a little before the boundary.
        if abs(size) >= factor * 0.9995:
            value = size / factor
            return (
                f"{value:.1f} {unit}" if value < 10 and not math.isclose(value, round(value)) else f"{value:.0f} {unit}"
            )
    return f"{size:.0f} B"


def format_rate(rate: float) -> str:
    """Write bytes per second for people: ``117 MiB/s``."""
    return f"{format_size(rate)}/s"


def format_duration(seconds: float) -> str:
    """Write seconds for people: ``147 ms``, ``5.3 s``, ``2 min 5 s``, ``1 h 3 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_version(number: int) -> str:
    """Write libvirt's version number as people do: 9000000 is 9.0.0; empty where it is not known (0)."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}" if number else ""
