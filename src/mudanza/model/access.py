"""Who may ask the daemon for what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.vm import Vm


class Scope(StrEnum):
    """A kind of thing that can be asked for."""

    READ = "read"
    MIGRATE = "migrate"
    PLAN = "plan"
    FAILOVER = "failover"
    FENCE = "fence"
    ADMIN = "admin"
    """Everything."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Who says, by OpenID Connect, who somebody is."""

    issuer: str
    """Its URL."""
    client_id: str
    """What it knows us by."""
    scopes: Mapping[str, frozenset[Scope]]
    """What those may who are in a group, by its name."""
    client_secret_file: str = ""
    """A file with what we show it; empty: nothing, it goes by PKCE alone."""
    name_claim: str = "preferred_username"
    """What of its word is somebody's name."""
    groups_claim: str = "groups"
    """What of its word are their groups."""
    ask: tuple[str, ...] = ("profile",)
    """What it is asked for, besides who they are."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who asks. Without hosts and tags there is no limit to what it is about."""

    name: str
    scopes: frozenset[Scope]
    hosts: frozenset[str] = frozenset()
    """Only these, and VMs on them, which may be moved among them."""
    tags: frozenset[str] = frozenset()
    """Only VMs that have one of these."""

    @property
    def is_limited(self) -> bool:
        """Whether there are hosts or VMs that it may know nothing of."""
        return bool(self.hosts or self.tags)

    def may(self, scope: Scope) -> bool:
        """Whether it may ask for such things at all. Whoever may do anything may read."""
        return Scope.ADMIN in self.scopes or scope in self.scopes or (scope is Scope.READ and bool(self.scopes))

    def may_see_host(self, name: str) -> bool:
        """Whether it may know of a host."""
        return not self.hosts or name in self.hosts

    def may_see(self, vm: Vm) -> bool:
        """Whether it may know of a VM."""
        return self.may_see_host(vm.host) and (not self.tags or bool(self.tags.intersection(vm.tags)))

    def may_see_hosts(self, names: Collection[str]) -> bool:
        """Whether it may know of all of them."""
        return all(map(self.may_see_host, names))
