"""What will a move be like? How long it takes, how dark it is, by which means, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mudanza.model.errors import UsageError
from mudanza.model.finding import blockers
from mudanza.model.migration import MigrationOptions, own_in_words, with_wishes
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.concern import About

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.migration.forecast.accuracy import Accuracy
    from mudanza.migration.forecast.measuring import Foresight
    from mudanza.migration.forecast.model import Forecast
    from mudanza.migration.prepare import Prepared
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say


JUDGED = 1000
"""Of how many moves, the newest ones, the accuracy is worked out."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a move to one host will be like; ``forecast`` None: it cannot go there."""

    target: str
    forecast: Forecast | None

    def as_data(self) -> Mapping[str, Any]:
        """Return it as JSON values."""
        shown: dict[str, Any] = {"target": self.target, "possible": self.forecast is not None}
        if self.forecast is None:
            return shown
        known = self.forecast.known
        return {
            **shown,
            "sentence": self.forecast.sentence,
            "forecast": self.forecast.to_json(),
            "strategies": [asdict(each) for each in self.forecast.strategies],
            "floor": known.floor,
            "habits": asdict(known.habits),
        }


@dataclass(frozen=True, slots=True)
class Outlook:
    """What moves of a VM to every host that was asked about will be like."""

    vm: str
    uuid: str
    source: str
    own_wishes: tuple[str, ...]
    """What it is moved by that the VM wishes itself, in words."""
    targets: tuple[Foreseen, ...]

    @property
    def is_possible(self) -> bool:
        """Whether it can go to any of them."""
        return any(each.forecast for each in self.targets)

    def as_data(self) -> Mapping[str, Any]:
        """Return it as JSON values."""
        about = {"vm": self.vm, "uuid": self.uuid, "source": self.source, "own_wishes": list(self.own_wishes)}
        return {**about, "targets": [each.as_data() for each in self.targets]}


def foresee(
    means: Means, vm: str, to: str | None, options: MigrationOptions, *, warn: Say, probe_link: bool = False
) -> Outlook:
    """Say what a move to a host, or to every other one, will be like. The VM is not touched; it takes some seconds.

    ``probe_link``: measure the link first; ``warn`` is told what that does. Raises UsageError and BlockedError where
    VM or host are not found, HostUnreachableError.
    """
    from mudanza.migration.forecast.measuring import PERIODS

    with means.connections() as connections:
        judge, cluster = judge_of(means, connections, arrivals_of(means), about=About(vm, to))
        found = cluster.find(vm, bound_for=to)
        if found.host == to:
            raise UsageError(f"{found.name} is on {to} already: there is no move to foresee")
        options = with_wishes(options, found.wishes)
        foresight = foresight_of(means, connections, found, PERIODS, warn if probe_link else None)
        candidates = judge.judge_all(found, options) if to is None else (judge.judge(found, cluster.host(to), options),)
        source = cluster.host(found.host)
        foreseen = tuple(
            Foreseen(each.target.name, None if blockers(each.findings) else foresight.of(source, each, options))
            for each in candidates
        )
    return Outlook(found.name, found.uuid, found.host, tuple(own_in_words(options)), foreseen)


def how_well(means: Means) -> tuple[Accuracy, ...]:
    """Return how well forecasts of the newest moves have come true: over all, then of each pair of hosts."""
    from mudanza.journal.reports import reports
    from mudanza.migration.forecast.accuracy import accuracy
    from mudanza.migration.forecast.measuring import past_of

    return accuracy(map(past_of, reports(means.database, JUDGED)))


def foresight_of(
    means: Means,
    connections: Connections,
    vm: Vm,
    periods: Sequence[int] | None = None,
    on_probe: Say | None = None,
) -> Foresight:
    """Begin to measure what a forecast of moving a VM rests on. ``periods``, ``on_probe``: see ``Foresight``."""
    from mudanza.journal.reports import PastMoves
    from mudanza.migration.forecast.measuring import SHORT, Foresight, Wishes

    past = PastMoves(means.database)
    wishes = Wishes(means.forecasting.wait, means.forecasting.link)
    return Foresight(connections, vm, past, means.inventory, wishes, periods or SHORT, on_probe)


def with_forecast(foresight: Foresight, prepared: Prepared) -> Prepared:
    """Return a move with what it will be like; of disks that move within their host nothing is foreseen."""
    if prepared.is_in_place:
        return prepared
    return replace(prepared, forecast=foresight.of(prepared.source, prepared.chosen, prepared.options))
