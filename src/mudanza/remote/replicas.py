"""Replicas as a daemon keeps them, and VMs as it brings them up from these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mudanza import clock
from mudanza.journal.recovery_plans import Kept
from mudanza.model.finding import Finding
from mudanza.model.plain import plain
from mudanza.model.protection import Protection
from mudanza.remote.asking import Asking, read

if TYPE_CHECKING:
    from mudanza.model.migration import Mode
    from mudanza.operations.coming_home import GoingHome
    from mudanza.operations.means import Say
    from mudanza.operations.protecting import Keeping, Protected
    from mudanza.operations.recovery_plans import HowToRun
    from mudanza.operations.rescuing import Reprotected, Rescue
    from mudanza.operations.site import Stopped
    from mudanza.protection.failover import Outcome
    from mudanza.protection.recovery import Recovered
    from mudanza.protection.trial import Report

TURN = 5.0
"""Seconds for which a daemon is asked at a time to wait for a guest's agent."""


class ThereOfReplicas(Asking):
    """What a daemon is asked for of replicas."""

    def protections(self) -> tuple[Protected, ...]:
        """As ``operations.protecting.listed``, without definitions."""
        from mudanza.operations.protecting import Protected

        return tuple(
            Protected(self._protection(each["protection"]), each["behind"]) for each in self._ask("GET", "/protections")
        )

    @staticmethod
    def _protection(told: Mapping[str, Any]) -> Protection:
        points = [{**each, "definition": ""} for each in told["points"]]
        given_up = {**told["given_up"], "definition": ""} if told["given_up"] else None
        return read(Protection, {**told, "points": points, "given_up": given_up})

    def protect(self, vm: str, wanted: Keeping) -> Protection:
        """As ``operations.protecting.begin``: the daemon makes the first round after that."""
        return self._protection(self._ask("POST", f"{_at(vm)}/protection", json=plain(wanted)))

    def sync(self, vm: str, *, verify: bool, on: str | None = None) -> str:
        """As ``operations.protecting.one_round``."""
        return self._said("POST", f"{_at(vm)}/protection/rounds", json={"verify": verify, "on": on})

    def pause(self, vm: str, *, paused: bool, on: str | None = None) -> str:
        """As ``operations.protecting.pause``."""
        return self._said("PUT", f"{_at(vm)}/protection/pause", json={"paused": paused, "on": on})

    def unprotect(self, vm: str, say: Say, from_: str | None = None) -> None:
        """As ``operations.protecting.give_up``."""
        for each in self._ask("DELETE", f"{_at(vm)}/protection", params=_on(from_))["said"]:
            say(each)

    def fail_over(self, vm: str, how: Rescue, say: Say) -> Outcome:
        """As ``operations.rescuing.fail_over``."""
        from mudanza.protection.failover import Outcome

        return read(Outcome, self._order(f"{_at(vm)}/failover", say, plain(how)))

    def reprotect(self, vm: str, to: str | None, pool: str, say: Say) -> Reprotected:
        """As ``operations.rescuing.reprotect``."""
        from mudanza.operations.rescuing import Reprotected

        return read(Reprotected, self._order(f"{_at(vm)}/reprotect", say, {"to": to, "pool": pool}))

    def fail_over_group(self, name: str, networks: Mapping[str, str], say: Say) -> tuple[Outcome, ...]:
        """As ``operations.grouping.fail_over_together``, by the word of whoever asks that their hosts are dead."""
        from mudanza.protection.failover import Outcome

        order = {"source_is_dead": True, "networks": dict(networks)}
        return read(tuple[Outcome, ...], self._order(f"/groups/{quote(name, safe='')}/failover", say, order))

    def come_home(
        self, vm: str, mode: Mode, networks: Mapping[str, str], say: Say, to: str | None = None
    ) -> Outcome | GoingHome:
        """As ``operations.rescuing.come_home``."""
        from mudanza.operations.coming_home import GoingHome
        from mudanza.protection.failover import Outcome

        came = self._order(f"{_at(vm)}/failback", say, {"mode": mode, "networks": dict(networks), "to": to})
        return read(GoingHome, came) if "job" in came else read(Outcome, came)

    def begin_trial(
        self, vm: str, point: int | None, say: Say, *, digests: bool, networks: Mapping[str, str], on: str | None
    ) -> Report:
        """As ``operations.trying.begin``."""
        from mudanza.protection.trial import Report

        order = {"point": point, "digests": digests, "networks": dict(networks), "on": on}
        return read(Report, self._order(f"{_at(vm)}/test-failover", say, order))

    def await_agent(self, vm: str, patience: float, over: clock.Event, on: str | None) -> bool:
        """As ``operations.trying.await_agent``."""
        until = clock.monotonic() + patience
        while (left := until - clock.monotonic()) > 0 and not over.is_set():
            turn = {"patience": min(left, TURN), "on": on}
            if self._ask("POST", f"{_at(vm)}/test-failover/agent", json=turn)["answered"]:
                return True
        return False

    def end_trial(self, vm: str, say: Say, on: str | None) -> Report:
        """As ``operations.trying.end``."""
        from mudanza.protection.trial import Report

        return read(Report, self._order(f"{_at(vm)}/test-failover/end", say, {"on": on}))

    def recovery_plans(self) -> tuple[Kept, ...]:
        """As ``operations.recovery_plans.kept``."""
        return read(tuple[Kept, ...], self._ask("GET", "/recovery/plans"))

    def recovery_plan(self, name: str) -> Kept:
        """As ``operations.recovery_plans.get``."""
        return read(Kept, self._ask("GET", _plan(name)))

    def keep_recovery_plan(self, name: str, text: str) -> str:
        """As ``operations.recovery_plans.keep``."""
        return self._said("PUT", _plan(name), json={"text": text})

    def remove_recovery_plan(self, name: str) -> str:
        """As ``operations.recovery_plans.remove``."""
        return self._said("DELETE", _plan(name))

    def check_recovery_plan(self, name: str, text: str | None, _say: Say, *, planned: bool) -> tuple[Finding, ...]:
        """As ``operations.recovery_plans.check``."""
        order = {"name": name, "text": text, "planned": planned}
        return read(tuple[Finding, ...], self._ask("POST", "/recovery/checks", json=order))

    def recover(self, name: str, how: HowToRun, say: Say) -> tuple[Recovered, ...]:
        """As ``operations.recovery_plans.run``."""
        from mudanza.protection.recovery import Recovered

        return read(tuple[Recovered, ...], self._order(f"{_plan(name)}/runs", say, plain(how)))

    def start_site(self, name: str, say: Say, *, resume: bool) -> tuple[Recovered, ...]:
        """As ``operations.recovery_plans.start``."""
        from mudanza.protection.recovery import Recovered

        return read(tuple[Recovered, ...], self._order(f"{_plan(name)}/starts", say, {"resume": resume}))

    def stop_site(self, name: str, within: float | None, say: Say, *, resume: bool) -> tuple[Stopped, ...]:
        """As ``operations.recovery_plans.stop``."""
        from mudanza.operations.site import Stopped

        order = {"within": within, "resume": resume}
        return read(tuple[Stopped, ...], self._order(f"{_plan(name)}/stops", say, order))

    def answer_recovery(self, run: str, word: str) -> str:
        """As ``operations.recovery_plans.answer``."""
        return self._said("POST", "/recovery/answers", json={"run": run, "answer": word})


def _plan(name: str) -> str:
    return f"/recovery/plans/{quote(name, safe='')}"


def _on(host: str | None) -> Mapping[str, str]:
    return {"on": host} if host is not None else {}


def _at(vm: str) -> str:
    return f"/vms/{quote(vm, safe='')}"
