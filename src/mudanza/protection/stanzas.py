"""ifupdown's files, ``/etc/network/interfaces`` and those that it takes in: other addresses for one card. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

MAIN = "/etc/network/interfaces"
DIRECTORY = "/etc/network/interfaces.d"
_BEGINS = ("iface", "mapping", "auto", "source", "source-directory", "no-auto-down", "no-scripts", "rename")
"""Words with which a line begins that ends the stanza before it, besides those that begin with ``allow-``."""
_TAKES_IN = re.compile(rf"^\s*source(-directory)?\s+({re.escape(DIRECTORY)}|interfaces\.d)(/\*)?/?\s*$", re.MULTILINE)


def files_of(told: str) -> Mapping[str, str]:
    """Return the files that ``in_guest.INTERFACES`` has shown: path → text."""
    found: dict[str, list[str]] = {}
    path = ""
    for line in told.splitlines():
        if line.startswith(f"@ {MAIN}"):
            path = line[2:]
            found[path] = []
        elif path:
            found[path].append(line)
    return {path: "\n".join(lines[:-1] if lines and not lines[-1] else lines) + "\n" for path, lines in found.items()}


def interfaces_with(files: Mapping[str, str], device: str, family: str, lines: Sequence[str]) -> Mapping[str, str]:
    """Return the files that change, and as what, so that a device has just these addresses of a family: ours first."""
    own = f"{DIRECTORY}/mudanza-{device}"
    changed = {
        path: without
        for path, text in files.items()
        if path != own and (without := without_stanza(text, device, family)) != text
    }
    main = changed.get(MAIN, files.get(MAIN, ""))
    if not _TAKES_IN.search(main):
        changed[MAIN] = f"{main.rstrip()}\n\nsource {own}\n".lstrip()
    counting = [text for path, text in files.items() if path == MAIN or (path != own and _TAKES_IN.search(main))]
    auto = [] if any(_is_auto(text, device) for text in counting) else [f"auto {device}"]  # busybox takes it once
    stanza = [*auto, f"iface {device} {family} static", *(f"    {line}" for line in lines)]
    return {own: "\n".join(stanza) + "\n", **changed}


def _is_auto(text: str, device: str) -> bool:
    """Whether a file has a device be configured at boot."""
    words = [logical.replace("\\\n", " ").split() for logical in _logical(text)]
    return any(line[0] == "auto" and device in line[1:] for line in words if line)


def without_stanza(text: str, device: str, family: str) -> str:
    """Return a file without what it says of one device in one family. Comments and everything else stay."""
    kept: list[str] = []
    within = False
    for logical in _logical(text):
        words = logical.replace("\\\n", " ").split()
        if words and (words[0] in _BEGINS or words[0].startswith("allow-")):
            within = words[0] == "iface" and words[1:3] == [device, family]
        if not within or not words or words[0].startswith("#"):
            kept.append(logical)
    return "".join(kept)


def _logical(text: str) -> Iterator[str]:
    """Yield a file's lines; one that ends in a backslash goes on in the next."""
    held = ""
    for line in text.splitlines(keepends=True):
        held += line
        if not line.rstrip("\n").endswith("\\") or line.lstrip().startswith("#"):
            yield held
            held = ""
    if held:
        yield held
