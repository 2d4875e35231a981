"""What a controller learns from its journal that must stop it."""

from __future__ import annotations

from mudanza.model.errors import MudanzaError


class LeaseLostError(MudanzaError):
    """This controller must not act on the job any more: another one has taken it over, or may have."""

    exit_code = 5


class JournalLostError(LeaseLostError):
    """The database does not answer: what cannot be written down is not done."""
