"""The CPUs that hosts can give to guests, and the one that all of them can give: a cluster's baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CpuOffer:
    """The best CPU that one host's hypervisor gives to a guest that can still be moved."""

    host: str
    arch: str
    kind: str
    """``kvm`` or ``qemu`` (software emulation)."""
    model: str
    vendor: str
    features: frozenset[str]
    """All of them, those that the model stands for included."""
    xml: str = field(repr=False)

    @property
    def family(self) -> tuple[str, str, str]:
        """Only CPUs of one architecture, one kind of guest and one maker have anything in common."""
        return self.arch, self.kind, self.vendor


@dataclass(frozen=True, slots=True)
class Baseline:
    """The best CPU that every host of a family can give."""

    arch: str
    kind: str
    vendor: str
    model: str
    features: frozenset[str]
    xml: str = field(repr=False)
    """A guest's ``<cpu>`` element."""
    hosts: tuple[str, ...]
    """Those that say they can give it."""
    lost: Mapping[str, tuple[str, ...]]
    """Host → features that it could give and a guest with the baseline does not see."""
    refused: Mapping[str, str]
    """Host → why it says that it cannot give it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A VM that its CPU keeps from a host, and why."""

    vm: str
    uuid: str
    on: str
    """Where it is."""
    host: str
    why: str


@dataclass(frozen=True, slots=True)
class CpuSurvey:
    """What was found out about the CPUs of a cluster."""

    baselines: tuple[Baseline, ...]
    kept: tuple[Kept, ...]
    unknown: tuple[str, ...]
    """What could not be found out, in words."""

    def baseline_for(self, arch: str, kind: str, host: str) -> Baseline | None:
        """Return the baseline for a guest of that kind on that host; None where the host is in none."""
        fitting = (each for each in self.baselines if (each.arch, each.kind) == (arch, kind))
        return next((each for each in fitting if host in each.hosts), None)


def families(offers: Iterable[CpuOffer]) -> list[Sequence[CpuOffer]]:
    """Sort offers into those that may have a CPU in common."""
    found: dict[tuple[str, str, str], list[CpuOffer]] = {}
    for offer in offers:
        found.setdefault(offer.family, []).append(offer)
    return [found[key] for key in sorted(found)]


def baseline_of(
    offers: Sequence[CpuOffer], common: CpuOffer, answers: Mapping[str, str], *, given: frozenset[str]
) -> Baseline:
    """Return the baseline of one family. ``common``: what libvirt says they have in common; ``given``: hosts that say
    they can give that; ``answers``: why others say they cannot."""
    return Baseline(
        arch=common.arch,
        kind=common.kind,
        vendor=common.vendor,
        model=common.model,
        features=common.features,
        xml=common.xml,
        hosts=tuple(offer.host for offer in offers if offer.host in given),
        lost={offer.host: tuple(sorted(offer.features - common.features)) for offer in offers if offer.host in given},
        refused=dict(answers),
    )
