"""The cluster as a TOML file, for those who keep it in git."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mudanza.model.errors import UsageError
from mudanza.model.fencing import Device
from mudanza.model.host import HostEntry
from mudanza.model.host_power import HostPower
from mudanza.model.rules import Rules, rules_as_data, rules_from_data
from mudanza.model.watts import PowerModel
from mudanza.operations.fencing import agents_of, put_all
from mudanza.operations.hosts import refuse_wrong

if TYPE_CHECKING:
    from mudanza.operations.means import Means

Devices = Mapping[str, tuple[Device, ...]]
"""Host → what switches its power."""
Powers = Mapping[str, HostPower]
"""Host → what it draws, and how it is woken."""


class FenceSettings(BaseModel):
    """What switches one host's power, or one of its power supplies."""

    model_config = ConfigDict(extra="forbid")

    agent: str
    level: Annotated[int, Field(ge=1)] = 1
    options: dict[str, str] = {}
    secrets: dict[str, str] = {}
    """Option → name of the file that has it, in the controller's directory of secrets."""


class HostPowerSettings(BaseModel):
    """What one host draws, and how it is woken."""

    model_config = ConfigDict(extra="forbid")

    watts: tuple[float, ...] = ()
    """Idle first, with all CPUs in use last; empty: nobody knows."""
    mac: str | None = None
    keep_on: bool = False

    def as_power(self) -> HostPower:
        """Return it as the rest of the program has it. Raises UsageError."""
        return HostPower(PowerModel(self.watts) if self.watts else None, self.mac, self.keep_on)


class HostSettings(BaseModel):
    """One host in a cluster file."""

    model_config = ConfigDict(extra="forbid")

    uri: str
    peer_uri: str | None = None
    migration_address: str | None = None
    tls_name: str | None = None
    maintenance: bool = False
    tags: tuple[str, ...] = ()
    fence: dict[str, FenceSettings] | None = None
    """By name; None: nothing is said of them."""
    power: HostPowerSettings | None = None
    """None: nothing is said of it."""


class ClusterFile(BaseModel):
    """What `export` prints and `import` reads."""

    model_config = ConfigDict(extra="forbid")

    hosts: dict[str, HostSettings] = {}
    planning: dict[str, Any] | None = None
    """What the operator wants of places; None: nothing is said of it."""


def write_cluster(entries: Iterable[HostEntry], rules: Rules, devices: Devices, powers: Powers) -> str:
    """Return hosts, their fence devices and power, and the rules as TOML; what is as usual is left out."""
    hosts = {}
    for entry in entries:
        told = HostSettings.model_validate(entry, from_attributes=True)
        told.fence = {
            each.name: FenceSettings.model_validate(each, from_attributes=True) for each in devices.get(entry.name, ())
        }
        if entry.name in powers:
            power = powers[entry.name]
            told.power = HostPowerSettings(
                watts=power.watts.watts if power.watts else (), mac=power.mac, keep_on=power.keep_on
            )
        hosts[entry.name] = told.model_dump(exclude_defaults=True, exclude=None if told.fence else {"fence"})
    wanted = rules_as_data(rules)
    return tomli_w.dumps({"hosts": hosts} | ({"planning": wanted} if wanted else {}))


def read_cluster_file(text: str) -> tuple[list[HostEntry], Rules | None, Devices, Powers]:
    """Return the hosts a TOML text names; its rules, None where it says nothing of them; and the fence devices and the
    power of those hosts of which it says something. Raises UsageError naming what is wrong in it."""
    try:
        cluster = ClusterFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the file is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the file is wrong at {where}: {first['msg']}") from error
    entries = [
        HostEntry(name, **settings.model_dump(exclude={"fence", "power"})) for name, settings in cluster.hosts.items()
    ]
    rules = None if cluster.planning is None else rules_from_data(cluster.planning)
    return (
        entries,
        rules,
        {name: _devices(each.fence) for name, each in cluster.hosts.items() if each.fence is not None},
        {name: each.power.as_power() for name, each in cluster.hosts.items() if each.power is not None},
    )


def _devices(told: Mapping[str, FenceSettings]) -> tuple[Device, ...]:
    found = (Device(name, **each.model_dump()) for name, each in told.items())
    return tuple(sorted(found, key=lambda device: (device.level, device.name)))


def exported(means: Means) -> str:
    """Return the cluster as TOML, as ``take_in`` reads it."""
    from mudanza.journal.fences import Fences
    from mudanza.journal.host_power import HostPowers

    devices, powers = Fences(means.database).devices(), HostPowers(means.database).all()
    return write_cluster(means.inventory.hosts(), means.inventory.rules(), devices, powers)


def take_in(means: Means, text: str) -> tuple[str, ...]:
    """Have the cluster be as a TOML text says; return what is to be told. What it says nothing of stays as it is.

    Raises UsageError for what is wrong in it, nothing being changed.
    """
    from mudanza.operations import host_power

    entries, rules, devices, powers = read_cluster_file(text)
    for entry in entries:
        refuse_wrong(entry)
    changed = means.inventory.put_hosts(entries)
    fenced = put_all(means, agents_of(means.fencing), devices) if devices else ()
    powered = host_power.put_all(means, powers)
    ruled = rules is not None and means.inventory.put_rules(rules)
    said = [f"hosts changed: {', '.join(changed)}"] if changed else []
    said += [f"fence devices changed: {', '.join(fenced)}"] if fenced else []
    said += [f"power changed: {', '.join(powered)}"] if powered else []
    said += ["rules changed"] if ruled else []
    return tuple(said) or ("nothing to change",)
