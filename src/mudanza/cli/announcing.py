"""Telling of a move when it begins, by whomever it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mudanza.cli.output import Format, say
from mudanza.cli.watching import emit


def announce(told: Mapping[str, Any], output: Format) -> None:
    """Tell what ``migration.forecast.keeping.announcement`` returns."""
    vm = told["vm"]
    if output is Format.JSON:
        emit("start", **{name: value for name, value in told.items() if name not in ("foreseen", "unasked")})
        return
    if told["why"]:
        say(f"{vm}: {told['why']}")
    if told["own_wishes"]:
        say(f"{vm}: as it wishes itself: {', '.join(told['own_wishes'])}")
    if told["hooks"]:
        say(f"{vm}: hooks: {', '.join(told['hooks'])}")
    if age := told.get("others_as_of"):  # an earlier version's job does not tell
        say(f"{vm}: source and target are judged as they are now, all other hosts as they were {age:g} s ago")
    if told["unasked"]:
        say(f"{vm}: nobody is asked (--probe): it does not move live")
    if told["foreseen"]:
        say(f"{vm}: forecast: {told['foreseen']}")
    for finding in told["findings"]:
        say(f"! {finding['subject']}: {finding['message']} [{finding['code']}]")


def nothing_to_do(vm: str, uuid: str, host: str, output: Format) -> None:
    """Tell that a VM is where it was to go already."""
    if output is Format.JSON:
        emit("unchanged", vm=vm, uuid=uuid, host=host)
    say(f"{vm} is on {host} already: nothing to do")
