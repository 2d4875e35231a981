"""Whole hosts as a daemon sees to them: their power, their CPUs, what they have kept, and maintenance that rolls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mudanza.model.host_power import Switching
from mudanza.model.plain import plain
from mudanza.model.rolling import Order, Rolling
from mudanza.operations.cleaning import Cleaned, OldDefinition
from mudanza.operations.host_power import PowerOf
from mudanza.remote.asking import Asking, Listener, pace_of, read

if TYPE_CHECKING:
    from mudanza.operations.cpus import Changed, CpuPicture, CpuWish
    from mudanza.operations.host_off import Off, PutOff
    from mudanza.operations.means import Say
    from mudanza.operations.outings import Foreseen
    from mudanza.operations.rolling_kept import Listed

POWER = "mudanza power show"
ROLLING = "mudanza rolling show"
RESUME = "go on: mudanza rolling --resume ID"


class ThereOfHosts(Asking):
    """What a daemon is asked for of whole hosts."""

    def old_definitions(self, host: str) -> tuple[OldDefinition, ...]:
        """As ``operations.cleaning.old_definitions``."""
        return read(tuple[OldDefinition, ...], self._ask("GET", f"{_host(host)}/old-definitions"))

    def clean_host(self, host: str, uuids: Collection[str]) -> Cleaned:
        """As ``operations.cleaning.clean_host``."""
        return read(Cleaned, self._ask("POST", f"{_host(host)}/clean", json={"vms": list(uuids)}))

    def cpus(self, names: Sequence[str] | None, tags: Sequence[str] | None) -> CpuPicture:
        """As ``operations.cpus.picture``, without the CPUs' definitions."""
        from mudanza.operations.cpus import CpuPicture

        told = self._ask("GET", "/cpus", params={"vm": list(names or ()), "tag": list(tags or ())})
        return read(CpuPicture, {**told, "baselines": [{**each, "xml": ""} for each in told["baselines"]]})

    def change_cpus(self, wish: CpuWish, say: Say, tell: Callable[[Changed], None]) -> tuple[Changed, ...]:
        """As ``operations.cpus.change``; ``tell`` is told of all of them in the end."""
        from mudanza.operations.cpus import Changed

        order = {"vms": list(wish.names), "tags": list(wish.tags), "everyone": wish.everyone, "undo": wish.undo}
        done = read(tuple[Changed, ...], self._order("/cpus", say, order))
        for each in done:
            tell(each)
        return done

    def powers(self) -> tuple[PowerOf, ...]:
        """As ``operations.host_power.listed``."""
        return read(tuple[PowerOf, ...], self._ask("GET", "/power"))

    def change_power(self, host: str, changes: Mapping[str, Any], *, unmatched: bool = False) -> str:
        """As ``operations.host_power.change``."""
        order = {name: list(value.watts) if name == "watts" and value else value for name, value in changes.items()}
        return self._said("PATCH", f"{_host(host)}/power", json={**order, **({"unmatched": True} if unmatched else {})})

    def put_off(self, host: str, how: Off, say: Say) -> PutOff:
        """As ``operations.host_off.put_off``."""
        from mudanza.operations.host_off import PutOff

        pace = pace_of(how.policy)
        order = {"cannot_go_live": how.cannot_go, "pace": pace, "with_off": how.with_off, "force": how.force}
        return read(PutOff, self._order(f"{_host(host)}/power/off", say, order, see=POWER))

    def wake(self, host: str, say: Say) -> Switching:
        """As ``operations.switching.Switcher.on``."""
        return read(Switching, self._order(f"{_host(host)}/power/on", say, see=POWER))

    def save_once(self, say: Say) -> str:
        """As ``operations.saving.Saver.once``."""
        return str(self._order("/power/rounds", say, see=POWER)["said"])

    def rollings(self, limit: int) -> Listed:
        """As ``operations.rolling_kept.listed``."""
        from mudanza.operations.rolling_kept import Listed

        return read(Listed, self._ask("GET", "/rolling", params={"limit": limit}))

    def rolling(self, number: int) -> Rolling:
        """As ``Rollings.get``."""
        return read(Rolling, self._ask("GET", f"/rolling/{number}"))

    def stop_rolling(self, number: int) -> str:
        """As ``operations.rolling_kept.stop``."""
        return self._said("POST", f"/rolling/{number}/stop")

    def give_up_rolling(self, number: int) -> Rolling:
        """As ``operations.rolling_kept.give_up``."""
        return read(Rolling, self._ask("POST", f"/rolling/{number}/give-up"))

    def outings(self, order: Order, say: Say) -> Foreseen:
        """As ``operations.outings.foresee``."""
        from mudanza.operations.outings import Foreseen

        body = self._ask("POST", "/rolling/outings", json=_asked(order))
        for each in body["said"]:
            say(each)
        return read(Foreseen, body["foreseen"])

    def roll(self, order: Order, say: Say, listener: Listener) -> Rolling:
        """As ``operations.rolling.Roller.begin``, once each host was found to get empty."""
        ways = {"see": ROLLING, "go_on": RESUME}
        return read(Rolling, self._order("/rolling", say, _asked(order), listener=listener, **ways))

    def resume_rolling(self, number: int, say: Say, listener: Listener, *, skip: bool) -> Rolling:
        """As ``operations.rolling.Roller.resume``."""
        order, ways = {"skip_command": skip}, {"see": ROLLING, "go_on": RESUME}
        return read(Rolling, self._order(f"/rolling/{number}/resume", say, order, listener=listener, **ways))


def _asked(order: Order) -> dict[str, Any]:
    told = {name: plain(getattr(order, name)) for name in ("hosts", "text", "shown", "reboot", "limit", "healthy")}
    return {**told, "cannot_go_live": order.cannot_go, "parallel": order.policy.total}


def _host(name: str) -> str:
    return f"/hosts/{quote(name, safe='')}"
