"""UNIX sockets of one host that are there at another one: through the controller, by its own two logins.

Nothing listens on any network, neither host has to trust the other one, and both halves are encrypted. The logins are
those of two shells, which are needed anyway: a login takes longer than most of what is done in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# With AES in both CPUs, ssh takes half as much of them for this cipher as for its own first choice; whoever lacks that
# or does not want it may say so in sshd_config.
_OPTIONS = (
    "-o", "ClearAllForwardings=no", "-o", "ExitOnForwardFailure=yes", "-o", "Ciphers=^aes128-gcm@openssh.com",
)  # fmt: skip


def forwarding(here: str, there: str) -> Sequence[str]:
    """Return options of ssh that have what listens at a host be at a UNIX socket here: by the time a shell has run its
    first script, it is. ``there``: a path of the host, or ``ADDRESS:PORT`` as the host sees it."""
    return [*_OPTIONS, "-L", f"{here}:{there}"]


@dataclass(frozen=True, slots=True)
class Relay:
    """What the two logins are told. By the time a shell has run its first script, its half is there."""

    pull: Sequence[str]
    """Options of ssh for the host whose sockets they are; these need not be there yet."""
    push: Sequence[str]
    """Options for the other one, where they must not be yet, and stay behind as files."""


@contextmanager
def relay(sockets: Mapping[str, str], *, compressed: bool = False) -> Iterator[Relay]:
    """Have sockets of one host be at another one, for as long as the logins last: path here → path there.

    ``compressed``: what goes through is compressed on both halves, if their sshd has no objections.
    """
    with tempfile.TemporaryDirectory(prefix="mudanza-relay-", ignore_cleanup_errors=True) as place:
        options = [*_OPTIONS, "-o", f"Compression={'yes' if compressed else 'no'}"]
        pull, push = list(options), list(options)
        for number, (here, there) in enumerate(sockets.items()):
            middle = f"{place}/{number}"
            pull += ["-L", f"{middle}:{here}"]
            push += ["-R", f"{there}:{middle}"]
        yield Relay(pull, push)
