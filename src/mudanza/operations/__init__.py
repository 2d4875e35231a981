"""What can be asked of mudanza, whoever asks: the command line does it here, the daemon for those who ask by HTTP."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mudanza.operations import access as access
    from mudanza.operations import balancing as balancing
    from mudanza.operations import checking as checking
    from mudanza.operations import cleaning as cleaning
    from mudanza.operations import fencing as fencing
    from mudanza.operations import foreseeing as foreseeing
    from mudanza.operations import host_power as host_power
    from mudanza.operations import hosts as hosts
    from mudanza.operations import jobs as jobs
    from mudanza.operations import planning as planning
    from mudanza.operations import power as power
    from mudanza.operations import rules as rules
    from mudanza.operations import wishing as wishing
else:

    def __getattr__(name: str) -> object:
        """Load a module of this room when it is asked for: most commands need two of them."""
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name == f"{__name__}.{name}":
                raise AttributeError(name) from None
            raise
