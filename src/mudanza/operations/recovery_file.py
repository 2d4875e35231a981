"""Plans for recovery as TOML: read, and said what is wrong in them."""

from __future__ import annotations

import re
import tomllib

from pydantic import BaseModel, ConfigDict, ValidationError

from mudanza.model.errors import UsageError
from mudanza.model.recovery import Await, Group, RecoveryPlan, Wait, recovery_plan
from mudanza.model.units import parse_duration

LIMIT = "5m"
"""How long is waited at the most where nothing is said."""
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+):[0-9]{1,5}")


class WaitSettings(BaseModel):
    """One thing that is waited for: just one of ``tcp``, ``agent`` and ``time``."""

    model_config = ConfigDict(extra="forbid")

    tcp: str | None = None
    agent: str | None = None
    time: str | None = None
    limit: str = LIMIT


class GroupSettings(BaseModel):
    """VMs that are brought up one after the other."""

    model_config = ConfigDict(extra="forbid")

    name: str
    vms: list[str]
    after: list[str] = []
    networks: dict[str, str] = {}
    wait: list[WaitSettings] = []


class PlanFile(BaseModel):
    """What `mudanza recovery import` reads."""

    model_config = ConfigDict(extra="forbid")

    group: list[GroupSettings]


def read_plan(name: str, text: str) -> RecoveryPlan:
    """Return the plan that a TOML text says. Raises UsageError naming what is wrong in it."""
    try:
        found = PlanFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the plan is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the plan is wrong at {where}: {first['msg']}") from error
    groups = [
        Group(each.name, tuple(each.vms), tuple(each.after), tuple(map(_wait, each.wait)), each.networks)
        for each in found.group
    ]
    return recovery_plan(name, groups)


def _wait(said: WaitSettings) -> Wait:
    given = {kind: text for kind in Await if (text := getattr(said, kind)) is not None}
    if len(given) != 1:
        raise UsageError("a wait has just one of tcp, agent and time", remedy='such as: { tcp = "10.0.0.5:5432" }')
    [(kind, text)] = given.items()
    if kind is Await.TIME:
        return Wait(kind, "", parse_duration(text))
    if kind is Await.TCP and not _ADDRESS.fullmatch(text):
        raise UsageError(f"{text!r} is no address with a port", remedy='such as "10.0.0.5:5432" or "[fd00::5]:5432"')
    return Wait(kind, text, parse_duration(said.limit))
