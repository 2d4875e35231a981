"""The hosts of a story, as they truly are."""

from __future__ import annotations

from dataclasses import dataclass, field

from mudanza.model.fencing import Device


@dataclass
class Host:
    """The truth about one host."""

    name: str
    power: bool = True
    libvirtd: bool = True
    hangs: bool = False
    """Its kernel answers, and nothing else of it."""
    drops_pings: bool = False
    cut_from: set[str] = field(default_factory=set)
    """Hosts that do not reach it, though we may."""
    cut_from_us: bool = False
    cut_from_all: bool = False
    loses_storage: bool = False
    dark: bool = False
    """Its guests have lost their network; it itself is reached by another way."""
    maintenance: bool = False
    agent: str = "honest"
    supplies: int = 1
    devices: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Name → level and mood, where these are told one by one."""
    proven_off: bool = False
    proven_at: int = 0
    restarted: bool = False
    """Whether its VMs were started elsewhere."""

    @property
    def on_the_network(self) -> bool:
        return self.power and not self.cut_from_all

    @property
    def switches(self) -> list[Device]:
        """What switches its power."""
        if self.devices:
            return [Device(name, "fence_story", level) for name, (level, _) in self.devices.items()]
        return [Device(f"psu-{n}", "fence_story") for n in range(1, self.supplies + 1)]

    def mood(self, device: str) -> str:
        """Return how the agent of a device behaves."""
        if device in self.devices:
            return self.devices[device][1]
        return "honest" if self.agent == "one supply hangs" and device == "psu-1" else self.agent

    def lose_power(self) -> None:
        self.power = self.hangs = False
