"""Plans for recovery as TOML: read, and said what is wrong in them."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mudanza.model.errors import UsageError
from mudanza.model.hook import HOOK_NAME
from mudanza.model.recovery import (
    NO,
    Address,
    Await,
    Group,
    Machine,
    RecoveryPlan,
    Wait,
    recovery_plan,
)
from mudanza.model.units import parse_duration

LIMIT = "5m"
"""How long is waited at the most where nothing is said."""
AtOnce = Annotated[int, Field(ge=1, le=64)]
"""How many VMs are brought up side by side."""
PORTS = 1 << 16
_IN_WORDS = {"extra_forbidden": "there is no such setting", "missing": "it has to be said"}
"""What is wrong, where pydantic says so in words of its own."""
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+):[0-9]{1,5}")


class WaitSettings(BaseModel):
    """One thing that has to be through: just one of ``tcp``, ``agent``, ``time``, ``script`` and ``ask``."""

    model_config = ConfigDict(extra="forbid")

    tcp: str | None = None
    agent: str | None = None
    time: str | None = None
    script: str | None = None
    ask: str | None = None
    limit: str = LIMIT
    default: Literal["yes", "no"] | None = None


class GroupSettings(BaseModel):
    """VMs that are brought up side by side."""

    model_config = ConfigDict(extra="forbid")

    name: str
    vms: list[str]
    after: list[str] = []
    networks: dict[str, str] = {}
    test_networks: dict[str, str] = {}
    before: list[WaitSettings] = []
    wait: list[WaitSettings] = []
    at_once: AtOnce | None = None


class AddressSettings(BaseModel):
    """What one card of a guest gets."""

    model_config = ConfigDict(extra="forbid")

    network: str
    address: str
    gateway: str = ""


class MachineSettings(BaseModel):
    """What is different about one VM where its replica is."""

    model_config = ConfigDict(extra="forbid")

    networks: dict[str, str] = {}
    test_networks: dict[str, str] = {}
    address: list[AddressSettings] = []
    dns: list[str] = []
    limit: str = LIMIT
    host: str = ""


class PlanFile(BaseModel):
    """What `mudanza recovery import` reads."""

    model_config = ConfigDict(extra="forbid")

    group: list[GroupSettings]
    vm: dict[str, MachineSettings] = {}
    hosts: list[str] = []
    at_once: AtOnce | None = None
    at_once_per_host: AtOnce | None = None


def read_plan(name: str, text: str) -> RecoveryPlan:
    """Return the plan that a TOML text says. Raises UsageError naming what is wrong in it."""
    try:
        found = PlanFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the plan is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        why = _IN_WORDS.get(first["type"], first["msg"])
        raise UsageError(f"the plan is wrong at {where}: {why}", remedy="what a plan says: docs/recovery.md") from error
    groups = [
        Group(
            each.name,
            tuple(each.vms),
            tuple(each.after),
            tuple(map(_wait, each.wait)),
            each.networks,
            tuple(map(_wait, each.before)),
            each.test_networks,
            each.at_once,
        )
        for each in found.group
    ]
    machines = {vm: _machine(vm, said) for vm, said in found.vm.items()}
    room = {"at_once": found.at_once, "at_once_per_host": found.at_once_per_host}
    return recovery_plan(name, groups, machines, found.hosts, **room)


def _wait(said: WaitSettings) -> Wait:
    given = {kind: text for kind in Await if (text := getattr(said, kind)) is not None}
    if len(given) != 1:
        raise UsageError(
            "a wait has just one of tcp, agent, time, script and ask", remedy='such as: { tcp = "10.0.0.5:5432" }'
        )
    [(kind, text)] = given.items()
    if said.default is not None and kind is not Await.ASK:
        raise UsageError(f"only a question has a default, and no {kind}")
    if kind is Await.TIME:
        return Wait(kind, "", parse_duration(text))
    port = text.rpartition(":")[2]
    if kind is Await.TCP and not (_ADDRESS.fullmatch(text) and 0 < int(port) < PORTS):
        raise UsageError(f"{text!r} is no address with a port", remedy='such as "10.0.0.5:5432" or "[fd00::5]:5432"')
    if not text.strip():
        raise UsageError(f"{kind} is empty")
    if kind is Await.SCRIPT and not HOOK_NAME.fullmatch(text):
        raise UsageError(
            f"{text!r} is no name of a hook", remedy="a plan names hooks of the controller's settings: [hooks.NAME]"
        )
    return Wait(kind, text, parse_duration(said.limit), said.default or NO)


def _machine(vm: str, said: MachineSettings) -> Machine:
    for server in said.dns:
        _check(vm, server, ipaddress.ip_address)
    if said.dns and not said.address:
        raise UsageError(f"VM {vm!r} gets name servers and no address", remedy="say both: [[vm.NAME.address]]")
    addresses = tuple(Address(each.network, _with_prefix(vm, each.address), each.gateway) for each in said.address)
    for each in addresses:
        if each.gateway:
            _check(vm, each.gateway, ipaddress.ip_address)
    limit = parse_duration(said.limit)
    return Machine(said.networks, addresses, tuple(said.dns), limit, said.test_networks, host=said.host)


def _with_prefix(vm: str, address: str) -> str:
    if "/" not in address:
        raise UsageError(f"VM {vm!r}: {address!r} has no length of its prefix", remedy='such as "10.9.0.5/24"')
    _check(vm, address, ipaddress.ip_interface)
    return address


def _check(vm: str, text: str, read: Callable[[str], object]) -> None:
    try:
        read(text)
    except ValueError as error:
        raise UsageError(f"VM {vm!r}: {text!r} is no address: {error}") from error
