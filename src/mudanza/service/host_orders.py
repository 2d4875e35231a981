"""What can be asked for by HTTP of whole hosts: their power, their CPUs, what they have kept, and maintenance."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mudanza.model.carrying import CannotGo, OnFailure, RunPolicy
from mudanza.model.rolling import Order
from mudanza.model.watts import PowerModel
from mudanza.operations.cpus import CpuWish
from mudanza.operations.host_off import Off
from mudanza.service.orders import DrainOrder, Name, Stuck

MOST_SCRIPT = 48 * 1024
"""Characters that a script may have which is run on hosts."""
DAY = 86400
Names = Annotated[list[Name], Field(max_length=1000)]


class CleanOrder(BaseModel):
    """Old definitions that are to be taken away from a host."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    vms: Annotated[
        Names | None, Field(description="Their UUIDs; null: all that the host has kept of VMs started elsewhere.")
    ] = None


class CpuOrder(BaseModel):
    """VMs that are to start with the CPU that all hosts can give, or with the one again that they had before."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"vms": ["web"]}]})

    vms: Names = []
    tags: Names = []
    everyone: Annotated[bool, Field(description="All whose CPU is tied to its host, or keeps it from another one.")] = (
        False
    )
    undo: Annotated[bool, Field(description="Give them back what they had before.")] = False

    def wish(self) -> CpuWish:
        """Return it as whoever does it knows it. Raises UsageError for what contradicts itself."""
        found = CpuWish(tuple(self.vms), tuple(self.tags), self.everyone, self.undo)
        found.refuse_contradictory()
        return found


class PowerChange(BaseModel):
    """What is to be changed of what was said of a host's power; what is left out stays, null takes back."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"watts": [95, 190], "keep_on": False}]}
    )

    watts: Annotated[
        list[Annotated[float, Field(ge=0, lt=1e6)]] | None,
        Field(min_length=2, max_length=100, description="Idle, ..., with all of its CPUs in use."),
    ] = None
    mac: Annotated[
        str | None, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", description="Where it hears Wake-on-LAN.")
    ] = None
    keep_on: Annotated[bool, Field(description="Never switch it off to save power.")] = False
    unmatched: Annotated[
        bool, Field(description="Whoever asks knows that it is the host's address, where nothing can tell that.")
    ] = False

    def changes(self) -> dict[str, Any]:
        """Return what is said of it, as whoever keeps it knows it. Raises UsageError for what no host can draw."""
        said = {name: getattr(self, name) for name in self.model_fields_set - {"unmatched"}}
        if said.get("watts") is not None:
            said["watts"] = PowerModel(tuple(said["watts"]))
        return said


class PowerOffOrder(DrainOrder):
    """How a host is to be put off."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"cannot_go_live": "refuse"}]}
    )

    with_off: Annotated[bool, Field(description="Also move those that are off.")] = False
    force: Annotated[bool, Field(description="Even if it has to stay on.")] = False

    def how(self) -> Off:
        """Return it as whoever does it knows it. Raises UsageError."""
        return Off(self.cannot_go, self.pace.policy(), self.with_off, self.force)


class RollingOrder(BaseModel):
    """A command that is to be run on one host after the other, each emptied before and filled again after."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"text": "apt-get -y full-upgrade", "hosts": ["h1", "h2"], "limit": 1800}]},
    )

    text: Annotated[
        str, Field(min_length=1, max_length=MOST_SCRIPT, description="What each host's shell reads, or a #! script.")
    ]
    shown: Annotated[str, Field(max_length=1000, description="What people call it; empty: its first line.")] = ""
    hosts: Annotated[Names, Field(description="In their order; none: all.")] = []
    reboot: Annotated[bool, Field(description="It has the host start anew; go on once it has.")] = False
    limit: Annotated[float, Field(gt=0, le=DAY, description="Seconds that it may take, with the new start.")] = 3600.0
    healthy: Annotated[float, Field(gt=0, le=DAY, description="Seconds for a host to be as before.")] = 600.0
    cannot_go_live: Annotated[Stuck, Field(description="What becomes of VMs that cannot leave while they run.")] = (
        Stuck.REFUSE
    )
    parallel: Annotated[int, Field(ge=1, le=64, description="How many VMs move at once.")] = 8

    @model_validator(mode="after")
    def _readable(self) -> Self:
        """Refuse what no shell reads."""
        if "\0" in self.text or not self.text.strip():
            raise ValueError("text: nothing that a shell could read")
        return self

    def order(self) -> Order:
        """Return it as whoever carries it out knows it."""
        return Order(
            tuple(self.hosts),
            self.text,
            self.shown or self.text.strip().partition("\n")[0],
            self.reboot,
            self.limit,
            self.healthy,
            CannotGo(self.cannot_go_live.value),
            RunPolicy(OnFailure.STOP, total=self.parallel),
        )


class ResumeOrder(BaseModel):
    """How rolling maintenance is to be gone on with."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    skip_command: Annotated[bool, Field(description="Without the command on the host where it stands.")] = False
