"""What settings are written as: seconds, rates, lists."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from mudanza.model.units import parse_duration, parse_rate


def seconds(value: object) -> object:
    """Read "10m" and the like; anything else is left as it is."""
    return parse_duration(value) if isinstance(value, str) else value


def _rate(value: object) -> object:
    return parse_rate(value) if isinstance(value, str) else value


def listed(value: object) -> object:
    """Take one word for a list of one."""
    return [value] if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Rate = Annotated[float, BeforeValidator(_rate), Field(gt=0)]
