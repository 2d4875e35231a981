"""VMs that are started elsewhere when their host dies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.cluster import Cluster
from mudanza.model.errors import UsageError
from mudanza.model.probe import parse_probe

ON_PURPOSE = frozenset({"shutdown", "destroyed", "migrated", "saved", "from snapshot"})
"""Why libvirt says that a VM is off which somebody has shut down, or its own guest has."""

LEAST_HANG = 30.0
"""Seconds for which a guest must have hung at the least before anything is done about it."""


class OnHang(StrEnum):
    """What is done about a guest that hangs."""

    TELL = "tell"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Care:
    """What is done for a VM besides. Seconds."""

    from_replica: bool = False
    """Whether it is started from its replica where its host is lost with its disks."""
    max_loss: float | None = None
    """Only if no more than that is lost; None: whatever is lost."""
    on_hang: OnHang = OnHang.TELL
    hang_after: float = 120.0
    """How long its agent must have been silent, and its guest have done nothing else."""
    answers: str = ""
    """By what it shows, once it was started anew, that its guest is there: see ``model.probe``; empty: nobody asks."""

    def refuse_wrong(self) -> None:
        """Raise UsageError for what cannot be meant."""
        if self.max_loss is not None and not self.from_replica:
            raise UsageError("--max-loss is of VMs that are started from their replicas", remedy="also: --from-replica")
        if self.hang_after < LEAST_HANG:
            raise UsageError(
                f"a guest that is silent for {self.hang_after:g} s need not hang",
                remedy=f"{LEAST_HANG:g}s at the least",
            )
        if self.answers:
            parse_probe(self.answers)

    @property
    def in_words(self) -> str:
        """What is unlike the usual, in words."""
        words = []
        if self.from_replica:
            most = f", if no more than {self.max_loss:g} s are lost" if self.max_loss is not None else ""
            words.append(f"from its replica{most}")
        if self.on_hang is OnHang.RESTART:
            words.append(f"restarted if it hangs for {self.hang_after:g} s")
        if self.answers:
            words.append(f"answers by {self.answers}")
        return "; ".join(words)


AS_USUAL = Care()


@dataclass(frozen=True, slots=True)
class KeptUp:
    """One VM of which its operator wants that."""

    uuid: str
    name: str
    priority: int
    """Those with lower numbers are started first; the next ones when these run, or could not be started."""
    most: int
    """How often within a day: one that kills its hosts is not let loose on all of them."""
    autostart: bool
    """Whether its host started it by itself, before: that is switched off for as long as it is kept up."""
    asked_by: str
    at: float
    """Since when, by the database's clock: seconds since the epoch."""
    ran_on: str = ""
    """The host on which it ran when it was seen last; empty: it did not, or somebody has shut it down since."""
    after: tuple[str, ...] = ()
    """UUIDs of others that are started before it, where they are to be started elsewhere, too."""
    care: Care = AS_USUAL


@dataclass(frozen=True, slots=True)
class Past:
    """What became of earlier restarts of a VM."""

    within_a_day: int = 0
    """How often it was started elsewhere."""
    failed: int = 0
    """How often that was tried within a day in vain, since it last was not."""
    ago: float | None = None
    """Seconds since the last one ended, however it went; None: there was none."""
    under_way: bool = False
    """Whether a job or a plan has the VM."""


def ran_on(kept: KeptUp, cluster: Cluster) -> str:
    """Return where a VM ran when it was seen last, after one more look; see ``KeptUp.ran_on``."""
    places = [vm for vm in cluster.vms if vm.uuid == kept.uuid]
    if running := [vm.host for vm in places if vm.state.active]:
        return kept.ran_on if kept.ran_on in running else running[0]
    if not any(host.name == kept.ran_on and host.seen for host in cluster.hosts):
        return kept.ran_on  # nobody can say
    there = [vm for vm in places if vm.host == kept.ran_on]
    return kept.ran_on if any(vm.reason not in ON_PURPOSE for vm in there) else ""
