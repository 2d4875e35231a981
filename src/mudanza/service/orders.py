"""What can be asked for by HTTP, as it comes in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mudanza.model.access import Scope
from mudanza.model.carrying import CannotGo, OnFailure, RunPolicy, Wish
from mudanza.model.migration import Chain, GuestClock, Media, MigrationOptions, Mode, Tls, Verify
from mudanza.model.plan import Goal, Plan, plan_from_json
from mudanza.model.policy import Compression, Policy, PostCopy
from mudanza.model.rules import Rule, RuleKind
from mudanza.model.times import parse_window
from mudanza.model.units import MIB
from mudanza.model.wishes import FIELDS
from mudanza.operations.limits import refuse_impossible
from mudanza.operations.planning import Wanted

Name = Annotated[str, Field(min_length=1, max_length=255)]


class CheckOrder(BaseModel):
    """A move of one VM, as far as a check depends on it. What is left out is as usual, or as the VM wishes itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"to": "h2"}]})

    to: Annotated[Name | None, Field(description="The host it is to go to; null: all others, or the best.")] = None
    mode: Mode = Mode.AUTO
    map_storage: Annotated[dict[Name, Name], Field(max_length=100)] = {}
    map_network: Annotated[dict[Name, Name], Field(max_length=100)] = {}
    tls: Tls = Tls.AUTO
    chain: Chain | None = None
    media: Media = Media.THERE
    format: Literal["qcow2", "raw"] | None = None

    def options(self, usual: Mapping[str, Any] = MappingProxyType({})) -> MigrationOptions:
        """Return it as the movers know it; ``usual``: what is not said, where that is not as everywhere. Raises
        UsageError for what no move could keep."""
        given = self.model_dump(exclude={"to", "probe_link"}, exclude_none=True)
        named = frozenset(name for name in FIELDS if given.get(name) is not None)
        options = MigrationOptions(**{**usual, **given}, named=named)
        refuse_impossible(options)
        return options


class LimitedOrder(CheckOrder):
    """A move of one VM with what it may cost."""

    max_downtime: Annotated[float | None, Field(ge=0.001, le=2000, description="Seconds.")] = None
    deadline: Annotated[float | None, Field(gt=0, le=30 * 86400, description="Seconds.")] = None
    bandwidth: Annotated[int | None, Field(ge=MIB, lt=2**63 - MIB, description="Bytes per second.")] = None
    streams: Annotated[int | None, Field(ge=1, le=255, description="Connections; null: as it is best.")] = None
    compression: Annotated[Compression, Field(description="Of pages that change again only what differs.")] = (
        Compression.AUTO
    )
    policy: Policy | None = None
    post_copy: PostCopy | None = None


class ForecastOrder(LimitedOrder):
    """A move of one VM, as far as a forecast depends on it."""

    probe_link: Annotated[bool, Field(description="Measure the link first, for 6 s; kept for moves.")] = False


class MoveOrder(LimitedOrder):
    """A move of one VM. What is left out is as usual, or as the VM wishes itself."""

    keep_source: bool = False
    verify: Verify = Verify.FULL
    force_off: bool = False
    shutdown_limit: Annotated[
        float | None, Field(gt=0, le=86400, description="Seconds; null: as the daemon's settings have it.")
    ] = None
    take_claim: Annotated[
        bool, Field(description="Take over a VM that another controller has claimed and is gone, as it is now.")
    ] = False
    probe: Annotated[
        str | None,
        Field(
            max_length=300,
            description="Ask the guest from the daemon's machine while it moves live: ping:HOST or tcp:HOST:PORT.",
            examples=["ping:10.0.0.7"],
        ),
    ] = None
    guest_clock: Annotated[
        GuestClock | None, Field(description="Whether the guest's agent sets its clock; null: as the settings have it.")
    ] = None
    no_hooks: bool = False


class TuneOrder(BaseModel):
    """Other limits for a live move while it runs; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"bandwidth": 52428800, "deadline": 600}]}
    )

    max_downtime: Annotated[float | None, Field(ge=0.001, le=2000, description="Seconds.")] = None
    deadline: Annotated[float | None, Field(gt=0, le=30 * 86400, description="Seconds.")] = None
    bandwidth: Annotated[int | None, Field(ge=MIB, lt=2**63 - MIB, description="Bytes per second.")] = None
    post_copy: Annotated[PostCopy | None, Field(description="now: at once.")] = None

    def changes(self) -> dict[str, Any]:
        """Return what is to be changed."""
        return self.model_dump(exclude_none=True)


class CloseOrder(BaseModel):
    """A job that is to be closed."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"looked": True}]})

    looked: Annotated[Literal[True], Field(description="You have looked, and its VM runs in one place at the most.")]


class WishOrder(BaseModel):
    """What is to be changed of what a VM wishes of its own moves."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"wishes": {"policy": "gentle"}}]}
    )

    wishes: Annotated[
        dict[Name, Annotated[str, Field(max_length=1000)]],
        Field(max_length=20, description="By the names in its metadata; an empty text takes one back."),
    ]
    keep: Annotated[bool, Field(description="Those that are not named stay as they are.")] = True


class ClusterOrder(BaseModel):
    """The cluster as it is to be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(description="TOML, as GET /cluster returns it.")]


class ShutdownOrder(BaseModel):
    """How a VM is to be shut down."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait: Annotated[bool, Field(description="Answer when it is off, or limits.shutdown is over.")] = False


Uri = Annotated[str, Field(min_length=1, max_length=1000)]
Tags = Annotated[list[Name], Field(max_length=100)]


class HostOrder(BaseModel):
    """A host that is to be added."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"name": "h1", "uri": "qemu+ssh://root@h1/system"}]},
    )

    name: Name
    uri: Annotated[Uri, Field(description="How the daemon reaches it: a libvirt URI.")]
    peer_uri: Annotated[Uri | None, Field(description="How the other hosts reach it, where that differs.")] = None
    migration_address: Annotated[Name | None, Field(description="Where memory and disks travel to.")] = None
    tls_name: Annotated[Name | None, Field(description="The name in its certificate.")] = None
    tags: Tags = []
    force: Annotated[bool, Field(description="Add it even if it does not answer now.")] = False


class HostChange(BaseModel):
    """What is to be changed of what was said of a host; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: Uri | None = None
    peer_uri: Uri | None = None
    migration_address: Name | None = None
    tls_name: Name | None = None
    tags: Tags | None = None


class TokenOrder(BaseModel):
    """A token that is to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=10)]
    hosts: Tags = []
    tags: Tags = []
    lasts: Annotated[float | None, Field(gt=0, le=10 * 366 * 86400, description="Seconds; null: for good.")] = None


class PlanWanted(BaseModel):
    """What a plan is to be made for."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"goal": "balance"}]})

    goal: Goal
    subject: Annotated[str, Field(max_length=255, description="A host, or a VM, as the goal has it.")] = ""
    level: Annotated[int | None, Field(ge=1, le=5, description="How eager balance is.")] = None
    what_if: Annotated[list[Name], Field(max_length=20)] = []
    explain: Annotated[list[Name], Field(max_length=100, description="VMs of which is to be said why.")] = []
    limit: Annotated[float, Field(gt=0, le=60, description="Seconds to look for something better.")] = 20.0
    power: Annotated[bool, Field(description="Of a consolidation: also say what it saves.")] = False

    def wanted(self) -> Wanted:
        """Return it as planning knows it."""
        words = (tuple(self.what_if), tuple(self.explain))
        return Wanted(self.goal, self.subject, self.level, *words, self.limit, self.power)


class Pace(BaseModel):
    """How a plan is carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_failure: OnFailure = OnFailure.GO_ON
    out: Annotated[int, Field(ge=1, le=8, description="Moves from one host at once.")] = 2
    into: Annotated[int, Field(ge=1, le=8, description="Moves to one host at once.")] = 2
    total: Annotated[int, Field(ge=1, le=64, description="Moves at once in all.")] = 8
    not_before: Annotated[float | None, Field(ge=0, le=2**40, description="Seconds since the epoch.")] = None
    windows: Annotated[list[Name], Field(max_length=20, description="Such as 22:00-06:00.")] = []

    def policy(self) -> RunPolicy:
        """Return it as whoever carries it out knows it. Raises UsageError."""
        for each in self.windows:
            parse_window(each)
        pace = (self.on_failure, self.out, self.into, self.total)
        return RunPolicy(*pace, not_before=self.not_before, windows=tuple(self.windows))


class Stuck(StrEnum):
    """What becomes of VMs that cannot go while they run."""

    REFUSE = "refuse"
    """Nothing is begun."""
    COLD = "cold"
    SHUTDOWN = "shutdown"
    """They are shut down, and started again when maintenance is over."""
    STAY = "stay"


class DrainOrder(BaseModel):
    """How a host is to be emptied."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"cannot_go_live": "stay", "pace": {"out": 1}}]}
    )

    cannot_go_live: Annotated[Stuck, Field(description="What becomes of VMs that cannot go while they run.")] = (
        Stuck.REFUSE
    )
    pace: Pace = Pace()

    @property
    def cannot_go(self) -> CannotGo:
        """The same as whoever empties it knows it."""
        return CannotGo(self.cannot_go_live.value)


class EnterOrder(DrainOrder):
    """How a host is to be emptied for its maintenance."""

    with_off: Annotated[bool, Field(description="Also move those that are off.")] = False


class LeaveOrder(DrainOrder):
    """How the VMs of a host are to be brought home to it."""

    cannot_go_live: Annotated[Stuck, Field(description="stay or cold: of VMs that cannot come while they run.")] = (
        Stuck.STAY
    )
    stay_away: Annotated[bool, Field(description="Nobody is brought home.")] = False


class RoundOrder(BaseModel):
    """A round of balance that is to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    every: Annotated[
        float | None,
        Field(gt=0, le=7 * 86400, description="Seconds between rounds, as somebody sees to; null: as the settings."),
    ] = None


class RuleOrder(BaseModel):
    """A rule that is to be added. VMs: a name, a UUID or tag:TAG; hosts: a name, tag:TAG or zone:ZONE."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"name": "dbs", "kind": "apart", "vms": ["db1", "db2"]}]},
    )

    name: Name
    kind: RuleKind
    vms: Annotated[list[Name], Field(max_length=1000)]
    others: Annotated[list[Name], Field(max_length=1000, description="The other group, of groups-apart.")] = []
    hosts: Tags = []
    across: Literal["host", "zone"] = "host"

    def rule(self) -> Rule:
        """Return it as the planner knows it."""
        return Rule(self.name, self.kind, tuple(self.vms), tuple(self.others), tuple(self.hosts), self.across)


class ApplyOrder(BaseModel):
    """A plan that is to be carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Annotated[dict[str, Any], Field(description="As POST /proposals returned it.")]
    pace: Pace = Pace()

    def read(self) -> Plan:
        """Return the plan. Raises UsageError for what is none."""
        return plan_from_json(json.dumps(self.plan))


class PlanOrder(StrEnum):
    """What can be wanted of a plan that is carried out."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"

    @property
    def wish(self) -> Wish:
        """Return it as the journal knows it."""
        return {PlanOrder.PAUSE: Wish.PAUSE, PlanOrder.RESUME: Wish.GO_ON, PlanOrder.CANCEL: Wish.CANCEL}[self]
