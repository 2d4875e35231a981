"""Operations done by this program itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mudanza import operations as ops
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MudanzaError
from mudanza.model.kept import AS_USUAL, Care
from mudanza.model.migration import Standing
from mudanza.model.vm import Vm
from mudanza.operations.here_hosts import HereOfHosts
from mudanza.operations.here_plans import HereOfPlans

if TYPE_CHECKING:
    from mudanza import clock
    from mudanza.journal.audit import Asked
    from mudanza.journal.jobs import Filter, Job
    from mudanza.journal.tokens import Token
    from mudanza.migration.forecast.accuracy import Accuracy
    from mudanza.model.access import Scope
    from mudanza.model.balance import OnDuty, Round
    from mudanza.model.carrying import Run, RunPolicy, Wish
    from mudanza.model.fencing import Device, Fencing
    from mudanza.model.host import HostEntry
    from mudanza.model.load import Measured
    from mudanza.model.migration import MigrationOptions
    from mudanza.model.restarts import Restarted
    from mudanza.model.rules import Rule, Rules
    from mudanza.operations.checking import Check
    from mudanza.operations.fencing import Answer, Fenced
    from mudanza.operations.foreseeing import Outlook
    from mudanza.operations.keeping_up import Availability
    from mudanza.operations.means import Say
    from mudanza.operations.planning import Proposal, Wanted
    from mudanza.operations.protecting import Protected
    from mudanza.operations.rescuing import Reprotected, Rescue
    from mudanza.protection.failover import Outcome
    from mudanza.protection.trial import Report

Choose = Callable[[Cluster], tuple[Vm, ...]]
"""Which VMs are meant. May raise UsageError and BlockedError."""
Look = Callable[[], Standing]
"""Tells how a job stands now."""
Done = tuple[tuple[Vm, ...], list[MudanzaError]]
"""The VMs that were meant, and an error for each with which it did not go well."""


class Here(HereOfPlans, HereOfHosts):
    """What is asked for, by the names that a daemon has for it, too."""

    def cluster(self) -> Cluster:
        """Return a picture of the cluster taken now."""
        with self._means.connections() as connections:
            return self._means.read_cluster(connections)

    def check(self, vm: str, to: str | None, options: MigrationOptions) -> Check:
        """Say everything that stands against a move; see ``checking.check``."""
        return ops.checking.check(self._means, vm, to, options)

    def foresee(
        self, vm: str, to: str | None, options: MigrationOptions, *, warn: Say, probe_link: bool = False
    ) -> Outlook:
        """Say what a move will be like; see ``foreseeing.foresee``."""
        return ops.foreseeing.foresee(self._means, vm, to, options, warn=warn, probe_link=probe_link)

    def accuracy(self) -> tuple[Accuracy, ...]:
        """Return how well forecasts have come true; see ``foreseeing.how_well``."""
        return ops.foreseeing.how_well(self._means)

    def start(self, choose: Choose, say: Say) -> Done:
        """Start VMs that are chosen; see ``power.start``. Raises what ``choose`` raises."""
        with self._means.connections() as connections:
            chosen = choose(self._means.read_cluster(connections))
            return chosen, ops.power.start(self._means, connections, chosen, say)

    def shut_down(self, choose: Choose, say: Say, *, wait: bool) -> Done:
        """Ask VMs that are chosen to shut down; see ``power.shut_down``. Raises what ``choose`` raises."""
        with self._means.connections() as connections:
            chosen = choose(self._means.read_cluster(connections))
            return chosen, ops.power.shut_down(self._means, connections, chosen, say, wait=wait)

    def jobs(self, limit: int, wanted: Filter, *, brief: bool) -> tuple[Job, ...]:
        """Return the newest jobs; ``brief``: without their steps and events."""
        return self._means.jobs.latest(limit, wanted, brief=brief)

    def job(self, number: int) -> Job:
        """Return a job. Raises UsageError."""
        return self._means.jobs.get(number)

    @contextmanager
    def looking(self, number: int) -> Iterator[Look]:
        """Have what tells how a job stands each time that it is asked, while the block runs. Raises UsageError."""
        from mudanza.migration.looking import look, standing_of
        from mudanza.migration.progress import Trend

        with self._means.connections() as connections:
            trend = Trend()

            def once() -> Standing:
                nonlocal trend
                job = self._means.jobs.get(number)
                progress, trend = look(connections, job, trend)
                return standing_of(job, progress)

            yield once

    def cancel_job(self, number: int) -> Job:
        """Have whoever works on a job cancel it; see ``jobs.cancel``."""
        return ops.jobs.cancel(self._means.jobs, self._means.jobs.get(number), self._asked_by)

    def tune_job(self, number: int, changes: Mapping[str, Any]) -> Job:
        """Change the limits of a job; see ``jobs.tune``."""
        return ops.jobs.tune(self._means.jobs, number, changes, self._asked_by)

    def close_job(self, number: int, say: Say) -> str:
        """Close a job that somebody has looked at; see ``jobs.close``."""
        return ops.jobs.close(self._means, number, self._asked_by, say)

    def wish(self, choose: Choose, changes: Mapping[str, str], say: Say, *, keep: bool) -> Done:
        """Write the wishes of VMs that are chosen anew; see ``wishing.write``. Raises what ``choose`` raises."""
        errors: list[MudanzaError] = []
        with self._means.connections() as connections:
            chosen = choose(self._means.read_cluster(connections))
            for vm in chosen:
                try:
                    say(ops.wishing.write(self._means, connections, vm, changes, keep=keep))
                except MudanzaError as error:
                    errors.append(error)
        return chosen, errors

    def measured(self, window: float | None) -> Measured:
        """Return how busy hosts and VMs have been within so many seconds; None: as the settings have it."""
        return self._means.measured(window)

    def runs(self, limit: int) -> tuple[Run, ...]:
        """Return the newest plans that are or were carried out, or wait for a yes."""
        from mudanza.journal.plans import Plans

        return Plans(self._means.database).latest(limit)

    def run(self, number: int) -> Run:
        """Return one of them. Raises UsageError."""
        from mudanza.journal.plans import Plans

        return Plans(self._means.database).get(number)

    def wish_of_run(self, number: int, wish: Wish) -> None:
        """Have a plan paused, gone on with or cancelled by whoever carries it out. Raises UsageError, BlockedError."""
        from mudanza.journal.plans import Plans

        Plans(self._means.database).wish(number, wish, self._asked_by)

    def propose(self, wanted: Wanted) -> Proposal:
        """Say where VMs should be; see ``planning.propose``."""
        return ops.planning.propose(self._means, wanted)

    def approve(self, number: int, policy: RunPolicy) -> None:
        """Let a plan be carried out that waits for a yes; see ``planning.approve``."""
        ops.planning.approve(self._means, number, policy, self._asked_by)

    def rules(self) -> Rules:
        """Return the rules that plans go by."""
        return self._means.inventory.rules()

    def add_rule(self, rule: Rule) -> str:
        """Add a rule; see ``rules.add``."""
        return ops.rules.add(self._means, rule)

    def remove_rule(self, name: str) -> str:
        """Take a rule away; see ``rules.remove``."""
        return ops.rules.remove(self._means, name)

    def balance(self, limit: int) -> tuple[OnDuty | None, tuple[Round, ...]]:
        """Return who balances, and what the last rounds came to; see ``balancing.seen``."""
        return ops.balancing.seen(self._means, limit)

    def protections(self) -> tuple[Protected, ...]:
        """Return the protected VMs; see ``protecting.listed``."""
        from mudanza.operations import protecting

        return protecting.listed(self._means)

    def sync(self, vm: str, *, verify: bool, on: str | None = None) -> str:
        """Make a round of replication; see ``protecting.one_round``."""
        from mudanza.operations import protecting

        return protecting.one_round(self._means, vm, self._asked_by, verify=verify, on=on)

    def pause(self, vm: str, *, paused: bool, on: str | None = None) -> str:
        """Have no rounds be made, or have them be made again; see ``protecting.pause``."""
        from mudanza.operations import protecting

        return protecting.pause(self._means, vm, on, self._asked_by, paused=paused)

    def unprotect(self, vm: str, say: Say, from_: str | None = None) -> None:
        """Give a replica of a VM up; see ``protecting.give_up``."""
        from mudanza.operations import protecting

        protecting.give_up(self._means, vm, self._asked_by, say, from_)

    def fail_over(self, vm: str, how: Rescue, say: Say) -> Outcome:
        """Start a protected VM at its replica's host; see ``rescuing.fail_over``."""
        from mudanza.operations import rescuing

        return rescuing.fail_over(self._means, vm, how, self._asked_by, say)

    def reprotect(self, vm: str, to: str | None, pool: str, say: Say) -> Reprotected:
        """Protect a VM the other way; see ``rescuing.reprotect``."""
        from mudanza.operations import rescuing

        return rescuing.reprotect(self._means, vm, to, pool, self._asked_by, say)

    def fail_over_group(self, name: str, networks: Mapping[str, str], say: Say) -> tuple[Outcome, ...]:
        """Start all VMs of a group at their replicas' hosts; see ``grouping.fail_over_together``."""
        from mudanza.operations import grouping

        with self._means.connections() as connections:
            return grouping.fail_over_together(self._means, connections, name, networks, self._asked_by, say)

    def begin_trial(
        self, vm: str, point: int | None, _say: Say, *, digests: bool, networks: Mapping[str, str], on: str | None
    ) -> Report:
        """Begin a test failover; see ``trying.begin``."""
        from mudanza.operations import trying

        return trying.begin(self._means, vm, point, self._asked_by, digests=digests, networks=networks, on=on)

    def await_agent(self, vm: str, patience: float, over: clock.Event, on: str | None) -> bool:
        """Wait for its double's guest agent; see ``trying.await_agent``."""
        from mudanza.operations import trying

        return trying.await_agent(self._means, vm, patience, over, on)

    def end_trial(self, vm: str, _say: Say, on: str | None) -> Report:
        """End a test failover; see ``trying.end``."""
        from mudanza.operations import trying

        return trying.end(self._means, vm, self._asked_by, on)

    def answers(self, host: str) -> bool:
        """Whether a host answers now; see ``fencing.answers``."""
        return ops.fencing.answers(self._means, host)

    def fences(self) -> tuple[Fenced, ...]:
        """Return what switches which host's power; see ``fencing.listed``."""
        return ops.fencing.listed(self._means)

    def put_fence(self, host: str, device: Device, *, unmatched: bool = False) -> str:
        """Name a fence device; see ``fencing.put``."""
        return ops.fencing.put(self._means, host, device, self._asked_by, unmatched=unmatched)

    def drop_fence(self, host: str, device: str) -> str:
        """Forget one; see ``fencing.drop``."""
        return ops.fencing.drop(self._means, host, device)

    def ask_fences(self, host: str, say: Say) -> tuple[Answer, ...]:
        """Ask a host's devices whether it is on; see ``fencing.ask``."""
        return ops.fencing.ask(self._means, host, say)

    def fence_off(self, host: str, say: Say, *, force: bool) -> Fencing:
        """Switch a host off; see ``fencing.switch_off``."""
        return ops.fencing.switch_off(self._means, host, self._asked_by, say, force=force)

    def confirm_off(self, host: str, say: Say) -> Fencing:
        """Take a person's word that a host is off; see ``fencing.confirm``."""
        return ops.fencing.confirm(self._means, host, self._asked_by, say)

    def keep_up(
        self, vm: str, priority: int, most: int, say: Say, *, after: Sequence[str] = (), care: Care = AS_USUAL
    ) -> None:
        """Have a VM started elsewhere when its host dies; see ``keeping_up.keep_up``."""
        from mudanza.operations import keeping_up

        keeping_up.keep_up(self._means, vm, priority, most, self._asked_by, say, after=after, care=care)

    def let_down(self, vm: str) -> str:
        """Keep a VM up no more; see ``keeping_up.let_down``."""
        from mudanza.operations import keeping_up

        return keeping_up.let_down(self._means, vm)

    def availability(self, say: Say) -> Availability:
        """Take one look at all hosts; see ``keeping_up.look``."""
        from mudanza.operations import keeping_up

        return keeping_up.look(self._means, self._asked_by, say)

    def restarts(self, limit: int) -> tuple[Restarted, ...]:
        """Return what restarts took; see ``keeping_up.restarts``."""
        from mudanza.operations import keeping_up

        return keeping_up.restarts(self._means, limit)

    def add_host(self, entry: HostEntry, *, force: bool) -> str:
        """Add a host; see ``hosts.add``."""
        return ops.hosts.add(self._means, entry, force=force)

    def change_host(self, name: str, changes: Mapping[str, Any]) -> str:
        """Change fields of what was said of a host; return what is to be told. Raises UsageError, BlockedError."""
        return ops.hosts.change(self._means, replace(self._means.inventory.host(name), **changes))

    def remove_host(self, name: str) -> str:
        """Forget a host; see ``hosts.remove``."""
        return ops.hosts.remove(self._means, name)

    def export(self) -> str:
        """Return the cluster as TOML; see ``cluster_file.exported``."""
        from mudanza.operations import cluster_file

        return cluster_file.exported(self._means)

    def take_in(self, text: str) -> tuple[str, ...]:
        """Have the cluster be as a text says; see ``cluster_file.take_in``."""
        from mudanza.operations import cluster_file

        return cluster_file.take_in(self._means, text)

    def tokens(self) -> tuple[Token, ...]:
        """Return all tokens that there are and were."""
        from mudanza.journal.tokens import Tokens

        return Tokens(self._means.database).all()

    def make_token(
        self, name: str, scopes: Collection[Scope], hosts: Collection[str], tags: Collection[str], lasts: float | None
    ) -> str:
        """Make a token, and return what opens; see ``access.make_token``."""
        return ops.access.make_token(self._means, name, scopes, self._asked_by, hosts=hosts, tags=tags, lasts=lasts)

    def revoke_token(self, name: str) -> None:
        """Let a token open nothing any more. Raises UsageError."""
        from mudanza.journal.tokens import Tokens

        Tokens(self._means.database).revoke(name)

    def audit(self, within: float | None) -> tuple[Asked, ...]:
        """Return who asked for what within so many seconds, or ever, the oldest first."""
        from mudanza.journal.audit import Audit

        return Audit(self._means.database).since(within)
