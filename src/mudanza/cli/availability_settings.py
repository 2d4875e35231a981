"""Settings of hosts that die: how they are watched, and how they are proven off."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mudanza.cli.places import APPLICATION
from mudanza.cli.setting_types import Seconds, seconds


class FencingSettings(BaseModel):
    """How hosts are switched off, to be proven off. Which device does so for which host is said of the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: tuple[Annotated[str, Field(pattern="^/.+$")], ...] = ("/usr/sbin", "/usr/local/sbin")
    """Directories in which fence agents are looked for: no other program is run for it."""
    secrets: Annotated[str, Field(pattern="^/.+$")] = f"/etc/{APPLICATION}/secrets"
    """The directory of the files that passwords of fence devices are in: no other file is read for it."""
    off: Annotated[Seconds, Field(le=600.0)] = 60.0
    """A device to switch off; many agents wait 20 s for it themselves."""
    status: Annotated[Seconds, Field(le=600.0)] = 30.0
    """A device to say whether the power is on."""
    test_every: Annotated[float, BeforeValidator(seconds), Field(ge=0.0)] = 3600.0
    """Between two times that each device is asked whether it answers, while hosts are watched; 0: never."""


class Availability(BaseModel):
    """How hosts are watched whose VMs are to be started elsewhere when they die."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Seconds = 5.0
    """Between two looks at all hosts."""
    confirm: Annotated[Seconds, Field(ge=5.0)] = 15.0
    """How long nothing of a host must have answered before it is fenced."""
    brake: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of the hosts that may be silent at once; if more are, nothing is done."""
    anchors: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9:.][A-Za-z0-9:._-]*$")], ...] = ()
    """Addresses (a router, a storage) that answer to ping as long as this controller is not cut off itself."""
    restart_libvirt: bool = False
    """Whether a libvirtd that has not answered for 30 s, on a host that lives, is restarted by ssh."""
    heartbeat: Annotated[str, Field(pattern="^(/.*[^/])?$")] = ""
    """A directory on storage that all hosts share, at the same place on each: hosts count up there, by which one lives
    that is cut from every network; empty: none."""
    answer: Seconds = 600.0
    """How long it is waited, once a VM was started anew, until its guest answers (`ha enable --answers`)."""
    lock_wait: Annotated[float, BeforeValidator(seconds), Field(ge=0, le=3600.0)] = 180.0
    """How long a restart waits for the lock of a disk (virtlockd, sanlock) that somebody holds, before it is left to a
    person."""
    uplink: Literal["off", "alarm", "drain"] = "alarm"
    """What is done about a host that lives, and whose guests have lost their network: nothing; it is told; they are
    moved, live, to hosts that have it."""
    uplink_confirm: Annotated[Seconds, Field(ge=5.0)] = 30.0
    """How long an uplink must have carried nothing before that is done; and carried again, before it is well."""
    uplinks: tuple[Annotated[str, Field(pattern=r"^[^\s/]{1,15}$")], ...] = ()
    """Ports of bridges that lead outside though the kernel has made them up (a veth, a port of Open vSwitch); real
    devices, bonds and VLANs are known by themselves."""
