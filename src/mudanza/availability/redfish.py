"""Redfish, which BMCs speak by HTTPS: whether a system's power is on, switching it, which machine it is and what it
draws. Its certificate is verified, always: whoever stands in for a BMC could prove any host off.

Of what a service answers only links within ``/redfish/`` are followed, at the same address: the password goes nowhere
else. Sources: DMTF DSP0266 (protocol), schemas ComputerSystem, Chassis, Power and EnvironmentMetrics.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from mudanza import clock
from mudanza.model.fencing import Power
from mudanza.model.machine import Machine, machine

AGENT = "redfish"
"""What it is called among fence agents; no program is run for it."""
OPTIONS = frozenset({"ip", "ipport", "username", "password", "system", "ca", "certificate_name"})
"""``ip`` and ``password`` are needed. ``system``: which one, where a BMC has several; ``ca``: the file, of the
directory of secrets, that has the authority which vouches for it (or its own certificate); ``certificate_name``: the
name in it."""
ACTIONS = frozenset({"off", "on", "status"})
REQUEST_LIMIT = 10.0
"""Seconds that one answer may take: BMCs are slow."""
MOST_BYTES = 1024 * 1024
"""Of one answer."""
LOOK_AGAIN = 1.0
"""Seconds between two looks whether a system is off."""
ROOT = "/redfish/v1"
_WITHIN = "/redfish/"
_POWERS = {"On": Power.ON, "Off": Power.OFF}
"""Of the states that there are; one on its way is neither."""


class RedfishError(Exception):
    """A service does not do what it is to do, in words."""


class Redfish:
    """One system behind one service."""

    def __init__(self, options: Mapping[str, str], ca: Path | None = None, limit: float = REQUEST_LIMIT) -> None:
        """``options``: those above, with the password; ``ca``: the authority's file; ``limit``: seconds for an answer.

        Raises RedfishError for an authority that cannot be read.
        """
        address = options.get("ip", "")
        host = f"[{address}]" if address.count(":") > 1 and not address.startswith("[") else address
        port = f":{options['ipport']}" if "ipport" in options else ""
        self._wanted = options.get("system", "")
        self._name = options.get("certificate_name", "")
        try:
            context = ssl.create_default_context(cafile=str(ca) if ca is not None else None)
            self._client = httpx.Client(
                base_url=f"https://{host}{port}",
                auth=(options.get("username", ""), options.get("password", "")),
                verify=context,
                timeout=min(limit, REQUEST_LIMIT),
                headers={"Accept": "application/json", "OData-Version": "4.0"},
                follow_redirects=False,
                trust_env=False,  # a proxy would get the password
            )
        except (OSError, ssl.SSLError, httpx.InvalidURL) as error:
            raise RedfishError(f"it cannot be reached so: {error}") from error

    def __enter__(self) -> Redfish:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._client.close()

    def power(self) -> Power:
        """Return whether the system's power is on. Raises RedfishError."""
        return _POWERS.get(str(self._system().get("PowerState")), Power.UNKNOWN)

    def machine(self) -> Machine:
        """Return which machine it is. Some vendors have as *SKU* what SMBIOS has as serial number. Raises
        RedfishError."""
        told = self._system()
        return machine([_text(told, "UUID")], [_text(told, "SerialNumber"), _text(told, "SKU")])

    def off(self, limit: float, turn: Callable[[], None] = lambda: None) -> None:
        """Cut the system's power and see it off, within so many seconds. Raises RedfishError where it is not."""
        until = clock.monotonic() + limit
        if self.power() is not Power.OFF:
            self._reset("ForceOff")
        while self.power() is not Power.OFF:
            turn()
            if clock.monotonic() > until:
                raise RedfishError(f"it was told to be off, and is not after {limit:g} s")
            clock.sleep(LOOK_AGAIN)

    def on(self) -> None:
        """Give the system power. Raises RedfishError."""
        if self.power() is not Power.ON:
            self._reset("On")

    def watts(self) -> float | None:
        """Return what the system draws now; None: it does not measure that. Raises RedfishError."""
        for link in _list(_part(self._system(), "Links"), "Chassis"):
            chassis = self._get(_link(link))
            if "EnvironmentMetrics" in chassis:
                metrics = self._get(_link(chassis["EnvironmentMetrics"]))
                if (found := _number(_part(metrics, "PowerWatts").get("Reading"))) is not None:
                    return found
            if "Power" in chassis:
                for control in _list(self._get(_link(chassis["Power"])), "PowerControl"):
                    if (found := _number(control.get("PowerConsumedWatts"))) is not None:
                        return found
        return None

    def _system(self) -> Mapping[str, Any]:
        paths = [_link(each) for each in _list(self._get(f"{ROOT}/Systems"), "Members")]
        if self._wanted:
            paths = [path for path in paths if self._wanted in (path, path.rstrip("/").rpartition("/")[2])]
        if len(paths) != 1:
            known = f"no system {self._wanted}" if self._wanted else f"{len(paths)} systems"
            raise RedfishError(f"it has {known}: say which one is the host (option system)")
        return self._get(paths[0])

    def _reset(self, kind: str) -> None:
        action = _part(_part(self._system(), "Actions"), "#ComputerSystem.Reset")
        allowed = action.get("ResetType@Redfish.AllowableValues")
        if isinstance(allowed, list) and kind not in allowed:
            raise RedfishError(f"it cannot do {kind}, only {', '.join(map(str, allowed))}")
        self._answer("POST", _within(action.get("target")), {"ResetType": kind})

    def _get(self, path: str) -> Mapping[str, Any]:
        return self._answer("GET", path)

    def _answer(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        extensions = {"sni_hostname": self._name} if self._name else {}
        try:
            with self._client.stream(method, path, json=body, extensions=extensions) as answer:
                content = b""
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > MOST_BYTES:
                        raise RedfishError(f"{path}: it answers with more than anybody needs")
        except httpx.HTTPError as error:
            raise RedfishError(f"{path}: {error or type(error).__name__}") from error
        if not answer.is_success:
            raise RedfishError(f"{path}: it answers {answer.status_code} {answer.reason_phrase}")
        if method == "POST":
            return {}
        try:
            found = httpx.Response(200, content=content).json()
        except ValueError as error:
            raise RedfishError(f"{path}: its answer is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise RedfishError(f"{path}: its answer is no object")
        return found


def _link(told: Any) -> str:
    return _within(told.get("@odata.id") if isinstance(told, dict) else None)


def _within(path: Any) -> str:
    """Return a path of the same service. Raises RedfishError for any other."""
    if not isinstance(path, str) or not path.startswith(_WITHIN) or ".." in path:
        raise RedfishError(f"it names {path!r}, which is no path within {_WITHIN}")
    return path


def _part(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object within an object; an empty one where there is none."""
    found = told.get(name)
    return found if isinstance(found, dict) else {}


def _list(told: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list within an object."""
    found = told.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _text(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    """Return a number of watts; None where it is none that a machine could draw."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
