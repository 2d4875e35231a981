"""Fence agents, the programs that speak to what switches a host's power: Debian's package ``fence-agents``, and any
other of the same interface.

Options go in as lines of its input, never as arguments, which everybody on the machine can read. A line that nobody
meant would be an order (``action=off``), the usual action is *reboot*, and what an agent does not know it leaves out
without a word: so each option is compared with the agent's own description, and what holds more than a line refused.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

from mudanza.availability import redfish
from mudanza.journal.secrets import HIDDEN
from mudanza.migration.command import MOST_FED, Ended, run
from mudanza.model.errors import UsageError
from mudanza.model.fencing import Device, Order, Power, Reply

METADATA_LIMIT = 20.0
"""Seconds that an agent may take to describe itself."""
MOST_METADATA = 256 * 1024
"""Bytes of that."""
NAME = re.compile(r"fence_[a-z0-9_]+")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What the file of a secret may be called."""
_SECRET = re.compile(r"passw|secret|token|api_?key|community|hexadecimal[-_]kg")
_NOT_SECRET = re.compile(r"_(script|file|path)$")
_OURS = frozenset({"action", "option"})
"""What no device may say: which action is meant is said for each call."""
_CODES = {Power.ON: 0, Power.OFF: 2, Power.UNKNOWN: 1}
"""How agents end that are asked whether the power is on."""
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_NO_LINE = re.compile(r"[\r\n\0]")


class Settings(Protocol):
    """Where agents and secrets are on this controller, and how long agents may take. Seconds."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Directories in which agents are looked for, in their order."""

    @property
    def secrets(self) -> str:
        """The directory of the files that secrets are in."""

    @property
    def off(self) -> float:
        """To switch off, which some agents wait for."""

    @property
    def status(self) -> float:
        """To say whether the power is on."""

    @property
    def test_every(self) -> float:
        """Between two times that each device is asked whether it answers; 0: never."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an agent says of itself."""

    parameters: frozenset[str]
    actions: frozenset[str]


class Agents:
    """The fence agents of this controller."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self, device: Device) -> None:
        """Raise UsageError for a device that cannot be told what is meant: nothing is sent to it."""
        refuse_wrong(device, self.description(device.agent))
        values = {**device.options, **self.values(device)}
        if device.agent == redfish.AGENT:
            for needed in ("ip", "password"):
                if needed not in values:
                    raise UsageError(f"the fence device {device.name!r} needs {needed!r}: nobody could speak to it")
            try:
                self.redfish(device, values).__exit__(None, None, None)
            except redfish.RedfishError as error:
                raise UsageError(f"the fence device {device.name!r}: {error}") from error

    def description(self, agent: str) -> Description:
        """Return what an agent says of itself. Raises UsageError where there is no such agent."""
        if agent == redfish.AGENT:
            return Description(redfish.OPTIONS, redfish.ACTIONS)
        path = self._path(agent)
        try:
            ended = run([str(path), "-o", "metadata"], _environment(), METADATA_LIMIT, _idle, kept=MOST_METADATA)
        except OSError as error:
            raise UsageError(f"the fence agent {path} could not be run: {error.strerror}") from error
        if ended.fault:
            raise UsageError(f"the fence agent {path} does not describe itself: it {ended.fault}")
        return read_description(agent, ended.text)

    def tell(self, device: Device, order: Order, turn: Callable[[], None] = lambda: None) -> Reply:
        """Give a device an order; return how that went. ``turn`` is called over and over meanwhile.

        Raises UsageError where a secret or the agent is missing, and what ``turn`` raises: then the agent is ended.
        """
        if device.agent == redfish.AGENT:
            return self._tell_redfish(device, order, turn)
        limit = self._settings.status if order is Order.STATUS else self._settings.off
        try:
            ended = self._said(device, order.value, limit, turn)
        except OSError as error:
            return Reply(device.name, order, None, f"{device.agent} could not be run: {error.strerror}")
        code = ended.code if ended.code is None or ended.code >= 0 else None
        return Reply(device.name, order, code, _without(ended.said, self.values(device)))

    def ask(self, device: Device, action: str) -> Ended:
        """Ask a device's agent something by an action of its own that switches nothing; return all that it said. Raises
        UsageError."""
        try:
            return self._said(device, action, self._settings.status)
        except OSError as error:
            return Ended(1, f"could not be run: {error.strerror}")

    def _said(self, device: Device, action: str, limit: float, turn: Callable[[], None] = lambda: None) -> Ended:
        feed = lines_for(action, {**device.options, **self.values(device)})
        return run([str(self._path(device.agent))], _environment(), limit, turn, feed=feed)

    def _tell_redfish(self, device: Device, order: Order, turn: Callable[[], None]) -> Reply:
        """As ``tell``, with the exit codes that an agent would have."""
        values = {**device.options, **self.values(device)}
        try:
            with self.redfish(device, values) as service:
                if order is Order.STATUS:
                    power = service.power()
                    return Reply(device.name, order, _CODES[power], f"Status: {power.value}")
                if order is Order.OFF:
                    service.off(self._settings.off, turn)
                else:
                    service.on()
        except redfish.RedfishError as error:
            return Reply(device.name, order, 1, _without(str(error), self.values(device)))
        return Reply(device.name, order, 0, f"Success: {order.value}")

    def redfish(self, device: Device, values: Mapping[str, str]) -> redfish.Redfish:
        """Return the Redfish service that a device is. ``values``: its options and secrets, by our names for them.
        Raises RedfishError, and UsageError for an authority that is no file of the directory of secrets."""
        name = values.get("ca")
        if name is not None and not FILE.fullmatch(name):
            raise UsageError(f"{device.shown}: {name!r} is no name of a file in the directory of secrets")
        ca = Path(self._settings.secrets, name) if name is not None else None
        return redfish.Redfish(values, ca, self._settings.status)

    def program(self, name: str) -> str | None:
        """Return where a program is that speaks to BMCs: beside the agents, or where this machine has its own."""
        return shutil.which(name, path=":".join((*self._settings.agents, *_PATH.split(":"))))

    def run(self, argv: Sequence[str], secrets: Mapping[str, str]) -> Ended:
        """Run such a program. ``secrets``: what it gets by its environment."""
        try:
            return run(argv, {**_environment(), **secrets}, self._settings.status, _idle, kept=MOST_METADATA)
        except OSError as error:
            return Ended(1, f"could not be run: {error.strerror}")

    def _path(self, agent: str) -> Path:
        if not NAME.fullmatch(agent):
            raise UsageError(f"{agent!r} is no name of a fence agent", remedy="such as fence_ipmilan")
        for directory in self._settings.agents:
            path = Path(directory, agent)
            if os.access(path, os.X_OK):
                return path
        raise UsageError(
            f"there is no fence agent {agent} in {', '.join(self._settings.agents)} on this machine",
            remedy="Debian has them in fence-agents; other directories: fencing.agents of the settings",
        )

    def values(self, device: Device) -> dict[str, str]:
        """Return a device's secrets, by option. Raises UsageError."""
        found = {}
        for option, name in device.secrets.items():
            path = Path(self._settings.secrets, name)
            try:
                value = path.read_text().rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"the secret {option} of {device.shown} cannot be read from {path}: {error}",
                    remedy="put it there, for the controller's user alone; see fencing.secrets of the settings",
                ) from error
            if not value or _NO_LINE.search(value):
                raise UsageError(f"the secret {option} of {device.shown} in {path} has to be one line")
            found[option] = value
        return found


def refuse_wrong(device: Device, known: Description) -> None:
    """Raise UsageError for a device that its agent would not understand, or that would say more than it seems to."""
    told = f"the fence device {device.name!r}"
    if not FILE.fullmatch(device.name):
        raise UsageError(f"{told} cannot be called that", remedy="letters, digits, dots, dashes; such as bmc, psu-1")
    if device.level < 1:
        raise UsageError(f"{told} has level {device.level}: levels count from 1")
    for option, value in {**device.options, **device.secrets}.items():
        if fault := _fault(device, option, value, known):
            raise UsageError(f"{told}: {fault}")
    if both := device.options.keys() & device.secrets.keys():
        raise UsageError(f"{told} says {', '.join(sorted(both))} twice")
    for name in device.secrets.values():
        if not FILE.fullmatch(name):
            raise UsageError(f"{told}: {name!r} is no name of a file in the directory of secrets")
    for order in (Order.OFF, Order.STATUS):  # not every device that switches off can switch on
        if order.value not in known.actions:
            raise UsageError(f"{told}: {device.agent} cannot do {order.value!r}")


def _fault(device: Device, option: str, value: str, known: Description) -> str:
    """Return what is wrong with one option; empty: nothing."""
    if _NO_LINE.search(option + value) or "=" in option:
        return f"{option!r} holds more than one line, which the agent would take for an order"
    if option in _OURS:
        return f"it may not say {option!r}: what is ordered is said for each call"
    if option not in known.parameters:
        near = ", ".join(sorted(known.parameters - _OURS))
        return f"{device.agent} knows no {option!r}, and would ignore it; it knows {near}"
    if option in device.options and _SECRET.search(option) and not _NOT_SECRET.search(option):
        return (
            f"{option!r} is a secret, and would be kept and shown in clear; write it into a file of the controller's "
            f"directory of secrets: --secret {option}=FILE"
        )
    return ""


def read_description(agent: str, text: str) -> Description:
    """Read an agent's metadata. Raises UsageError for what is none."""
    start, end = text.find("<resource-agent"), text.rfind("</resource-agent>")
    try:
        root = ElementTree.fromstring(text[start : end + len("</resource-agent>")] if start >= 0 else text)  # noqa: S314
    except ElementTree.ParseError as error:
        raise UsageError(f"what the fence agent {agent} says of itself is not understood: {error}") from error
    parameters = frozenset(each.get("name", "") for each in root.iterfind("parameters/parameter"))
    actions = frozenset(each.get("name", "") for each in root.iterfind("actions/action"))
    return Description(parameters - {""}, actions - {""})


def lines_for(action: str, options: Mapping[str, str]) -> bytes:
    """Return what an agent gets as its input. Raises UsageError for what is no line."""
    lines = [f"action={action}"]
    for option, value in options.items():
        if _NO_LINE.search(option + value) or option in _OURS or "=" in option:
            raise UsageError(f"the option {option!r} of a fence device is not one line")
        lines.append(f"{option}={value}")
    text = ("\n".join(lines) + "\n").encode()
    if len(text) > MOST_FED:
        raise UsageError("the options of a fence device are longer than any agent needs")
    return text


def _without(said: str, secrets: Mapping[str, str]) -> str:
    for value in secrets.values():
        said = said.replace(value, HIDDEN)
    return said


def _environment() -> Mapping[str, str]:
    """Return an environment in which nothing of the controller's own is."""
    return {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/")}


def _idle() -> None:
    """Nothing is to be done meanwhile."""
