"""What is asked for of whole hosts, done by this program itself: their power, their CPUs, and what they have kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mudanza import operations as ops
from mudanza.operations.asker import Asker

if TYPE_CHECKING:
    from mudanza.model.host_power import Switching
    from mudanza.model.rolling import Order, Rolling
    from mudanza.operations.cleaning import Cleaned, OldDefinition
    from mudanza.operations.cpus import Changed, CpuPicture, CpuWish
    from mudanza.operations.host_power import PowerOf
    from mudanza.operations.means import Say
    from mudanza.operations.outings import Foreseen
    from mudanza.operations.rolling_kept import Listed


class HereOfHosts(Asker):
    """What is asked for of whole hosts, by the names that a daemon has for it, too."""

    def old_definitions(self, host: str) -> tuple[OldDefinition, ...]:
        """Return what a host has kept of VMs that were started elsewhere; see ``cleaning.old_definitions``."""
        return ops.cleaning.old_definitions(self._means, host)

    def clean_host(self, host: str, uuids: Collection[str]) -> Cleaned:
        """Take that away; see ``cleaning.clean_host``."""
        return ops.cleaning.clean_host(self._means, host, uuids)

    def cpus(self, names: Sequence[str] | None, tags: Sequence[str] | None) -> CpuPicture:
        """Look at the CPUs of hosts and VMs; see ``cpus.picture``."""
        from mudanza.operations import cpus

        return cpus.picture(self._means, names, tags)

    def change_cpus(self, wish: CpuWish, say: Say, tell: Callable[[Changed], None]) -> tuple[Changed, ...]:
        """Give VMs another CPU; see ``cpus.change``."""
        from mudanza.operations import cpus

        return cpus.change(self._means, wish, self._asked_by, say, tell)

    def powers(self) -> tuple[PowerOf, ...]:
        """Return what is known of hosts' power; see ``host_power.listed``."""
        return ops.host_power.listed(self._means)

    def change_power(self, host: str, changes: Mapping[str, Any], *, unmatched: bool = False) -> str:
        """Change what was said of a host's power; see ``host_power.change``."""
        return ops.host_power.change(self._means, host, changes, self._asked_by, unmatched=unmatched)

    def wake(self, host: str, say: Say) -> Switching:
        """Wake a host, and open it once it is well; see ``Switcher.on``."""
        from mudanza.operations.host_off import switcher_of

        return switcher_of(self._means, self._asked_by, say).on(host)

    def save_once(self, say: Say) -> str:
        """Make one round of saving power; return what came of it. See ``Saver.once``."""
        from mudanza.operations.saving import saver_of

        return saver_of(self._means, self._asked_by, say).once()

    def rollings(self, limit: int) -> Listed:
        """Return the newest maintenance that has rolled; see ``rolling_kept.listed``."""
        from mudanza.operations import rolling_kept

        return rolling_kept.listed(self._means, limit)

    def rolling(self, number: int) -> Rolling:
        """Return one. Raises UsageError."""
        from mudanza.journal.rollings import Rollings

        return Rollings(self._means.database).get(number)

    def stop_rolling(self, number: int) -> str:
        """Have one stop after what is under way; see ``rolling_kept.stop``."""
        from mudanza.operations import rolling_kept

        return rolling_kept.stop(self._means, number, self._asked_by)

    def give_up_rolling(self, number: int) -> Rolling:
        """Go on no more with one that has stopped; see ``rolling_kept.give_up``."""
        from mudanza.operations import rolling_kept

        return rolling_kept.give_up(self._means, number, self._asked_by)

    def outings(self, order: Order, say: Say) -> Foreseen:
        """Say how each host would be emptied; see ``outings.foresee``."""
        from mudanza.operations import outings

        return outings.foresee(self._means, order, say)
