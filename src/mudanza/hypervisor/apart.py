"""libvirt's ssh in a session of its own, as ours has one.

libvirt starts it in the session of the program. Ctrl-C on a terminal goes to every process there, so it ended the ways
to all hosts at the very moment in which what is under way is to be ended in good order, or waited for. libvirt has no
option for that, but takes a program in place of ssh: a script of two lines in the user's cache (``XDG_CACHE_HOME``).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from mudanza.hypervisor.uris import transport

_COMMAND = "command"


def apart(uri: str) -> str:
    """Return a URI as it is opened: with ssh out of reach of the terminal, where it is not to ask there."""
    parts = urlsplit(uri)
    pairs = [pair.partition("=") for pair in parts.query.replace(";", "&").split("&") if pair]
    named = {name: unquote(value) for name, _, value in pairs}
    if transport(uri) != "ssh" or named.get("no_tty") != "1":
        return uri
    program = _in_a_session_of_its_own(named.get(_COMMAND, "ssh"))
    if program is None:
        return uri
    kept = ["".join(pair) for pair in pairs if pair[0] != _COMMAND]
    return urlunsplit(parts._replace(query="&".join([*kept, f"{_COMMAND}={quote(program)}"])))


@cache
def _in_a_session_of_its_own(program: str) -> str | None:
    """Return the path of a script that runs that program so; None: there can be none here."""
    if shutil.which("setsid") is None:
        return None
    text = f'#!/bin/sh\nexec setsid {shlex.quote(program)} "$@"\n'.encode()
    try:
        places = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mudanza"
        path = places / f"ssh-apart-{hashlib.sha256(text).hexdigest()[:12]}"
        places.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _only_we_change(places.resolve()):
            return None  # with sudo, perhaps: whoever has that directory would choose what root runs
        if not path.is_file() or path.read_bytes() != text:
            _write(path, text)
    except (OSError, RuntimeError):  # no home, or none that can be written to: it goes on as libvirt has it
        return None
    return str(path) if os.access(path, os.X_OK) else None  # not where programs of that file system are not run


def _only_we_change(directory: Path) -> bool:
    """Whether nobody but us and root can put something else in a directory's place, or into it."""
    for each in (directory, *directory.parents):
        status = each.stat()
        others_write = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.geteuid()) or others_write:
            return False
    return True


def _write(path: Path, text: bytes) -> None:
    """Have the script be there as a whole, whoever else writes it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        os.write(descriptor, text)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    Path(name).replace(path)
