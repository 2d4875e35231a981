"""May memory go by several connections at once (QEMU's multifd)? By what both hosts can do."""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.policy import PostCopy
from mudanza.preflight.case import Case
from mudanza.preflight.journey import goes_encrypted
from mudanza.preflight.wording import blocker

LIBVIRT, QEMU = 5_002_000, 4_000_000
"""The first that know of it..."""
QEMU_ENCRYPTED = 5_002_000
"""...the first QEMU that encrypts all of the connections..."""
QEMU_WITH_POSTCOPY = 10_001_000
"""...and the first one that can go over to post-copy then. One before 8.0 does not even refuse, and the guest ends."""


def cannot_go_parallel(source: Host, target: Host, *, tls: bool) -> str:
    """Return why memory cannot go by several connections between two hosts; empty where it can."""
    oldest = QEMU_ENCRYPTED if tls else QEMU
    for host in (source, target):
        if host.libvirt_version < LIBVIRT or host.qemu_version < oldest:
            encrypted = " that are encrypted" if tls and host.qemu_version >= QEMU else ""
            return f"libvirt and QEMU of {host.name} know nothing of several connections{encrypted}"
    return ""


def excludes_postcopy(source: Host, target: Host) -> bool:
    """Whether a guest whose memory goes by several connections cannot go over to post-copy."""
    return min(source.qemu_version, target.qemu_version) < QEMU_WITH_POSTCOPY


def streams(case: Case) -> Iterator[Finding]:
    """Both hosts can do what was asked for, and nothing else was that it excludes."""
    asked = case.options.streams
    if not case.live or asked is None or asked < 2:
        return
    tls = goes_encrypted(case.options, case.facts)
    if why := cannot_go_parallel(case.source, case.target, tls=tls):
        yield blocker("streams-unsupported", f"--streams {asked}", why, "leave --streams out, or update that host")
    if case.options.postcopy is PostCopy.NOW and excludes_postcopy(case.source, case.target):
        yield blocker(
            "streams-post-copy",
            f"--streams {asked}",
            "QEMU before 10.1 cannot go over to post-copy when memory goes by several connections",
            "ask for one of the two: leave --streams out, or post-copy",
        )
