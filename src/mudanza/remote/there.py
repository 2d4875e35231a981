"""Operations as a daemon does them: the same answers and the same errors as those done here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mudanza import clock
from mudanza.journal.audit import Asked
from mudanza.journal.jobs import Filter, Job
from mudanza.journal.tokens import Token
from mudanza.model.access import Scope
from mudanza.model.balance import OnDuty, Round
from mudanza.model.carrying import CannotGo, Run, RunPolicy, Wish
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host, HostEntry
from mudanza.model.load import Measured
from mudanza.model.migration import NOT_ASKED_FOR, MigrationOptions, Standing
from mudanza.model.plain import plain
from mudanza.model.plan import Plan, plan_from_json
from mudanza.model.rules import Rule, Rules, rules_from_data
from mudanza.model.vm import Vm
from mudanza.model.wishes import FIELDS
from mudanza.operations.balancing import Made
from mudanza.operations.checking import Check
from mudanza.operations.emptying import Emptied
from mudanza.operations.foreseeing import Foreseen, Outlook
from mudanza.operations.here import Choose, Done, Look
from mudanza.operations.planning import Proposal, Wanted
from mudanza.remote.asking import SILENCE, TRY_AGAIN, DaemonLostError, new_key, pace_of, read
from mudanza.remote.availability import ThereOfAvailability
from mudanza.remote.hosts import ThereOfHosts
from mudanza.remote.replicas import ThereOfReplicas

if TYPE_CHECKING:
    from mudanza.migration.forecast.accuracy import Accuracy
    from mudanza.migration.residue import Residue
    from mudanza.operations.means import Say
    from mudanza.planning.explaining import Explanation

PAGE = 500
CHECKED = ("mode", "map_storage", "map_network", "tls", "chain", "media", "format")
"""Fields of ``MigrationOptions`` that a check depends on."""
FORESEEN = (*CHECKED, *FIELDS, "bandwidth", "streams")
"""... and a forecast."""
MOVED = tuple(each.name for each in fields(MigrationOptions) if each.name not in NOT_ASKED_FOR)
"""All that is asked of a move."""
_ORDERS = {Wish.PAUSE: "pause", Wish.GO_ON: "resume", Wish.CANCEL: "cancel"}


class There(ThereOfReplicas, ThereOfAvailability, ThereOfHosts):
    """What a daemon is asked for."""

    def cluster(self) -> Cluster:
        """Return the newest picture that the daemon has."""
        hosts = read(tuple[Host, ...], self._ask("GET", "/hosts"))
        return Cluster(hosts, tuple(self._vms()))

    def _vms(self) -> Iterator[Vm]:
        after: str | None = ""
        while after is not None:
            page = self._ask("GET", "/vms", params={"after": after, "limit": PAGE})
            yield from read(tuple[Vm, ...], [{**each, "xml": ""} for each in page["vms"]])
            after = page["next"]

    def check(self, vm: str, to: str | None, options: MigrationOptions) -> Check:
        """As ``operations.checking.check``."""
        uuid = self.cluster().find(vm, bound_for=to).uuid
        asked = _asked(options, CHECKED)
        return read(Check, self._ask("POST", f"/vms/{uuid}/checks", json={**asked, "to": to}))

    def foresee(
        self, vm: str, to: str | None, options: MigrationOptions, *, warn: Say, probe_link: bool = False
    ) -> Outlook:
        """As ``operations.foreseeing.foresee``; what it warns of is told afterwards."""
        from mudanza.migration.forecast.model import Forecast

        uuid = self.cluster().find(vm, bound_for=to).uuid
        asked = {**_asked(options, FORESEEN), "to": to, "probe_link": probe_link}
        body = self._ask("POST", f"/vms/{uuid}/forecasts", json=asked)
        for each in body["said"]:
            warn(each)
        targets = tuple(
            Foreseen(each["target"], read(Forecast, each["forecast"]) if each["forecast"] else None)
            for each in body["targets"]
        )
        return Outlook(body["vm"], body["uuid"], body["source"], tuple(body["own_wishes"]), targets)

    def accuracy(self) -> tuple[Accuracy, ...]:
        """As ``operations.foreseeing.how_well``."""
        from mudanza.migration.forecast.accuracy import Accuracy

        return read(tuple[Accuracy, ...], self._ask("GET", "/forecasts"))

    def move(self, vm: Vm, to: str | None, options: MigrationOptions, usual: Collection[str], key: str) -> int:
        """Put a move into the daemon's queue; return its job. ``usual``: fields of the options that are to be as the
        daemon's settings have them; ``key``: asked for again under it, it is the same job."""
        asked = {name: value for name, value in _asked(options, MOVED).items() if name not in usual}
        return int(self._ask_once("POST", f"/vms/{vm.uuid}/moves", key, json={**asked, "to": to})["id"])

    def start(self, choose: Choose, say: Say) -> Done:
        """As ``operations.here.Here.start``."""
        chosen = choose(self.cluster())
        return chosen, self._each(chosen, "start", None, say)

    def shut_down(self, choose: Choose, say: Say, *, wait: bool) -> Done:
        """As ``operations.here.Here.shut_down``, one after the other."""
        chosen = choose(self.cluster())
        return chosen, self._each(chosen, "shutdown", {"wait": wait}, say)

    def wish(self, choose: Choose, changes: Mapping[str, str], say: Say, *, keep: bool) -> Done:
        """As ``operations.here.Here.wish``, one after the other."""
        chosen, order = choose(self.cluster()), {"wishes": dict(changes), "keep": keep}
        return chosen, self._each(chosen, "wishes", order, say, "PATCH")

    def _each(self, vms: Sequence[Vm], what: str, body: Any, say: Say, method: str = "POST") -> list[MudanzaError]:
        errors: list[MudanzaError] = []
        for vm in vms:
            try:
                for each in self._ask(method, f"/vms/{vm.uuid}/{what}", json=body)["said"]:
                    say(each)
            except MudanzaError as error:
                errors.append(error)
        return errors

    def jobs(self, limit: int, wanted: Filter, *, brief: bool) -> tuple[Job, ...]:
        """As ``Jobs.latest``."""
        asked = {"vm": wanted.vm, "state": wanted.state, "within": wanted.since, "steps": not brief}
        given = {name: value for name, value in asked.items() if value is not None}
        found: list[Job] = []
        before: dict[str, Any] = {}
        while len(found) < limit:
            page = self._ask("GET", "/jobs", params={**given, **before, "limit": min(PAGE, limit - len(found))})
            found += read(tuple[Job, ...], [{"steps": (), **each} for each in page["jobs"]])
            if page["next"] is None:
                break
            before = {"before": page["next"]}
        return tuple(found)

    def job(self, number: int) -> Job:
        """As ``Jobs.get``."""
        return read(Job, self._ask("GET", f"/jobs/{number}"))

    @contextmanager
    def looking(self, number: int) -> Iterator[Look]:
        """As ``operations.here.Here.looking``; a daemon that is started anew meanwhile is waited for."""
        yield lambda: self._standing(number)

    def _standing(self, number: int) -> Standing:
        until = clock.monotonic() + SILENCE
        while True:
            try:
                return read(Standing, self._ask("GET", f"/jobs/{number}/progress"))
            except DaemonLostError:
                if clock.monotonic() >= until:
                    raise
            clock.sleep(TRY_AGAIN)

    def cancel_job(self, number: int) -> Job:
        """As ``operations.jobs.cancel``."""
        return read(Job, self._ask("POST", f"/jobs/{number}/cancel"))

    def tune_job(self, number: int, changes: Mapping[str, Any]) -> Job:
        """As ``operations.jobs.tune``."""
        return read(Job, self._ask("PATCH", f"/jobs/{number}", json=plain(changes)))

    def resume_job(self, number: int) -> Job:
        """As ``operations.jobs.hand_on``."""
        return read(Job, self._ask("POST", f"/jobs/{number}/resume"))

    def clean_up(self, number: int) -> Residue:
        """Have deleted what an ended job has left; return what came of it."""
        from mudanza.migration.residue import Residue

        return read(Residue, self._ask("POST", f"/jobs/{number}/cleanup"))

    def close_job(self, number: int, say: Say) -> str:
        """As ``operations.jobs.close``."""
        *said, told = self._ask("POST", f"/jobs/{number}/close", json={"looked": True})["said"]
        for each in said:
            say(each)
        return str(told)

    def measured(self, window: float | None) -> Measured:
        """As ``operations.here.Here.measured``; None: as the daemon's settings have it."""
        return read(Measured, self._ask("GET", "/loads", params={"window": window} if window else {}))

    def runs(self, limit: int) -> tuple[Run, ...]:
        """As ``Plans.latest``; of at most as many as one answer holds."""
        return read(tuple[Run, ...], self._ask("GET", "/plans", params={"limit": min(limit, PAGE)}))

    def run(self, number: int) -> Run:
        """As ``Plans.get``."""
        return read(Run, self._ask("GET", f"/plans/{number}"))

    def wish_of_run(self, number: int, wish: Wish) -> None:
        """As ``Plans.wish``."""
        self._ask("POST", f"/plans/{number}/{_ORDERS[wish]}")

    def propose(self, wanted: Wanted) -> Proposal:
        """As ``operations.planning.propose``; a host that the daemon did not see is not told of."""
        body = self._ask("POST", "/proposals", json=plain(wanted))
        explanations: tuple[Explanation, ...] = ()
        if body["explanations"]:
            from mudanza.planning.explaining import Explanation  # it loads numpy

            explanations = read(tuple[Explanation, ...], body["explanations"])
        return Proposal(plan_from_json(json.dumps(body["plan"])), explanations)

    def apply(self, plan: Plan, policy: RunPolicy) -> int:
        """As ``operations.planning.put_down``."""
        body = {"plan": plan.as_data(), "pace": pace_of(policy)}
        return int(self._ask_once("POST", "/plans", new_key(), json=body)["id"])

    def approve(self, number: int, policy: RunPolicy) -> None:
        """As ``operations.planning.approve``."""
        self._ask("POST", f"/plans/{number}/approve", json=pace_of(policy))

    def drain(self, host: str, cannot_go: CannotGo, policy: RunPolicy) -> Emptied:
        """As ``operations.emptying.drain``, carried out by the daemon."""
        return self._emptied(host, "drain", {"cannot_go_live": cannot_go, "pace": pace_of(policy)})

    def enter_maintenance(self, host: str, cannot_go: CannotGo, policy: RunPolicy, *, with_off: bool) -> Emptied:
        """As ``operations.maintenance.enter``, carried out by the daemon."""
        order = {"cannot_go_live": cannot_go, "pace": pace_of(policy), "with_off": with_off}
        return self._emptied(host, "maintenance/enter", order)

    def leave_maintenance(self, host: str, cannot_come: CannotGo, policy: RunPolicy, *, stay_away: bool) -> Emptied:
        """As ``operations.maintenance.leave``, carried out by the daemon."""
        order = {"cannot_go_live": cannot_come, "pace": pace_of(policy), "stay_away": stay_away}
        return self._emptied(host, "maintenance/leave", order)

    def _emptied(self, host: str, what: str, order: Mapping[str, Any]) -> Emptied:
        return read(Emptied, self._ask_once("POST", f"/hosts/{quote(host, safe='')}/{what}", new_key(), json=order))

    def rules(self) -> Rules:
        """As ``Inventory.rules``."""
        return rules_from_data(self._ask("GET", "/rules"))

    def add_rule(self, rule: Rule) -> str:
        """As ``operations.rules.add``."""
        return self._said("POST", "/rules", json=plain(rule))

    def remove_rule(self, name: str) -> str:
        """As ``operations.rules.remove``."""
        return self._said("DELETE", f"/rules/{quote(name, safe='')}")

    def balance(self, limit: int) -> tuple[OnDuty | None, tuple[Round, ...]]:
        """As ``operations.balancing.seen``; of at most as many rounds as one answer holds."""
        body = self._ask("GET", "/balance", params={"limit": min(limit, PAGE)})
        duty = read(OnDuty, body["on_duty"]) if body["on_duty"] is not None else None
        return duty, read(tuple[Round, ...], body["rounds"])

    def balance_once(self, every: float | None) -> Made:
        """As ``operations.balancing.once``; None: as often as the daemon's settings have it."""
        return read(Made, self._ask("POST", "/balance/rounds", json={"every": every}))

    def add_host(self, entry: HostEntry, *, force: bool) -> str:
        """As ``operations.hosts.add``."""
        told = {name: value for name, value in plain(entry).items() if name != "maintenance"}
        return self._said("POST", "/hosts", json={**told, "force": force})

    def change_host(self, name: str, changes: Mapping[str, Any]) -> str:
        """As ``operations.here.Here.change_host``."""
        return self._said("PATCH", f"/hosts/{quote(name, safe='')}", json=plain(changes))

    def remove_host(self, name: str) -> str:
        """As ``operations.hosts.remove``."""
        return self._said("DELETE", f"/hosts/{quote(name, safe='')}")

    def export(self) -> str:
        """As ``operations.cluster_file.exported``."""
        return str(self._ask("GET", "/cluster")["text"])

    def take_in(self, text: str) -> tuple[str, ...]:
        """As ``operations.cluster_file.take_in``."""
        return tuple(self._ask("POST", "/cluster", json={"text": text})["said"])

    def tokens(self) -> tuple[Token, ...]:
        """As ``Tokens.all``."""
        return read(tuple[Token, ...], self._ask("GET", "/tokens"))

    def make_token(
        self, name: str, scopes: Collection[Scope], hosts: Collection[str], tags: Collection[str], lasts: float | None
    ) -> str:
        """As ``operations.access.make_token``."""
        order = {"name": name, "scopes": list(scopes), "hosts": list(hosts), "tags": list(tags), "lasts": lasts}
        return str(self._ask("POST", "/tokens", json=order)["token"])

    def revoke_token(self, name: str) -> None:
        """As ``Tokens.revoke``."""
        self._ask("DELETE", f"/tokens/{quote(name, safe='')}")

    def audit(self, within: float | None) -> tuple[Asked, ...]:
        """As ``Audit.since``."""
        asked: dict[str, Any] = {"within": within or 0, "limit": PAGE}
        found: list[Asked] = []
        while True:
            page = self._ask("GET", "/audit", params=asked)
            found += read(tuple[Asked, ...], page["asked"])
            if page["next"] is None:
                return tuple(reversed(found))
            asked["before"] = page["next"]


def _asked(options: MigrationOptions, names: Collection[str]) -> dict[str, Any]:
    """Return what was asked of a move; what its VM may wish otherwise only where it was named."""
    asked = {name: plain(getattr(options, name)) for name in names}
    return {name: value for name, value in asked.items() if name not in FIELDS or name in options.named}
