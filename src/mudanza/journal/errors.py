"""What a controller learns from its journal that must stop it."""

from __future__ import annotations

from mudanza.model.errors import BlockedError, MudanzaError


class LeaseLostError(MudanzaError):
    """This controller must not act on the job any more: another one has taken it over, or may have."""

    exit_code = 5


class JournalLostError(LeaseLostError):
    """The database does not answer, or has no room left: what cannot be written down is not done."""

    def __init__(
        self,
        message: str,
        *,
        mend: str = "see that the database answers",
        then: str = "look at what was under way: mudanza jobs",
        vm_state: str = "",
    ) -> None:
        """``mend``: what brings the journal back, and ``then``, what to do once it is back, in words."""
        super().__init__(message, remedy=f"{mend}, then {then}", vm_state=vm_state)
        self.mend = mend

    def before_anything(self) -> BlockedError:
        """Return what to raise instead where nothing was begun that could not be written down."""
        return BlockedError(f"{self}: nothing was begun", remedy=f"{self.mend}, then try again")
