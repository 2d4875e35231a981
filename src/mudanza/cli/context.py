"""What the commands share: settings, database and connections, each opened when first needed."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import typer

from mudanza.cli.output import say
from mudanza.model.errors import MetricsError, UsageError

if TYPE_CHECKING:
    from mudanza.availability.fence_agents import Settings as FenceSettings
    from mudanza.cli.settings import Loaded
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.audit import Audit
    from mudanza.journal.database import Database
    from mudanza.journal.inventory import Inventory
    from mudanza.journal.jobs import Jobs
    from mudanza.model.cluster import Cluster, Known
    from mudanza.model.hook import Hook
    from mudanza.model.load import Loads, Measured
    from mudanza.operations.guarding import Settings as GuardSettings
    from mudanza.operations.here import Here
    from mudanza.operations.means import Forecasting, Limits, PowerSettings, RecoverySettings
    from mudanza.remote.reach import Server
    from mudanza.remote.there import There

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class App:
    """One run of the command."""

    def __init__(self, config: Path | None, *, debug: bool, server: Server | None = None) -> None:
        self._config = config
        self.server = server
        """The daemon that does what is asked for; None: it is done here."""
        self.debug = debug
        self._begun: Connections | None = None
        self.keeps: Callable[[], Known | None] = lambda: None
        """Tells the newest picture of all hosts, where this program keeps one."""

    def anew(self) -> App:
        """Return one for a process of its own: by the same settings, and nothing is open yet."""
        return App(self._config, debug=self.debug, server=self.server)

    @cached_property
    def loaded(self) -> Loaded:
        """The settings. Raises UsageError."""
        from mudanza.cli.settings import load_settings

        return load_settings(self._config)

    @cached_property
    def database(self) -> Database:
        """The database. Raises UsageError, also where a daemon is to be asked: it has its own."""
        self.refuse_there()
        from mudanza.journal.database import open_database

        return open_database(self.loaded.settings.database)

    def refuse_there(self) -> None:
        """Raise UsageError where a daemon is to be asked, by what cannot be done through one."""
        if self.server is not None:
            raise UsageError(
                f"this cannot be done through a daemon ({self.server.address})",
                remedy="do it on the machine of the daemon, without --server and $MUDANZA_SERVER",
            )

    @cached_property
    def inventory(self) -> Inventory:
        """The hosts we were told of."""
        from mudanza.journal.inventory import Inventory

        return Inventory(self.database)

    @cached_property
    def jobs(self) -> Jobs:
        """The journal."""
        from mudanza.journal.jobs import Jobs

        return Jobs(self.database)

    @cached_property
    def hooks(self) -> Mapping[str, Hook]:
        """The hooks of this controller's settings, by name. Raises UsageError."""
        return {name: each.as_hook(name) for name, each in self.loaded.settings.hooks.items()}

    @property
    def limits(self) -> Limits:
        """How long is waited for what. Raises UsageError."""
        return self.loaded.settings.limits

    @property
    def forecasting(self) -> Forecasting:
        """What forecasts go by. Raises UsageError."""
        return self.loaded.settings.forecast

    @property
    def fencing(self) -> FenceSettings:
        """Where fence agents and their secrets are. Raises UsageError."""
        return self.loaded.settings.fencing

    @property
    def availability(self) -> GuardSettings:
        """How hosts are watched. Raises UsageError."""
        return self.loaded.settings.availability

    @property
    def saving(self) -> PowerSettings:
        """What power costs, how hosts are switched, and how it is saved. Raises UsageError."""
        return self.loaded.settings.power

    @property
    def recovery(self) -> RecoverySettings:
        """How plans for recovery are carried out. Raises UsageError."""
        return self.loaded.settings.recovery

    @property
    def settings_file(self) -> Path | None:
        """The file that the settings come from; None: there is none. Raises UsageError."""
        return self.loaded.path

    @cached_property
    def audit(self) -> Audit:
        """Who asked for what."""
        from mudanza.journal.audit import Audit

        return Audit(self.database)

    @cached_property
    def asked(self) -> Here | There:
        """Who does what is asked for: this program, or a daemon. Raises UsageError."""
        from mudanza.operations.here import Here

        return self.there or Here(self, self.asked_by())

    @cached_property
    def there(self) -> There | None:
        """The daemon that does what is asked for; None: it is done here. Raises UsageError."""
        if self.server is None:
            return None
        from mudanza.remote import reach
        from mudanza.remote.there import There

        return There(reach.client_of(self.server))

    def picture(self) -> Cluster:
        """Return what is where, and tell which hosts were not seen. Raises UsageError."""
        cluster = self.asked.cluster()
        if self.server is not None:
            _tell_unseen(cluster)
        return cluster

    def loads(self, cluster: Cluster, window: float | None = None) -> Loads:
        """Return how busy hosts and VMs have been, within so many seconds; else ``load.window`` of the settings.

        From the Prometheus server of the settings, if there is one that answers; else from our own readings.
        """
        from mudanza.journal.load import LoadKeeper

        settings = self.loaded.settings.load
        window, instead = window or settings.window, ""
        if settings.prometheus:
            from mudanza.fleet.prometheus import Prometheus

            try:
                return Prometheus(settings.server()).loads(cluster, window)
            except MetricsError as error:
                instead = f"{error}; our own readings are gone by instead"
                say(f"! {instead}")
        own = LoadKeeper(self.database).loads(window)
        return replace(own, told=(instead,)) if instead else own

    def measured(self, window: float | None) -> Measured:
        """Return how busy hosts and VMs have been within so many seconds, with names; else ``load.window``."""
        from mudanza.journal.load import LoadKeeper
        from mudanza.model.load import Measured

        seconds = window or self.loaded.settings.load.window
        if self.loaded.settings.load.prometheus:
            with self.connections() as connections:
                cluster = self.read_cluster(connections)
            names = {vm.uuid: (vm.name, vm.host) for vm in cluster.vms}
            return Measured(seconds, self.loads(cluster, seconds), names)
        keeper = LoadKeeper(self.database)
        return Measured(seconds, keeper.loads(seconds), keeper.names(seconds))

    def begin_to_connect(self) -> None:
        """Log in to the hosts while the journal's modules are loaded, which takes as long. Raises UsageError."""
        if self.server is not None:
            return
        from mudanza.journal.early import hosts_at_first_glance

        if entries := hosts_at_first_glance(self.loaded.settings.database):
            from mudanza.hypervisor.connections import Connections

            self._begun = Connections(entries, timeout=self.loaded.settings.limits.connect)
            self._begun.open_all()

    def connections(self) -> Connections:
        """Return connections to all hosts, each opened when needed. Raises UsageError when there is no host, and
        BlockedError where another machine carries this journal on."""
        from mudanza.hypervisor.connections import Connections
        from mudanza.operations.reigning import refuse_replaced

        refuse_replaced(self)
        entries = self.inventory.hosts()
        if not entries:
            raise UsageError(
                "no host is known yet",
                remedy="add one: mudanza host add NAME qemu+ssh://root@ADDRESS/system (or try: sudo mudanza lab up)",
            )
        begun, self._begun = self._begun, None
        if begun is not None and begun.entries == entries:
            return begun
        if begun is not None:  # somebody has changed them just now
            begun.close()
        return Connections(entries, timeout=self.loaded.settings.limits.connect)

    def read_cluster(
        self, connections: Connections, names: Collection[str] | None = None, *, resources: bool = True
    ) -> Cluster:
        """Read all hosts, or those, side by side, each within its bound, and tell which were not seen."""
        from mudanza.hypervisor.reading.cluster import read_cluster

        limit = self.loaded.settings.limits.read
        if names is None:
            entries = self.inventory.hosts()
        else:  # of which the connections know
            entries = tuple(entry for entry in connections.entries if entry.name in names)
        cluster = read_cluster(entries, timeout=limit, connections=connections, resources=resources)
        _tell_unseen(cluster)
        return cluster

    def known(self) -> Known | None:
        """Return the newest picture of all hosts that this program keeps; None: it keeps none."""
        return self.keeps()

    @staticmethod
    def asked_by() -> str:
        """Return who gives this order, for the audit."""
        user = os.environ.get("SUDO_USER") or getpass.getuser()
        return f"{user}@{os.uname().nodename}"


def _tell_unseen(cluster: Cluster) -> None:
    for host in cluster.hosts:
        if not host.seen:
            say(f"! host {host.name} was not seen: {host.error}")


def connecting(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return the command as one that needs the hosts; it takes the ``context`` by name, as Typer gives it."""

    @wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        app_of(cast(typer.Context, kwargs["context"])).begin_to_connect()
        return command(*args, **kwargs)

    return run


def app_of(context: typer.Context) -> App:
    """Return this run's App."""
    found = context.find_object(App)
    if found is None:  # only a command called outside of the program could see this
        raise UsageError("this command must be run through mudanza")
    return found
