"""What can be asked for by HTTP of what switches hosts' power, and of VMs that are kept up."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mudanza.model.fencing import Device
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

    def device(self, name: str) -> Device:
        """Return it as whoever uses it knows it."""
        return Device(name, **self.model_dump())


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
