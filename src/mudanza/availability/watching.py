"""Whether a host is dead: pure. What one round of looking has found goes in, with what the round before made of it;
what each host is taken for comes out, what is to be done, and one sentence.

A host is *suspect* as soon as nothing of it answers, and *confirmed* once that has lasted for ``Terms.confirm``
seconds, while somebody else whom we reach says that it does not answer there either, and nobody says that it does. One
sign of life is enough for a host to live: a dead libvirtd is no dead host.

Whoever sees nobody is cut off. So nothing is confirmed without a witness, and none of many that vanish together:

* **one host**: nobody can say that it is the host and not we; it is never confirmed;
* **two**: one of two may be confirmed, for the other one, or an anchor (a router, a storage, a third machine), says so;
* **three and more**: while more than ``Terms.brake`` of the hosts are silent, nobody is confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from mudanza.model.units import format_duration

_NOBODY: Mapping[str, bool] = MappingProxyType({})


class Standing(StrEnum):
    """What a host is taken for."""

    WELL = "well"
    DEAF = "deaf"
    """It lives, and its libvirt does not answer."""
    SUSPECT = "suspect"
    """Nothing of it answers."""
    CONFIRMED = "confirmed"
    """It is dead, or as good as: it may be fenced."""
    FENCED = "fenced"
    """It is proven off."""
    IN_MAINTENANCE = "in maintenance"
    """Nobody minds whether it answers."""
    ASLEEP = "asleep"
    """It was switched off to save power, or is on its way there or back."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What one round has found of a host. None: it was not looked for, or cannot be."""

    libvirt: bool
    ping: bool | None = None
    ssh: bool | None = None
    beat: bool | None = None
    """Whether its heartbeat on shared storage has gone on."""
    witnesses: Mapping[str, bool] = field(default_factory=lambda: _NOBODY)
    """Other hosts, that answer us, and whether they reach it."""
    maintenance: bool = False
    proven_off: bool = False
    asleep: bool = False

    @property
    def excused(self) -> bool:
        """Whether nobody wonders that it does not answer."""
        return self.maintenance or self.proven_off or self.asleep

    @property
    def alive(self) -> tuple[str, ...]:
        """By what it shows that it lives, libvirt left out."""
        own = {"ping": self.ping, "ssh": self.ssh, "its heartbeat on the storage": self.beat}
        return (*(name for name, sign in own.items() if sign), *(name for name, sees in self.witnesses.items() if sees))


@dataclass(frozen=True, slots=True)
class Round:
    """One look at everybody."""

    at: float
    """Seconds by a clock that never runs backwards."""
    hosts: Mapping[str, Signs]
    anchors: Mapping[str, bool] = field(default_factory=lambda: _NOBODY)
    """What is reached as long as we are not cut off ourselves: routers, storages."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a host is taken for, and since when (of the round's clock)."""

    standing: Standing
    since: float
    mended_at: float | None = None
    """When its libvirt was last to be restarted."""
    fenced_at: float | None = None
    """When it was last to be fenced."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long is waited for what. Seconds."""

    confirm: float = 15.0
    """From the first round in which nothing answered."""
    deaf: float = 30.0
    """From when libvirt is silent, before it is restarted."""
    mend_again: float = 600.0
    """Between two restarts of one host's libvirt."""
    fence_again: float = 60.0
    """Between two tries to fence a host that no device proved off."""
    brake: float = 0.5
    """The share of the hosts that may be silent at once; if more are, nothing is done."""
    may_mend: bool = False
    """Whether libvirtd may be restarted by ssh."""


class Act(StrEnum):
    """What is to be done about a host."""

    MEND = "restart its libvirtd"
    FENCE = "fence it"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a round."""

    hosts: Mapping[str, Taken]
    acts: Sequence[tuple[Act, str]]
    """What is to be done, and about which host."""
    said: str
    """One sentence."""


def decide(before: Mapping[str, Taken], found: Round, terms: Terms) -> Decision:
    """Return what the hosts are taken for now. ``before``: what the round before made of them; hosts that it did not
    know are new."""
    watched = {name: signs for name, signs in found.hosts.items() if not signs.excused}
    silent = [name for name, signs in watched.items() if not (signs.libvirt or signs.alive)]
    braked = bool(silent) and len(silent) > terms.brake * len(watched)
    hosts: dict[str, Taken] = {}
    acts: list[tuple[Act, str]] = []
    words: list[str] = []
    for name, signs in found.hosts.items():
        earlier = before.get(name, Taken(Standing.WELL, found.at))
        taken, word = _taken(name, signs, earlier, found, terms, braked=braked)
        act = _act(taken, found.at, terms)
        if act is not None:
            acts.append((act, name))
            word += f": {act.value}"
        hosts[name] = replace(
            taken,
            mended_at=found.at if act is Act.MEND else taken.mended_at,
            fenced_at=found.at if act is Act.FENCE else taken.fenced_at,
        )
        if word:
            words.append(f"{name} {word}")
    if braked:
        acts += [(Act.ALARM, name) for name in silent]
        words.insert(0, f"{len(silent)} of {len(watched)} hosts are silent at once: we may be cut off, nothing is done")
    return Decision(hosts, tuple(acts), "; ".join(words) or f"all is well with {len(watched)} hosts")


def _taken(name: str, signs: Signs, earlier: Taken, found: Round, terms: Terms, *, braked: bool) -> tuple[Taken, str]:
    """Return what one host is taken for, and in words why; empty words: it is well."""

    def become(standing: Standing, since: float | None = None) -> Taken:
        if earlier.standing is standing and since is None:
            return earlier
        return replace(earlier, standing=standing, since=found.at if since is None else since)

    if signs.libvirt:
        return become(Standing.WELL), ""
    if signs.asleep:
        return become(Standing.ASLEEP), "is off on purpose"
    if signs.maintenance:
        return become(Standing.IN_MAINTENANCE), ""
    if signs.proven_off:
        return become(Standing.FENCED), "is proven off"
    if signs.alive:
        return become(Standing.DEAF), f"lives ({', '.join(signs.alive)}), and its libvirt does not answer"
    if braked:  # it counts anew once the brake is off
        return become(Standing.SUSPECT, found.at), "is silent"
    # One that was confirmed stays so only as long as all of it still holds.
    since = earlier.since if earlier.standing in (Standing.SUSPECT, Standing.CONFIRMED) else found.at
    lasted = found.at - since
    if lasted < terms.confirm:
        left = format_duration(terms.confirm - lasted)
        return become(Standing.SUSPECT, since), f"is suspect: nothing of it answers; confirmed in {left} if that lasts"
    if not (by := _witnesses(name, signs, found)):
        return become(Standing.SUSPECT, since), "is suspect: nobody else whom we reach can say that it is not we"
    how = f"for {format_duration(terms.confirm)} and more, and {by}"
    return become(Standing.CONFIRMED, since), f"is confirmed dead: nothing of it has answered {how}"


def _witnesses(name: str, signs: Signs, found: Round) -> str:
    """Return in words who says that it is the host that is silent, and not we; empty: nobody."""
    if signs.witnesses:
        return f"{', '.join(sorted(signs.witnesses))} cannot reach it either"
    anchors = sorted(anchor for anchor, reached in found.anchors.items() if reached and anchor != name)
    return f"{', '.join(anchors)} answers us" if anchors else ""


def _act(taken: Taken, at: float, terms: Terms) -> Act | None:
    """Return what is to be done about a host now."""
    if taken.standing is Standing.CONFIRMED and _rested(taken.fenced_at, at, terms.fence_again):
        return Act.FENCE
    deaf = taken.standing is Standing.DEAF and at - taken.since >= terms.deaf
    if deaf and terms.may_mend and _rested(taken.mended_at, at, terms.mend_again):
        return Act.MEND
    return None


def _rested(last: float | None, at: float, pause: float) -> bool:
    return last is None or at - last >= pause
