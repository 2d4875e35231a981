"""Plans for recovery: what they say, in which order, whether they are possible, and going on where one stopped."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.database import open_database
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.journal.recovery_plans import RecoveryPlans
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, HostUnreachableError, MigrationFailedError, NeedsPersonError, UsageError
from mudanza.model.hook import Hook
from mudanza.model.host import Host, HostEntry, Network
from mudanza.model.migration import Side, Sighting
from mudanza.model.protection import Protection, Readdressed, Standing
from mudanza.model.recovery import Address, Await, Group, Machine, RecoveryPlan, Wait
from mudanza.model.units import GIB
from mudanza.model.vm import VmState
from mudanza.operations.recovering import Recovering
from mudanza.operations.recovery_file import read_plan
from mudanza.protection import own_addresses
from mudanza.protection.addressing import Back, cards_of
from mudanza.protection.between import answers_tcp
from mudanza.protection.failover import Outcome
from mudanza.protection.lasting import Card
from mudanza.protection.possible import findings_of
from mudanza.protection.recovery import FailingOver, Recovery
from tests.test_protection import VALUES, point

TEXT = """
[[group]]
name = "apps"
after = ["databases"]
vms = ["app"]
wait = [{ time = "10ms" }]

[[group]]
name = "databases"
vms = ["db"]
networks = { lan = "dr-lan" }
wait = [{ tcp = "10.0.0.5:5432", limit = "5m" }, { agent = "db", limit = "2m" }]
"""
DOMAIN = """<domain type='kvm'><name>NAME</name><uuid>u</uuid><memory unit='GiB'>2</memory><os><type>hvm</type></os>
<devices><interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan'/></interface></devices>
</domain>"""


ONE = '[[group]]\nname = "a"\nvms = ["x"]\n[vm.x]\n'


def test_groups_come_in_the_order_of_what_they_come_after() -> None:
    plan = read_plan("site", TEXT)
    assert [group.name for group in plan.groups] == ["databases", "apps"]
    assert plan.vms == ("db", "app")
    assert plan.groups[0].waits == (Wait(Await.TCP, "10.0.0.5:5432", 300.0), Wait(Await.AGENT, "db", 120.0))
    assert plan.groups[1].waits == (Wait(Await.TIME, "", 0.01),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("group = 1", "wrong at group"),
        ("[[group]", "not TOML"),
        ("group = []", "has no group"),
        ('[[group]]\nname = "a"\nvms = []', "without VMs"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nscript = "reboot"', "wrong at group.0.script"),
        ('[[group]]\nname = "a"\nvms = ["x", "x"]', "VM 'x' is in plan 'site' twice"),
        ('[[group]]\nname = "a"\nvms = ["x"]\n[[group]]\nname = "a"\nvms = ["y"]', "group 'a' is in plan 'site' twice"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nafter = ["b"]', "no such group"),
        (
            '[[group]]\nname = "a"\nvms = ["x"]\nafter = ["b"]\n[[group]]\nname = "b"\nvms = ["y"]\nafter = ["a"]',
            "no order",
        ),
        ('[[group]]\nname = "a"\nvms = ["x"]\nwait = [{}]', "just one of"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nwait = [{ tcp = "db" }]', "no address with a port"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nwait = [{ time = "soon" }]', "not a duration"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nbefore = [{ script = "/bin/dns" }]', "no name of a hook"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nbefore = [{ ask = " " }]', "ask is empty"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nwait = [{ ask = "Now?", default = "maybe" }]', "wrong at group.0.wait.0"),
        ('[[group]]\nname = "a"\nvms = ["x"]\nwait = [{ agent = "x", default = "yes" }]', "only a question has a"),
        ('[[group]]\nname = "a"\nvms = ["x"]\n[vm.y]\n', "VM 'y', which is in none of its groups"),
        (f"{ONE}address = [{{ network = 'lan', address = '10.9.0.5' }}]", "no length of its prefix"),
        (f"{ONE}address = [{{ network = 'lan', address = '10.9.0/24' }}]", "is no address"),
        (f"{ONE}address = [{{ network = 'lan', address = '10.9.0.5/24', gateway = 'x' }}]", "'x' is no address"),
        (f"{ONE}dns = ['10.9.0.1']", "name servers and no address"),
    ],
)
def test_what_is_wrong_in_a_plan_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_plan("site", text)


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


@pytest.fixture
def store(engine: Engine) -> Protections:
    made = Protections(engine)
    for name in ("db", "app"):
        protected(made, name)
    return made


def protected(store: Protections, name: str) -> Protection:
    made = store.make({**VALUES, "vm_uuid": f"u-{name}", "vm_name": name})
    whole = replace(point(1, whole=True), taken_at=store.instant(), definition=DOMAIN.replace("NAME", name))
    store.add_point(made.id, whole, "c")
    return made


def h2(**values: Any) -> Host:
    networks = tuple(Network(name, active=True, forward=None, bridge=None) for name in ("lan", "dr-lan"))
    about = {"memory_total": 8 * GIB, "memory_free": 5 * GIB, "networks": networks, **values}
    return Host(HostEntry("h2", "qemu+ssh://root@h2/system"), **about)


ELSEWHERE = """
hosts = ["h1"]

[[group]]
name = "all"
vms = ["db", "app"]
networks = { lan = "dr-lan" }
test_networks = { lan = "lab" }
before = [{ script = "dns", limit = "10s" }, { ask = "Is the storage up?", default = "yes" }]

[vm.db]
networks = { lan = "db-lan" }
address = [{ network = "lan", address = "10.9.0.5/24", gateway = "10.9.0.1" }]
dns = ["10.9.0.53"]
limit = "1m"
"""


def test_what_is_different_about_a_vm_counts_before_its_group() -> None:
    made = read_plan("site", ELSEWHERE)
    [group] = made.groups
    assert (made.networks_of("db", group), made.networks_of("app", group)) == ({"lan": "db-lan"}, {"lan": "dr-lan"})
    assert made.test_networks_of("db", group) == {"lan": "lab"}
    assert group.before == (Wait(Await.SCRIPT, "dns", 10.0), Wait(Await.ASK, "Is the storage up?", 300.0, "yes"))
    assert (made.scripts, made.hosts) == (("dns",), ("h1",))
    addresses = (Address("lan", "10.9.0.5/24", "10.9.0.1"),)
    assert made.machines == {"db": Machine({"lan": "db-lan"}, addresses, ("10.9.0.53",), 60.0)}


def test_other_networks_addresses_and_scripts_are_checked(store: Protections) -> None:
    def found(host: Host, scripts: dict[str, str]) -> set[str]:
        cluster = Cluster((host,), ())
        return {
            f"{each.code}: {each.subject}"
            for each in findings_of(read_plan("site", ELSEWHERE), store.all(), cluster, scripts=scripts)
        }

    assert found(h2(), {}) == {"network-missing: VM db", "no-agent: VM db"}
    assert found(h2(), {"dns": "no such program"}) == found(h2(), {}) | {"script-not-there: script dns"}
    db_lan = Network("db-lan", active=True, forward=None, bridge=None)
    dr_lan = Network("dr-lan", active=True, forward=None, bridge=None)
    assert found(h2(networks=(db_lan, dr_lan)), {}) == {"no-agent: VM db"}


def test_a_card_gets_an_address_if_it_is_clear_which_one() -> None:
    machine = read_plan("site", ELSEWHERE).machines["db"]
    assert cards_of(machine, DOMAIN) == (Card("52:54:00:00:00:01", "10.9.0.5/24", "10.9.0.1", ("10.9.0.53",)),)
    card = "<interface type='network'><mac address='52:54:00:00:00:02'/><source network='lan'/></interface></devices>"
    with pytest.raises(BlockedError, match="2 cards on 'lan'"):
        cards_of(machine, DOMAIN.replace("</devices>", card))
    with pytest.raises(BlockedError, match="0 cards on 'lan'"):
        cards_of(machine, DOMAIN.replace("network='lan'", "network='wan'"))


def codes(store: Protections, host: Host, *, planned: bool = False) -> set[str]:
    found = findings_of(read_plan("site", TEXT), store.all(), Cluster((host,), ()), planned=planned)
    return {f"{each.code}: {each.subject}" for each in found}


def test_a_plan_that_is_possible_has_nothing_against_it(store: Protections) -> None:
    assert codes(store, h2()) == set()


def test_what_stands_against_a_plan_is_all_said(store: Protections) -> None:
    assert codes(store, h2(memory_free=3 * GIB)) == {"memory: host h2"}
    assert codes(store, h2(error="no answer")) == {"host-not-seen: VM db", "host-not-seen: VM app"}
    only_lan = (Network("lan", active=True, forward=None, bridge=None),)
    assert codes(store, h2(networks=only_lan)) == {"network-missing: VM db"}, "it is mapped to another one"
    assert codes(store, h2(), planned=True) == {"not-running: VM db", "not-running: VM app"}
    store.change(store.of("db").id, every=0.000001)
    assert codes(store, h2()) == {"replica-late: VM db"}
    store.remove(store.of("app").id)
    assert codes(store, h2()) == {"replica-late: VM db", "not-protected: VM app"}
    store.change(store.of("db").id, standing=Standing.FAILED_OVER)
    assert codes(store, h2()) == {"not-protected: VM app", "off-there: VM db"}
    assert codes(store, h2(error="no answer")) == {"not-protected: VM app", "host-not-seen: VM db"}
    up = replace(parse_vm(DOMAIN, host="h3", state=VmState.RUNNING), uuid="u-db")
    found = findings_of(read_plan("site", TEXT), store.all(), Cluster((h2(),), (up,)))
    assert [each.code for each in found] == ["not-protected"], "it is up already, wherever it has gone since"


def test_of_several_replicas_a_plan_takes_the_freshest_or_its_own_host_s(store: Protections) -> None:
    first = store.of("db")
    other = store.make({**VALUES, "vm_uuid": first.vm_uuid, "vm_name": "db", "target": "h3", "every": first.every})
    assert codes(store, h2()) == set(), "it has no point yet"
    definition = first.points[-1].definition
    store.add_point(other.id, replace(point(1), taken_at=store.instant(), definition=definition), "c")

    def found(text: str, *hosts: Host) -> set[str]:
        plan = read_plan("site", text)
        return {f"{each.code}: {each.subject}" for each in findings_of(plan, store.all(), Cluster(hosts, ()))}

    there = h2()
    third = replace(there, entry=replace(there.entry, name="h3"))
    assert found(TEXT, there, third) == set()
    assert found(TEXT, there, replace(third, networks=())) == {"network-missing: VM db"}, "h3 has the newest point"
    assert found(TEXT, there, replace(third, error="no route")) == set(), "h2 has one, too"
    wanted = '[vm.db]\nhost = "h3"\n'
    assert found(TEXT + wanted, there, replace(third, error="no route")) == {"host-not-seen: VM db"}
    assert found(TEXT + wanted.replace("h3", "h9"), there, third) == {"no-replica-there: VM db"}


def there(state: VmState = VmState.RUNNING) -> Connections:
    """Hosts that say so of each VM."""
    seen = SimpleNamespace(sighting=lambda _: Sighting(Side.PRESENT, state))
    return cast("Connections", SimpleNamespace(domains=lambda _: seen))


class Runs:
    """Brings VMs up, or not, and remembers which."""

    def __init__(self, store: Protections, fails: str = "") -> None:
        self.store = store
        self.fails = fails
        self.asked: list[str] = []
        self.networks: dict[str, Mapping[str, str]] = {}

    def bring_up(self, protection: Protection, networks: Mapping[str, str]) -> Outcome:
        vm = protection.vm_name
        self.asked.append(vm)
        self.networks[vm] = networks
        if vm == self.fails:
            raise MigrationFailedError(f"{vm} could not be started", remedy="mend that")
        self.store.change(protection.id, standing=Standing.FAILED_OVER)
        return Outcome(vm, protection.target, 1, 7.0, 0.5, "its drive hdc is empty" if vm == "app" else "")


def recovery(
    engine: Engine, runs: Runs, said: Callable[[str], None] = lambda _: None, hooks: Mapping[str, Hook] | None = None
) -> Recovery:
    way = FailingOver(there(), Jobs(engine), runs.store, runs.bring_up, said)
    return Recovery(engine, Jobs(engine), way, hooks or {}, said)


def plan(*groups: Group) -> RecoveryPlan:
    return RecoveryPlan("site", groups or (Group("a", ("db",)), Group("b", ("app",))))


def test_all_come_up_in_their_order_and_it_is_told_how_long_each_took(engine: Engine, store: Protections) -> None:
    runs, said = Runs(store), list[str]()
    done = recovery(engine, runs, said.append).run(plan(), {}, "ana")
    assert runs.asked == ["db", "app"]
    assert [line for line in said if line.startswith("!")] == ["! app: its drive hdc is empty"]
    assert [(each.vm, each.host, each.group, each.lost) for each in done] == [
        ("db", "h2", "a", 7.0),
        ("app", "h2", "b", 7.0),
    ]
    assert 0 <= done[0].up_after <= done[1].up_after
    assert all(each.ran_after is not None and 0 <= each.ran_after <= each.up_after for each in done)
    [job] = Jobs(engine).latest(9)
    assert (job.kind, job.exit_code) == ("recovery", 0)
    assert set(job.report["vms"]) == {"db", "app"}


def test_where_it_stops_it_goes_on_and_passes_over_what_is_up(engine: Engine, store: Protections) -> None:
    runs, jobs = Runs(store, fails="app"), Jobs(engine)
    with pytest.raises(NeedsPersonError, match="has come to a stop: app could not be started") as stopped:
        recovery(engine, runs).run(plan(), {"plan": "x"}, "ana")
    [job] = jobs.unfinished()
    assert f"job resume {job.id}" in stopped.value.remedy
    runs.fails, runs.asked = "", []
    done = recovery(engine, runs).carry_out(jobs.take_over(job.id), plan())
    assert runs.asked == ["app"]
    assert [(each.vm, each.lost) for each in done] == [("db", 7.0), ("app", 7.0)], "this very run has brought it up"
    assert jobs.get(job.id).exit_code == 0


@pytest.mark.parametrize("state", [VmState.SHUTOFF, VmState.CRASHED])
def test_one_that_has_come_up_before_and_is_off_is_no_vm_that_is_up(
    engine: Engine, store: Protections, state: VmState
) -> None:
    store.change(store.of("db").id, standing=Standing.FAILED_OVER)
    runs, started, only_db = Runs(store), list[str](), plan(Group("a", ("db",)))
    alone = FailingOver(there(state), Jobs(engine), store, runs.bring_up, lambda _: None)
    with pytest.raises(NeedsPersonError, match="'db' has come up at h2, and does not run there"):
        Recovery(engine, Jobs(engine), alone, {}, lambda _: None).run(only_db, {}, "ana")

    def start(_handle: JobHandle, protection: Protection, group: str) -> None:
        started.append(f"{protection.vm_name} of {group}")

    way = FailingOver(there(state), Jobs(engine), store, runs.bring_up, lambda _: None, start_again=start)
    [job] = Jobs(engine).unfinished()
    Recovery(engine, Jobs(engine), way, {}, lambda _: None).carry_out(Jobs(engine).take_over(job.id), only_db)
    assert (started, runs.asked) == (["db of a"], [])


def test_one_whose_failover_is_unfinished_does_not_count_as_up(engine: Engine, store: Protections) -> None:
    """Its controller has written down that it is to be there, and died before it was."""
    left = Jobs(engine).begin(NewJob("failover", "u-db", "db", "", "h2", {}, "ana"))
    store.change(store.of("db").id, standing=Standing.FAILED_OVER)
    runs = Runs(store)
    with pytest.raises(NeedsPersonError, match=f"unfinished failover, job {left.id}"):
        recovery(engine, runs).run(plan(Group("a", ("db",)), Group("b", ("app",), after=("a",))), {}, "ana")
    assert runs.asked == []


def test_what_does_not_come_is_where_it_stops(engine: Engine, store: Protections) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        port = nobody.getsockname()[1]
        waiting = plan(Group("a", ("db",), waits=(Wait(Await.TCP, f"127.0.0.1:{port}", 0.0),)), Group("b", ("app",)))
        runs = Runs(store)
        with pytest.raises(NeedsPersonError, match="not so within 0 s: tcp"):
            recovery(engine, runs).run(waiting, {}, "ana")
        assert runs.asked == ["db"], "the next group waits"
        nobody.listen()
        [job] = Jobs(engine).unfinished()
        recovery(engine, runs).carry_out(Jobs(engine).take_over(job.id), waiting)
    assert runs.asked == ["db", "app"]


def test_an_address_that_takes_connections_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert answers_tcp(f"127.0.0.1:{server.getsockname()[1]}")
    assert not answers_tcp("127.0.0.1:0")


def test_plans_are_kept_by_name(engine: Engine) -> None:
    plans = RecoveryPlans(engine)
    plans.keep("site", TEXT, "ana")
    plans.keep("site", TEXT + "\n", "eva")
    [kept] = plans.all()
    assert (kept.name, kept.text, kept.made_by) == ("site", TEXT + "\n", "eva")
    plans.remove("site")
    with pytest.raises(UsageError, match="there is no recovery plan 'site'"):
        plans.get("site")


def test_a_plan_is_brought_in_shown_and_forgotten(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mudanza.cli.main import app

    config, file = tmp_path / "mudanza.toml", tmp_path / "site.toml"
    config.write_text(f'database = "{tmp_path}/mudanza.db"\n')
    file.write_text(TEXT)

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["--config", str(config), *words])

    assert run("recovery", "import", str(file)).exit_code == 0
    assert run("recovery", "show", "site").stdout == TEXT
    assert "databases, apps" in run("recovery", "show").stdout
    assert "one of --source-is-dead, --planned and --resume" in str(run("failover", "plan", "site").exception)
    assert run("recovery", "remove", "site").exit_code == 0
    assert "there is no recovery plan" in str(run("failover", "plan", "check", "site").exception)


@pytest.mark.parametrize("answers", [True, False])
def test_a_plan_that_brings_one_home_has_its_own_addresses_taken_back_and_keeps_nobody_waiting(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Where its guest's agent does not answer, that is told, and the others come up."""

    def take_back(*_: Any) -> Back:
        if answers:
            return Back.DONE
        raise MigrationFailedError("its agent does not answer")

    monkeypatch.setattr(own_addresses, "take_back", take_back)
    runs, said, given = Runs(store), list[str](), Readdressed("h1", ("52:54:00:00:00:01",), 30.0)
    store.readdressed(store.of("db").id, given)
    way = FailingOver(there(), Jobs(engine), store, runs.bring_up, said.append)
    done = Recovery(engine, Jobs(engine), way, {}, said.append).run(plan(), {}, "ana")
    assert [each.vm for each in done] == ["db", "app"]
    [job] = Jobs(engine).latest(9)
    [step] = Jobs(engine).get(job.id).steps_named("own addresses")
    assert step.outcome == {"done": answers}
    assert any(each.startswith("! db has the addresses still that it was given at h1") for each in said) is not answers
    assert ("db has its own addresses again" in said) is answers
    assert store.of("db").readdressed == (None if answers else replace(given, owed_at="h2"))


def test_of_two_replicas_it_is_that_whose_host_is_reached(engine: Engine, store: Protections) -> None:
    """A host that is lost is not reached at all, and keeps the VM from nothing that another one can do."""
    first, reached = store.of("db"), SimpleNamespace(sighting=lambda _: Sighting(Side.ABSENT))
    other = store.make({**VALUES, "vm_uuid": first.vm_uuid, "vm_name": "db", "target": "h3"})
    store.add_point(other.id, replace(point(1, whole=True), taken_at=store.instant()), "c")

    def domains(host: str) -> object:
        if host == "h3":
            raise HostUnreachableError(host, "no route")
        return reached

    runs = Runs(store)
    way = FailingOver(
        cast("Connections", SimpleNamespace(domains=domains)), Jobs(engine), store, runs.bring_up, lambda _: None
    )
    done = Recovery(engine, Jobs(engine), way, {}, lambda _: None).run(plan(Group("a", ("db",))), {}, "ana")
    assert [(each.vm, each.host) for each in done] == [("db", "h2")]


@pytest.mark.parametrize("groups", [(Group("a", ("db", "app")),), (Group("a", ("db",)), Group("b", ("app",)))])
def test_a_plan_that_is_cancelled_begins_nothing_more_and_leaves_what_is_up(
    engine: Engine, store: Protections, groups: tuple[Group, ...]
) -> None:
    runs = Runs(store)

    def bring_up(protection: Protection, networks: Mapping[str, str]) -> Outcome:
        [begun] = Jobs(engine).unfinished()
        Jobs(engine).ask_to_cancel(begun.id, "bea")
        return runs.bring_up(protection, networks)

    way = FailingOver(there(), Jobs(engine), store, bring_up, lambda _: None)
    one_by_one = replace(plan(*groups), at_once=1)
    with pytest.raises(MigrationFailedError, match="plan 'site' was given up: cancelled on request of bea"):
        Recovery(engine, Jobs(engine), way, {}, lambda _: None).run(one_by_one, {}, "ana")
    assert runs.asked == ["db"]
    assert store.of("db").standing is Standing.FAILED_OVER
    [ended] = Jobs(engine).latest(9)
    assert (ended.state, ended.exit_code) == ("failed", MigrationFailedError.exit_code)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_begins_nothing_more_waits_for_what_is_under_way_and_it_can_be_gone_on_with(
    engine: Engine, store: Protections
) -> None:
    runs, waiting, said = Runs(store), threading.Event(), list[str]()

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    def bring_up(protection: Protection, networks: Mapping[str, str]) -> Outcome:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert waiting.wait(60)
        return runs.bring_up(protection, networks)

    one_by_one = replace(plan(Group("a", ("db", "app"))), at_once=1)
    way = FailingOver(there(), Jobs(engine), store, bring_up, lambda _: None)
    with pytest.raises(NeedsPersonError, match="plan 'site' was interrupted; nothing more is begun") as stopped:
        Recovery(engine, Jobs(engine), way, {}, say).run(one_by_one, {}, "ana")
    assert said == ["waiting for db; Ctrl-C again: left to whoever goes on with the job"]
    assert runs.asked == ["db"]
    [job] = Jobs(engine).unfinished()
    assert job.left_to_person
    assert f"go on: mudanza job resume {job.id}" in stopped.value.remedy
    recovery(engine, runs).carry_out(Jobs(engine).take_over(job.id), one_by_one)
    assert runs.asked == ["db", "app"]


def test_a_plan_that_has_come_to_a_stop_is_given_up_when_it_is_cancelled(database: str) -> None:
    """It is not gone on with: VMs that have gone off meanwhile are not brought up."""
    engine = open_database(database)
    jobs = Jobs(engine)
    asked = {"plan": "[[group]]\nname = 'a'\nvms = ['db']\n", "planned": False}
    begun = jobs.begin(NewJob("recovery", "recovery plan site", "site", "", "", asked, "ana"))
    begun.let_go("needs a person")
    jobs.ask_to_cancel(begun.id, "bea")
    means = cast("Any", SimpleNamespace(database=engine, jobs=jobs))
    recovering = Recovering(means, cast("Any", None), lambda _: None, "ana")
    with pytest.raises(MigrationFailedError, match="given up"):
        recovering.resume(begun.id, threading.Event())
    ended = jobs.get(begun.id)
    assert (ended.state, ended.exit_code) == ("failed", MigrationFailedError.exit_code)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zzz = 1\n[[group]]\nname = 'a'\nvms = ['db']", "at zzz: there is no such setting"),
        ("[[group]]\nname = 'a'\nvms = ['db']\nfoo = 1", r"at group\.0\.foo: there is no such setting"),
        ("[[group]]\nvms = ['db']", r"at group\.0\.name: it has to be said"),
        ("", "at group: it has to be said"),
        ("[[group]]\nname = 'a'\nvms = ['db']\nwait = [{ tcp = 'h:99999' }]", "no address with a port"),
        ("[[group]]\nname = 'a'\nvms = ['db']\nwait = [{ tcp = 'h:0' }]", "no address with a port"),
    ],
)
def test_what_is_wrong_in_a_plan_is_said_in_words(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_plan("site", text)
