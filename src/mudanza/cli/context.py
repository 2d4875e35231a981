"""What the commands share: settings, database and connections, each opened when first needed."""

from __future__ import annotations

import getpass
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mudanza.cli.output import say
from mudanza.model.errors import UsageError

if TYPE_CHECKING:
    from mudanza.cli.settings import Loaded
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.audit import Audit
    from mudanza.journal.database import Database
    from mudanza.journal.inventory import Inventory
    from mudanza.journal.jobs import Jobs
    from mudanza.model.cluster import Cluster


class App:
    """One run of the command."""

    def __init__(self, config: Path | None, *, debug: bool) -> None:
        self._config = config
        self.debug = debug

    @cached_property
    def loaded(self) -> Loaded:
        """The settings. Raises UsageError."""
        from mudanza.cli.settings import load_settings

        return load_settings(self._config)

    @cached_property
    def database(self) -> Database:
        """The database. Raises UsageError."""
        from mudanza.journal.database import open_database

        return open_database(self.loaded.settings.database)

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
    def audit(self) -> Audit:
        """Who asked for what."""
        from mudanza.journal.audit import Audit

        return Audit(self.database)

    def connections(self) -> Connections:
        """Return connections to all hosts, each opened when needed. Raises UsageError when there is no host."""
        from mudanza.hypervisor.connections import Connections

        entries = self.inventory.hosts()
        if not entries:
            raise UsageError(
                "no host is known yet",
                remedy="add one: mudanza host add NAME qemu+ssh://root@ADDRESS/system (or try: sudo mudanza lab up)",
            )
        return Connections(entries, timeout=self.loaded.settings.limits.connect)

    def read_cluster(self, connections: Connections) -> Cluster:
        """Read all hosts, side by side, each within its bound, and tell which were not seen."""
        from mudanza.hypervisor.reading.cluster import read_cluster

        limit = self.loaded.settings.limits.read
        cluster = read_cluster(self.inventory.hosts(), timeout=limit, connections=connections)
        for host in cluster.hosts:
            if not host.seen:
                say(f"! host {host.name} was not seen: {host.error}")
        return cluster

    @staticmethod
    def asked_by() -> str:
        """Return who gives this order, for the audit."""
        user = os.environ.get("SUDO_USER") or getpass.getuser()
        return f"{user}@{os.uname().nodename}"


def app_of(context: typer.Context) -> App:
    """Return this run's App."""
    found = context.find_object(App)
    if found is None:  # only a command called outside of the program could see this
        raise UsageError("this command must be run through mudanza")
    return found
