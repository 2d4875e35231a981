"""What operations work with; the command line and the daemon open it, each as it needs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mudanza.availability.fence_agents import Settings as FenceSettings
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.database import Database
    from mudanza.journal.inventory import Inventory
    from mudanza.journal.jobs import Jobs
    from mudanza.model.cluster import Cluster, Known
    from mudanza.model.hook import Hook
    from mudanza.model.load import Loads, Measured
    from mudanza.operations.guarding import Settings as GuardSettings
    from mudanza.operations.saving import Settings as SavingSettings
    from mudanza.operations.switching import Settings as SwitchSettings

Say = Callable[[str], None]
"""Tells whoever asked a sentence."""


class Limits(Protocol):
    """How long is waited for what. Seconds."""

    @property
    def read(self) -> float:
        """A host to tell everything about itself."""

    @property
    def shutdown(self) -> float:
        """A guest to shut down when asked to."""


class Forecasting(Protocol):
    """What forecasts may take, and what they cannot know."""

    @property
    def wait(self) -> float:
        """The most seconds that measuring may hold up a move beyond its check."""

    @property
    def link(self) -> float | None:
        """What links carry over which no move has gone yet; bytes per second."""


class RecoverySettings(Protocol):
    """How many VMs of a plan are brought up side by side."""

    @property
    def at_once(self) -> int:
        """In all."""

    @property
    def at_once_per_host(self) -> int:
        """At one host."""


class Tariff(Protocol):
    """What power costs."""

    @property
    def price(self) -> float:
        """Of a kilowatt-hour; 0: nobody has said."""

    @property
    def currency(self) -> str:
        """The money that it is in."""


if TYPE_CHECKING:

    class PowerSettings(Tariff, SwitchSettings, SavingSettings, Protocol):
        """What power costs, how hosts are switched, and how it is saved."""


class Means(Protocol):
    """The journal, the settings and the ways to the hosts."""

    @property
    def database(self) -> Database:
        """The database."""

    @property
    def inventory(self) -> Inventory:
        """The hosts we were told of."""

    @property
    def jobs(self) -> Jobs:
        """The journal."""

    @property
    def hooks(self) -> Mapping[str, Hook]:
        """The hooks of this controller's settings, by name."""

    @property
    def limits(self) -> Limits:
        """How long is waited for what."""

    @property
    def forecasting(self) -> Forecasting:
        """What forecasts go by."""

    @property
    def fencing(self) -> FenceSettings:
        """Where fence agents and their secrets are."""

    @property
    def availability(self) -> GuardSettings:
        """How hosts are watched."""

    @property
    def saving(self) -> PowerSettings:
        """What power costs, how hosts are switched, and how it is saved."""

    @property
    def recovery(self) -> RecoverySettings:
        """How plans for recovery are carried out."""

    @property
    def settings_file(self) -> Path | None:
        """The file that the settings come from; None: there is none."""

    def connections(self) -> Connections:
        """Return connections to all hosts, each opened when needed. Raises UsageError when there is no host."""

    def read_cluster(
        self, connections: Connections, names: Collection[str] | None = None, *, resources: bool = True
    ) -> Cluster:
        """Read all hosts, or those, side by side, each within its bound; ``resources`` False: of hosts themselves only
        whether they answer, which takes a fraction of the time."""

    def known(self) -> Known | None:
        """Return the newest picture of all hosts that this program keeps; None: it keeps none."""

    def loads(self, cluster: Cluster) -> Loads:
        """Return how busy hosts and VMs have been."""

    def measured(self, window: float | None) -> Measured:
        """Return the same of so many seconds, with names; None: as the settings have it."""
