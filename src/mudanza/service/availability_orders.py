"""What can be asked for by HTTP of what switches hosts' power, and of VMs that are kept up."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mudanza.model.fencing import Device
from mudanza.model.kept import LEAST_HANG, Care, OnHang
from mudanza.service.orders import Name

Told = Annotated[dict[Name, Annotated[str, Field(max_length=1000)]], Field(max_length=100)]


class DeviceOrder(BaseModel):
    """Something that switches a host's power."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"agent": "fence_ipmilan", "options": {"ip": "10.0.0.9", "lanplus": "1"}}]},
    )

    agent: Annotated[Name, Field(description="The fence agent: fence_ipmilan …")]
    level: Annotated[
        int, Field(ge=1, le=100, description="Lower levels first; in one, every device must prove off.")
    ] = 1
    options: Annotated[Told, Field(description="What the agent is told, by its own names; nothing secret.")] = {}
    secrets: Annotated[Told, Field(description="Option: name of the file that has it, of fencing.secrets.")] = {}

    unmatched: Annotated[
        bool, Field(description="You have seen that it switches this host, where nothing can tell that.")
    ] = False

    def device(self, name: str) -> Device:
        """Return it as whoever uses it knows it."""
        return Device(name, **self.model_dump(exclude={"unmatched"}))


class OffOrder(BaseModel):
    """A host that is to be switched off."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{}]})

    force: Annotated[bool, Field(description="Even if it answers: its VMs are cut off.")] = False


class ConfirmOrder(BaseModel):
    """Somebody's word that a host is off."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"seen_off": True}]})

    seen_off: Annotated[
        Literal[True], Field(description="You have seen yourself that it is off, and that it will stay off.")
    ]


class KeepUpOrder(BaseModel):
    """A VM that is to be started elsewhere when its host dies."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"priority": 1}]})

    priority: Annotated[int, Field(ge=1, le=9, description="Those with lower numbers are started first.")] = 5
    max_restarts: Annotated[int, Field(ge=1, le=100, description="How often within a day.")] = 3
    after: Annotated[
        tuple[Name, ...], Field(max_length=100, description="VMs that are started before it, and kept up.")
    ] = ()
    from_replica: Annotated[
        bool, Field(description="Whether it is started from its replica where its host is lost with its disks.")
    ] = False
    max_loss: Annotated[
        float | None, Field(gt=0, le=1e9, description="Seconds; only if no more than that is lost with them.")
    ] = None
    on_hang: Annotated[OnHang, Field(description="What is done about a guest that hangs.")] = OnHang.TELL
    hang_after: Annotated[
        float, Field(ge=LEAST_HANG, le=86400, description="Seconds for which it must have hung at the least.")
    ] = 120.0
    answers: Annotated[
        str,
        Field(max_length=300, description="tcp:HOST:PORT, ping:HOST or agent: by what its guest shows it is there."),
    ] = ""

    def care(self) -> Care:
        """Return what is done for it besides."""
        return Care(**self.model_dump(exclude={"priority", "max_restarts", "after"}))
