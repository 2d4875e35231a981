"""Operations about plans for recovery, done by this program itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudanza.operations.asker import Asker

if TYPE_CHECKING:
    from mudanza.journal.recovery_plans import Kept
    from mudanza.model.finding import Finding
    from mudanza.operations.means import Say
    from mudanza.operations.recovery_plans import HowToRun
    from mudanza.operations.site import Stopped
    from mudanza.protection.recovery import Recovered


class HereOfPlans(Asker):
    """What is asked for of plans, by the names that a daemon has for it, too."""

    def recovery_plans(self) -> tuple[Kept, ...]:
        """Return every plan for recovery; see ``recovery_plans.kept``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.kept(self._means)

    def recovery_plan(self, name: str) -> Kept:
        """Return one of them; see ``recovery_plans.get``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.get(self._means, name)

    def keep_recovery_plan(self, name: str, text: str) -> str:
        """Keep a plan for recovery; see ``recovery_plans.keep``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.keep(self._means, name, text, self._asked_by)

    def remove_recovery_plan(self, name: str) -> str:
        """Forget one; see ``recovery_plans.remove``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.remove(self._means, name)

    def check_recovery_plan(self, name: str, text: str | None, say: Say, *, planned: bool) -> tuple[Finding, ...]:
        """Say everything that stands against one; see ``recovery_plans.check``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.check(self._means, name, text, self._asked_by, say, planned=planned)

    def recover(self, name: str, how: HowToRun, say: Say) -> tuple[Recovered, ...]:
        """Bring its VMs up where their replicas are; see ``recovery_plans.run``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.run(self._means, name, how, self._asked_by, say)

    def start_site(self, name: str, say: Say, *, resume: bool) -> tuple[Recovered, ...]:
        """Start its VMs where they are; see ``recovery_plans.start``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.start(self._means, name, self._asked_by, say, resume=resume)

    def stop_site(self, name: str, within: float | None, say: Say, *, resume: bool) -> tuple[Stopped, ...]:
        """Have its VMs shut down; see ``recovery_plans.stop``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.stop(self._means, name, within, self._asked_by, say, resume=resume)

    def answer_recovery(self, run: str, word: str) -> str:
        """Answer what its run asks; see ``recovery_plans.answer``."""
        from mudanza.operations import recovery_plans

        return recovery_plans.answer(self._means, run, word, self._asked_by)
