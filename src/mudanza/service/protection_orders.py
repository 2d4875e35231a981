"""What can be asked for by HTTP of replicas: keeping them, bringing VMs up from them, and the way home."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mudanza.model.migration import Mode
from mudanza.model.protection import MOST_EVERY, MOST_POINTS, Compress
from mudanza.model.units import MIB
from mudanza.operations.protecting import Keeping
from mudanza.operations.recovery_plans import HowToRun
from mudanza.operations.rescuing import Rescue
from mudanza.service.orders import Name
from mudanza.service.parameters import MOST_NUMBER

Networks = Annotated[
    dict[Name, Name], Field(max_length=100, description="A network or bridge, and what it is called there.")
]
Point = Annotated[
    int | None, Field(ge=1, le=MOST_NUMBER, description="The restore point's number; null: the newest one.")
]


On = Annotated[Name | None, Field(description="The replica's host; null: the only one, or as the operation says.")]


class ProtectOrder(BaseModel):
    """A replica that is to be kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"to": "h2"}]})

    to: Annotated[Name, Field(description="The host where the replica is to be.")]
    pool: Annotated[Name, Field(description="The pool there in whose directory it is.")] = "default"
    every: Annotated[float, Field(ge=1, le=30 * 86400, description="Seconds between two rounds.")] = 60.0
    keep: Annotated[int, Field(ge=1, le=MOST_POINTS, description="Restore points at the most.")] = 5
    scratch: Annotated[int, Field(ge=1, lt=2**62, description="Bytes that a round may take up at the source.")] = (
        1024 * MIB
    )
    bandwidth: Annotated[
        int | None, Field(ge=1, lt=2**62, description="Bytes per second that a round may send at the most.")
    ] = None
    verify_every: Annotated[
        float | None,
        Field(ge=1, le=366 * 86400, description="Seconds after which a round compares all of the replica."),
    ] = None
    test_every: Annotated[
        float | None,
        Field(ge=60, le=366 * 86400, description="Seconds after which it is tried whether a double boots from it."),
    ] = None
    test_limit: Annotated[
        float, Field(gt=0, le=86400, description="Seconds within which the double's guest has to answer.")
    ] = 300.0
    freeze_every: Annotated[
        int | None,
        Field(ge=1, le=MOST_EVERY, description="Every how many rounds the guest's agent freezes its file systems."),
    ] = None
    compress: Annotated[
        Compress, Field(description="Compress what is sent: as it wins by what was measured, or always, or never.")
    ] = Compress.AUTO
    group: Annotated[str, Field(max_length=100, description="VMs with which it shares its rounds.")] = ""

    def keeping(self) -> Keeping:
        """Return it as whoever makes it knows it."""
        return Keeping(**self.model_dump())


class ReplicaRoundOrder(BaseModel):
    """A round of replication that is to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"verify": True}]})

    verify: Annotated[bool, Field(description="Compare the whole replica with the source, byte for byte.")] = False
    on: Annotated[Name | None, Field(description="Only of the replica at that host; null: of all of the VM.")] = None


class PauseOrder(BaseModel):
    """Replicas of which no rounds are to be made for now, or of which they are to be made again."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"paused": True}]})

    paused: Annotated[bool, Field(description="Whether none are made by themselves.")]
    on: Annotated[Name | None, Field(description="Only of the replica at that host; null: of all of the VM.")] = None


class FailoverOrder(BaseModel):
    """A protected VM that is to come up where its replica is; just one of ``planned`` and ``source_is_dead``."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"planned": True}]})

    source_is_dead: Annotated[
        bool, Field(description="Your word that its host is dead, or cut off for good: nothing else is proof.")
    ] = False
    planned: Annotated[
        bool, Field(description="Its host lives: it shuts down, the rest comes over, and nothing is lost.")
    ] = False
    point: Point = None
    networks: Networks = {}
    on: Annotated[Name | None, Field(description="The replica's host; null: where the freshest one is.")] = None

    def rescue(self) -> Rescue:
        """Return it as whoever brings it up knows it. Raises UsageError for what contradicts itself."""
        found = Rescue(**self.model_dump())
        found.refuse_contradictory()
        return found


class ReprotectOrder(BaseModel):
    """A VM that came up elsewhere, and is to be protected from there."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    to: Annotated[Name | None, Field(description="Where its replica is to be; null: where its old copy is.")] = None
    pool: Annotated[Name, Field(description="The pool there in whose directory it is.")] = "default"


class FailbackOrder(BaseModel):
    """A VM that is protected the other way, and is to come home."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"mode": "live"}]})

    mode: Annotated[
        Mode, Field(description="While it runs, or by shutting it down; auto: live if it runs, cold if it is off.")
    ] = Mode.AUTO
    networks: Networks = {}
    to: Annotated[Name | None, Field(description="Which of several replicas' hosts is its home.")] = None


class GroupFailoverOrder(BaseModel):
    """A consistency group of VMs that is to come up where its replicas are."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"source_is_dead": True}]})

    source_is_dead: Annotated[
        bool, Field(description="Your word that the hosts of all its VMs are dead, or cut off for good.")
    ] = False
    networks: Networks = {}


class TrialOrder(BaseModel):
    """A test failover that is to be begun."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    point: Point = None
    digests: Annotated[bool, Field(description="Compare what the replica's images hold, too.")] = False
    networks: Annotated[
        dict[Name, Name],
        Field(max_length=100, description="A network or bridge, and an isolated network in its place."),
    ] = {}
    on: Annotated[Name | None, Field(description="The replica's host; null: where the freshest one is.")] = None


class TrialEndOrder(BaseModel):
    """A double that is to be taken away."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    on: On = None


MOST_PATIENCE = 30.0


class AgentOrder(BaseModel):
    """How long a double's guest agent is to be waited for."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"patience": 5}]})

    patience: Annotated[float, Field(gt=0, le=MOST_PATIENCE, description="Seconds; ask again for more.")] = 5.0
    on: On = None


Text = Annotated[str, Field(min_length=1, max_length=48 * 1024, description="The plan, in TOML.")]


class RecoveryPlanOrder(BaseModel):
    """A plan for recovery that is to be kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Text


class RecoveryCheckOrder(BaseModel):
    """A plan for recovery that is to be checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"name": "site-b"}]})

    name: Name
    text: Annotated[Text | None, Field(description="What it says; null: the plan of that name that is kept.")] = None
    planned: Annotated[bool, Field(description="The VMs' own hosts live.")] = False


class RecoveryOrder(BaseModel):
    """A plan for recovery that is to be carried out. Just one of these is true."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"planned": True}]})

    source_is_dead: Annotated[
        bool, Field(description="Your word that the VMs' hosts are dead, or cut off for good.")
    ] = False
    planned: Annotated[bool, Field(description="The VMs' own hosts live: nothing is lost.")] = False
    resume: Annotated[bool, Field(description="Its run goes on that has come to a stop.")] = False

    def how(self) -> HowToRun:
        """Return it as whoever carries it out knows it. Raises UsageError for what contradicts itself."""
        found = HowToRun(**self.model_dump())
        found.refuse_contradictory()
        return found


class SiteStartOrder(BaseModel):
    """A plan whose VMs are to be started where they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    resume: Annotated[bool, Field(description="Its run goes on that has come to a stop.")] = False


class SiteStopOrder(BaseModel):
    """A plan whose VMs are to shut down."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"within": 300}]})

    within: Annotated[
        float | None, Field(gt=0, le=86400, description="Seconds after which those that are on are named.")
    ] = None
    resume: Annotated[bool, Field(description="Its run goes on that has come to a stop.")] = False


class AnswerOrder(BaseModel):
    """An answer to the question that the run of a plan asks."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"run": "7", "answer": "yes"}]}
    )

    run: Annotated[Name, Field(description="The number of its job, or the plan's name.")]
    answer: Annotated[Literal["yes", "no"], Field(description="What is answered.")]
