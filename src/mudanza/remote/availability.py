"""What switches hosts' power, and VMs that are kept up, as a daemon sees to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from mudanza.model.fencing import Device, Fencing
from mudanza.model.kept import AS_USUAL, Care
from mudanza.model.plain import plain
from mudanza.model.restarts import Restarted
from mudanza.operations.fencing import Answer, Fenced
from mudanza.remote.asking import Asking, read

if TYPE_CHECKING:
    from mudanza.operations.keeping_up import Availability
    from mudanza.operations.means import Say


class ThereOfAvailability(Asking):
    """What a daemon is asked for of hosts that die."""

    def answers(self, host: str) -> bool:
        """As ``operations.fencing.answers``."""
        return bool(self._ask("GET", f"{_host(host)}/answers")["answers"])

    def fences(self) -> tuple[Fenced, ...]:
        """As ``operations.fencing.listed``."""
        return read(tuple[Fenced, ...], self._ask("GET", "/fences"))

    def put_fence(self, host: str, device: Device, *, unmatched: bool = False) -> str:
        """As ``operations.fencing.put``."""
        told = {name: value for name, value in plain(device).items() if name != "name"} | {"unmatched": unmatched}
        return self._said("PUT", f"{_host(host)}/fences/{quote(device.name, safe='')}", json=told)

    def drop_fence(self, host: str, device: str) -> str:
        """As ``operations.fencing.drop``."""
        return self._said("DELETE", f"{_host(host)}/fences/{quote(device, safe='')}")

    def ask_fences(self, host: str, _say: Say) -> tuple[Answer, ...]:
        """As ``operations.fencing.ask``."""
        return read(tuple[Answer, ...], self._ask("POST", f"{_host(host)}/fence/test"))

    def fence_off(self, host: str, say: Say, *, force: bool) -> Fencing:
        """As ``operations.fencing.switch_off``."""
        return read(Fencing, self._order(f"{_host(host)}/fence/off", say, {"force": force}))

    def confirm_off(self, host: str, _say: Say) -> Fencing:
        """As ``operations.fencing.confirm``."""
        return read(Fencing, self._ask("POST", f"{_host(host)}/fence/confirm", json={"seen_off": True}))

    def keep_up(
        self, vm: str, priority: int, most: int, say: Say, *, after: Sequence[str] = (), care: Care = AS_USUAL
    ) -> None:
        """As ``operations.keeping_up.keep_up``."""
        order = {"priority": priority, "max_restarts": most, "after": list(after), **plain(care)}
        for each in self._said("PUT", _kept(vm), json=order).splitlines():
            say(each)

    def let_down(self, vm: str) -> str:
        """As ``operations.keeping_up.let_down``."""
        return self._said("DELETE", _kept(vm))

    def availability(self, _say: Say) -> Availability:
        """As ``operations.keeping_up.look``."""
        from mudanza.operations.keeping_up import Availability

        return read(Availability, self._ask("GET", "/availability"))

    def restarts(self, limit: int) -> tuple[Restarted, ...]:
        """As ``operations.keeping_up.restarts``."""
        return read(tuple[Restarted, ...], self._ask("GET", "/availability/restarts", params={"limit": limit}))


def _host(name: str) -> str:
    return f"/hosts/{quote(name, safe='')}"


def _kept(vm: str) -> str:
    return f"/vms/{quote(vm, safe='')}/availability"
