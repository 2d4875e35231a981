"""By which means a busy guest gets across."""

from __future__ import annotations

from enum import StrEnum


class PostCopy(StrEnum):
    """Whether a guest may run at the target before all of its memory is there, and fetch the rest.

    It ends with the QEMU of either host then, and stands still for every page that it needs and that is not there.
    """

    ALLOW = "allow"
    """Where pre-copy would not end in time."""
    NEVER = "never"
    NOW = "now"
    """At once, as soon as memory begins to be copied."""


class Compression(StrEnum):
    """Whether of pages that a guest has changed again only what differs is sent."""

    AUTO = "auto"
    """Where pre-copy would not end without, and earlier moves of the VM do not say that it is of no use."""
    OFF = "off"
    XBZRLE = "xbzrle"
    """QEMU keeps the pages it has sent in a cache at the source, and sends the difference."""


class Policy(StrEnum):
    """By which means a busy guest's move comes to its end."""

    AUTO = "auto"
    """Pre-copy, and post-copy where the figures say that it would not end in time; the guest is never slowed down."""
    GENTLE = "gentle"
    """Neither post-copy nor slowing the guest down: it moves when it is calm enough, or not at all."""
    DEADLINE = "deadline"
    """By any means: its vCPUs may be slowed down as well (QEMU's auto-converge)."""
    NOW = "now"
    """Post-copy at once."""
