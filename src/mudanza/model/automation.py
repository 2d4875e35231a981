"""What a continuous balance may do by itself, in the cluster and with a single VM."""

from __future__ import annotations

from enum import StrEnum


class Automation(StrEnum):
    """How far balance goes without a person."""

    AUTO = "auto"
    """What is to be moved is moved."""
    MANUAL = "manual"
    """A plan is put down and waits for somebody's yes."""
    ADVISE = "advise"
    """It is only said."""
    NEVER = "never"
    """No plan of the operator's wish moves it; a drain does. Of single VMs only."""

    @property
    def caution(self) -> int:
        """0 for the one that goes furthest by itself."""
        return list(Automation).index(self)
