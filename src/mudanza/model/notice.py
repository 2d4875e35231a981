"""What others may want to hear of, and who they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What has happened."""

    MOVE_FAILED = "migration.failed"
    """A job ended otherwise than it should: its VM is as before, down, or in need of a person. Not one that somebody
    cancelled."""
    NEEDS_PERSON = "migration.needs-person"
    """A job was left to a person: it says at what to look."""
    PLAN_PROPOSED = "plan.proposed"
    """A plan waits for a yes."""
    HOST_DOWN = "host.down"
    """A host that is not in maintenance has not answered for a while."""
    HOST_BACK = "host.back"
    """One that was told to be down answers again."""
    RPO_BROKEN = "protection.rpo-broken"
    """A replica is older than it may be."""
    NOT_FROZEN = "protection.not-frozen"
    """A guest was to be frozen for a restore point, and its agent did not do so: the point is crash-consistent."""
    TEST_FAILED = "protection.test-failed"
    """It was tried on schedule whether a replica boots, and it does not, or that could not be tried."""
    HOST_FENCED = "host.fenced"
    """A host that was taken for dead is proven off; VMs that are kept up are started elsewhere."""
    HOST_NOT_FENCED = "host.not-fenced"
    """A host is taken for dead, and nothing proves that it is off: nothing is started elsewhere."""
    VM_FROM_REPLICA = "vm.from-replica"
    """A VM whose host is lost runs from its replica, by itself: it says what is lost."""
    VM_LOST = "vm.lost"
    """One is not brought up by itself, for more would be lost than it may lose, or its replica's host cannot do it."""
    VM_RESTARTED = "vm.restarted"
    """A guest that hung was restarted where it was."""
    FENCE_SILENT = "fence.silent"
    """A fence device does not answer as it should: its host could not be proven off."""
    FENCE_BACK = "fence.back"
    """One of which that was told answers again."""
    STANDBY_LATE = "standby.late"
    """The copy of the journal at a standby is older than it should be: so much would be lost with this controller."""
    STANDBY_BACK = "standby.back"
    """One of which that was told has a copy again that is new enough."""
    HOSTS_SILENT = "hosts.silent"
    """So many hosts are silent at once that nothing is done: it may be the controller that is cut off."""
    UPLINK_LOST = "uplink.lost"
    """A host lives, and its guests have lost their network: a bridge's uplink carries nothing any more."""
    UPLINK_BACK = "uplink.back"
    """One of which that was told is well again."""
    TEST = "test"
    """Somebody tries whether it arrives."""


class DeliveryState(StrEnum):
    """How it stands that one receiver is told of one happening."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    """It was tried as often as it is, and not taken."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that others may want to hear of."""

    id: int
    at: float
    """Seconds since the epoch, by the database's clock."""
    kind: str
    subject: str
    """A VM's or a host's name, or a plan's number."""
    said: str
    """One sentence."""
    about: Mapping[str, Any]
    """Numbers and names for programs: ``job``, ``vm``, ``exit_code``…"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """That one receiver is to be told, or was."""

    id: int
    webhook: str
    state: DeliveryState
    tries: int
    due_in: float
    """Seconds until the next try, at the time it was read; less than 0: it is due."""
    answer: str
    """What the last try came to."""
    happening: Happening


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver: where it is, and what it wants to hear of."""

    name: str
    url: str
    secret_file: str
    events: frozenset[str]
    """Empty: all kinds there are."""
    timeout: float
    """Seconds that it may take to answer."""

    def wants(self, kind: str) -> bool:
        """Whether it is told of such."""
        return not self.events or kind in self.events or kind == Kind.TEST
