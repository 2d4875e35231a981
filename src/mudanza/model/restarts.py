"""What the restarts of VMs took: from the first silence of a host until a guest answered."""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.model.units import format_duration


@dataclass(frozen=True, slots=True)
class Restarted:
    """One VM that was started anew by itself. Times in seconds since the epoch, by the database's clock; None: nobody
    knows, or there is no such part: one that was restarted where it was has no host that was fenced."""

    job: int
    vm: str
    uuid: str
    source: str
    target: str
    ended_at: float
    """When libvirt had started it."""
    silent: float | None
    """Seconds for which nothing of its host had answered when that was taken for dead."""
    fencing: float | None
    """Seconds that it took then to prove it off."""
    starting: float | None
    """Seconds from the proof until libvirt had started it."""
    answering: float | None
    """Seconds from then on until its guest answered."""
    answer: str = ""
    """What answered, or that nothing did in time; empty: nobody asks, or it is waited for."""

    @property
    def whole(self) -> float | None:
        """Seconds from the first silence until its guest answered."""
        parts = (self.silent, self.fencing, self.starting, self.answering)
        return None if any(each is None for each in parts) else sum(each for each in parts if each is not None)

    @property
    def in_words(self) -> str:
        """What it took, in words."""
        parts = {
            "silent for": self.silent,
            "proven off after": self.fencing,
            "started after": self.starting,
            "answering after": self.answering,
        }
        words = [f"{name} {format_duration(each)}" for name, each in parts.items() if each is not None]
        words += [f"{format_duration(self.whole)} in all"] if self.whole is not None else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Awaited:
    """One whose guest has not answered yet."""

    job: int
    vm: str
    uuid: str
    host: str
    probe: str
    ago: float
    """Seconds since libvirt had started it."""
