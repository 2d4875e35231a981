"""What the operator wants of places: rules for VMs and hosts, limits, and how eagerly VMs are moved for balance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from mudanza.model.automation import Automation
from mudanza.model.errors import UsageError
from mudanza.model.times import parse_window
from mudanza.model.units import MIB

_NO_ZONES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class RuleKind(StrEnum):
    """What a rule asks for. The last two are wishes: they are kept where nothing else suffers."""

    TOGETHER = "together"
    APART = "apart"
    GROUPS_APART = "groups-apart"
    MUST = "must"
    MUST_NOT = "must-not"
    SHOULD = "should"
    SHOULD_NOT = "should-not"

    @property
    def is_of_hosts(self) -> bool:
        """Whether it is about VMs and hosts, rather than VMs and VMs."""
        return self not in (RuleKind.TOGETHER, RuleKind.APART, RuleKind.GROUPS_APART)

    @property
    def is_hard(self) -> bool:
        """Whether it is never broken for any goal."""
        return self not in (RuleKind.SHOULD, RuleKind.SHOULD_NOT)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. VMs are named by name, UUID or ``tag:TAG``; hosts by name, ``tag:TAG`` or ``zone:ZONE``."""

    name: str
    kind: RuleKind
    vms: tuple[str, ...]
    others: tuple[str, ...] = ()
    """The other group, of ``groups-apart``."""
    hosts: tuple[str, ...] = ()
    across: str = "host"
    """``zone``: apart means in different zones; such a rule says nothing of hosts that are in no zone."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All of it. Bytes, bytes per second, seconds."""

    rules: tuple[Rule, ...] = ()
    zones: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NO_ZONES)
    """Zone → its hosts: what fails together."""
    ignored: tuple[str, ...] = ()
    """VMs that no plan moves, as rules name them; they count as load where they are."""
    vcpus_per_cpu: float | None = None
    """The most vCPUs promised for each CPU of a host; None: no limit."""
    memory_ratio: float = 1.0
    """How often a host's memory (less its reserve) may be promised."""
    host_reserve: int | None = None
    """Memory that stays with each host itself; None: as preflight keeps it."""
    survive_hosts: int = 0
    """N+k: the VMs of any so many hosts still fit onto the others."""
    survive_zones: int = 0
    """The same of zones."""
    level: int = 3
    """How eager balance is: 1 mends what is badly out of balance only, 5 evens out what it can."""
    shared_pools: tuple[str, ...] = ()
    """Pools of files that are one storage wherever they are of that name, although libvirt takes them for each host's
    own: directories on NFS, say."""
    automation: Automation = Automation.ADVISE
    """How far a continuous balance goes by itself; a VM may wish otherwise of itself."""
    windows: tuple[str, ...] = ()
    """Windows of each day in which it begins moves, such as ``22:00-06:00``; none: always."""
    minimum_gain: float | None = None
    """By how much imbalance must fall for each move; None: as the level has it."""
    hold: int = 3
    """Rounds in a row that a continuous balance has to be asked for before anything moves."""
    vm_rest: float = 1800.0
    """For how long a VM that was moved is not moved again for balance."""
    host_rest: float = 300.0
    """For how long a host that took or gave a VM is left alone by balance."""
    cpu_weight: float = 1.0
    memory_weight: float = 1.0
    disk_weight: float = 0.25
    network_weight: float = 0.25
    disk_capacity: int = 500 * MIB
    """What a host's disks are taken to carry: libvirt does not tell."""
    network_capacity: int = 1_250_000_000
    """What a host's network is taken to carry: 10 Gbit/s, unless you know better."""

    def __post_init__(self) -> None:
        """Raise UsageError for what contradicts itself."""
        if not 1 <= self.level <= 5:
            raise UsageError(f"level {self.level} is not one of 1 to 5")
        if self.automation is Automation.NEVER:
            raise UsageError("automation 'never' is for single VMs", remedy="advise is what does nothing by itself")
        for window in self.windows:
            parse_window(window)
        for what in ("memory_ratio", "disk_capacity", "network_capacity"):
            if getattr(self, what) <= 0:
                raise UsageError(f"{what} must be more than 0")
        for what in ("cpu_weight", "memory_weight", "disk_weight", "network_weight", "survive_hosts", "survive_zones"):
            if getattr(self, what) < 0:
                raise UsageError(f"{what} must not be less than 0")
        if self.minimum_gain is not None and self.minimum_gain < 0:
            raise UsageError("minimum_gain must not be less than 0")
        if self.vcpus_per_cpu is not None and self.vcpus_per_cpu <= 0:
            raise UsageError("vcpus_per_cpu must be more than 0")
        names: set[str] = set()
        for rule in self.rules:
            _check(rule, self.zones)
            if rule.name in names:
                raise UsageError(f"there are two rules named {rule.name!r}")
            names.add(rule.name)
        _check_zones(self.zones)

    def zone_of(self, host: str) -> str | None:
        """Return the zone a host is in."""
        return next((zone for zone, hosts in self.zones.items() if host in hosts), None)


def _check(rule: Rule, zones: Mapping[str, tuple[str, ...]]) -> None:
    if not rule.vms:
        raise UsageError(f"rule {rule.name!r} names no VM")
    if rule.kind.is_of_hosts and not rule.hosts:
        raise UsageError(f"rule {rule.name!r} ({rule.kind}) names no host")
    if not rule.kind.is_of_hosts and rule.hosts:
        raise UsageError(f"rule {rule.name!r} ({rule.kind}) is about VMs, and names hosts")
    if (rule.kind is RuleKind.GROUPS_APART) != bool(rule.others):
        raise UsageError(f"rule {rule.name!r}: `others` is the other group of groups-apart, and of no other kind")
    if rule.across not in ("host", "zone"):
        raise UsageError(f"rule {rule.name!r}: across is 'host' or 'zone', not {rule.across!r}")
    if rule.across == "zone" and rule.kind not in (RuleKind.APART, RuleKind.GROUPS_APART):
        raise UsageError(f"rule {rule.name!r}: only apart and groups-apart can be across zones")
    for host in rule.hosts:
        if host.startswith("zone:") and host.removeprefix("zone:") not in zones:
            raise UsageError(f"rule {rule.name!r} names {host}, and there is no such zone")


def _check_zones(zones: Mapping[str, tuple[str, ...]]) -> None:
    seen: dict[str, str] = {}
    for zone, hosts in zones.items():
        for host in hosts:
            if host in seen:
                raise UsageError(f"host {host} is in two zones, {seen[host]} and {zone}")
            seen[host] = zone


def rules_as_data(rules: Rules) -> dict[str, Any]:
    """Return rules as JSON values; what is as usual is left out."""
    usual = Rules()
    data = {
        each.name: getattr(rules, each.name)
        for each in fields(rules)
        if getattr(rules, each.name) != getattr(usual, each.name)
    }
    if rules.rules:
        data["rules"] = [_rule_as_data(rule) for rule in rules.rules]
    if rules.zones:
        data["zones"] = {zone: list(hosts) for zone, hosts in rules.zones.items()}
    for name in ("ignored", "windows", "shared_pools"):
        if getattr(rules, name):
            data[name] = list(getattr(rules, name))
    if rules.automation is not usual.automation:
        data["automation"] = rules.automation.value
    return data


def _rule_as_data(rule: Rule) -> dict[str, Any]:
    data: dict[str, Any] = {"name": rule.name, "kind": rule.kind.value, "vms": list(rule.vms)}
    if rule.others:
        data["others"] = list(rule.others)
    if rule.hosts:
        data["hosts"] = list(rule.hosts)
    if rule.across != "host":
        data["across"] = rule.across
    return data


def rules_from_data(data: Mapping[str, Any]) -> Rules:
    """Return the rules that JSON values of that form say. Raises UsageError naming what is wrong."""
    known = {each.name for each in fields(Rules)}
    if unknown := sorted(set(data) - known):
        raise UsageError(f"there is no setting {unknown[0]!r} for planning (known: {', '.join(sorted(known))})")
    values = dict(data)
    try:
        values["rules"] = tuple(_rule(each, number) for number, each in enumerate(data.get("rules", ()), 1))
        values["zones"] = {str(zone): _names(hosts) for zone, hosts in data.get("zones", {}).items()}
        values["ignored"], values["windows"] = _names(data.get("ignored", ())), _names(data.get("windows", ()))
        values["shared_pools"] = _names(data.get("shared_pools", ()))
        values["automation"] = _automation(data.get("automation", Automation.ADVISE))
        return Rules(**values)
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"the rules are wrong: {error}") from error


def _rule(data: Mapping[str, Any], number: int) -> Rule:
    known = {each.name for each in fields(Rule)}
    if unknown := sorted(set(data) - known):
        raise UsageError(f"rule {number}: there is no {unknown[0]!r} in a rule (known: {', '.join(sorted(known))})")
    try:
        kind = RuleKind(data.get("kind", ""))
    except ValueError as error:
        raise UsageError(f"rule {number}: kind is one of {', '.join(RuleKind)}") from error
    return Rule(
        name=str(data.get("name", f"{kind}-{number}")),
        kind=kind,
        vms=_names(data.get("vms", ())),
        others=_names(data.get("others", ())),
        hosts=_names(data.get("hosts", ())),
        across=str(data.get("across", "host")),
    )


def _automation(value: Any) -> Automation:
    try:
        return Automation(value)
    except ValueError:
        raise UsageError(f"automation {value!r} is none of auto, manual, advise") from None


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{value!r} is not a list of names")
    return tuple(value)
