"""Whether a host is proven off: what is ordered in which order, what counts as a proof, and how long it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from mudanza.availability.fence_agents import Agents, lines_for, read_description, refuse_wrong
from mudanza.availability.fencer import Fencer
from mudanza.availability.fencing import Command, Verdict, due_for_test, next_step
from mudanza.availability.probing import Prober
from mudanza.cli.availability_settings import FencingSettings
from mudanza.journal.backup import back_up, restore
from mudanza.journal.database import open_database, reading
from mudanza.journal.fences import Fences, fences_of_one
from mudanza.journal.schema import happening
from mudanza.journal.sightings import Sightings
from mudanza.model.errors import BlockedError, NeedsPersonError, UsageError
from mudanza.model.fencing import By, Device, DeviceTest, Order, Reply
from mudanza.model.host import Host
from tests import factories as make
from tests.fence_agent import AGENT, FakeAgent
from tests.program import Program

BMC = Device("bmc", "fence_ipmilan")
PSU_1 = Device("psu-1", "fence_apc", 2)
PSU_2 = Device("psu-2", "fence_apc", 2)
DEVICES = (BMC, PSU_1, PSU_2)


def run_through(devices: Sequence[Device], answer: Callable[[Command], int | None]) -> tuple[list[str], Verdict]:
    """Follow the decision to its end; return what was ordered."""
    replies: list[Reply] = []
    while isinstance(step := next_step(devices, replies), Command):
        replies.append(Reply(step.device.name, step.order, answer(step)))
    return [f"{reply.order} {reply.device}" for reply in replies], step


def well(step: Command) -> int:
    return 0 if step.order is Order.OFF else 2


def test_one_device_is_switched_off_and_then_asked() -> None:
    ordered, verdict = run_through([BMC], well)
    assert ordered == ["off bmc", "status bmc"]
    assert verdict == Verdict(True, "switched off and then found off: bmc (fence_ipmilan)")


def test_of_two_power_supplies_both_are_off_before_either_is_asked() -> None:
    ordered, verdict = run_through([PSU_1, PSU_2], well)
    assert ordered == ["off psu-1", "off psu-2", "status psu-1", "status psu-2"]
    assert verdict.proven


def test_the_next_level_is_tried_where_one_proves_nothing() -> None:
    ordered, verdict = run_through(DEVICES, lambda step: None if step.device is BMC else well(step))
    assert ordered == ["off bmc", "off psu-1", "off psu-2", "status psu-1", "status psu-2"]
    assert verdict.proven
    _, verdict = run_through(DEVICES, lambda step: 1)
    assert verdict == Verdict(
        False, "level 1: off of bmc (fence_ipmilan) failed (exit 1); level 2: off of psu-1 (fence_apc) failed (exit 1)"
    )


@pytest.mark.parametrize(
    ("off", "status", "why"),
    [
        (0, 0, "was switched off and says that it is on"),
        (0, 1, "status of bmc (fence_ipmilan) failed (exit 1)"),
        (0, None, "gave no answer in time"),
        (0, 3, "failed (exit 3)"),
        (1, 2, "off of bmc (fence_ipmilan) failed (exit 1)"),
        (2, 2, "off of bmc (fence_ipmilan) failed (exit 2)"),
        (None, 2, "gave no answer in time"),
    ],
)
def test_anything_else_is_not_fenced(off: int | None, status: int | None, why: str) -> None:
    _, verdict = run_through([BMC], lambda step: off if step.order is Order.OFF else status)
    assert not verdict.proven
    assert why in verdict.said


def test_without_a_device_nothing_is_proven() -> None:
    assert next_step([], []) == Verdict(False, "it has no device that could switch it off")


codes = st.sampled_from([0, 1, 2, 3, None])


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=5),
    st.dictionaries(st.tuples(st.integers(0, 4), st.sampled_from(Order)), codes),
)
def test_proven_is_only_what_a_whole_level_has_proven(
    levels: list[int], answers: dict[tuple[int, Order], int | None]
) -> None:
    devices = [Device(str(number), "fence_x", level) for number, level in enumerate(levels)]
    asked: dict[tuple[str, Order], int | None] = {}

    def answer(step: Command) -> int | None:
        assert (step.device.name, step.order) not in asked, "asked twice"
        code = answers.get((int(step.device.name), step.order), well(step))
        asked[step.device.name, step.order] = code
        return code

    ordered, verdict = run_through(devices, answer)
    off = [
        level
        for level in {*levels}
        if all(
            asked.get((each.name, Order.OFF), 9) == 0 and asked.get((each.name, Order.STATUS), 9) == 2
            for each in devices
            if each.level == level
        )
    ]
    assert verdict.proven == bool(off)
    for device in devices:  # nobody is asked before all of its level were switched off
        if f"status {device.name}" in ordered:
            offs = [ordered.index(f"off {each.name}") for each in devices if each.level == device.level]
            assert max(offs) < ordered.index(f"status {device.name}")


KNOWN = read_description(
    "fence_x",
    "noise<resource-agent><parameters><parameter name='action'/><parameter name='ip'/><parameter name='password'/>"
    "<parameter name='password_script'/></parameters><actions><action name='off'/><action name='status'/></actions>"
    "</resource-agent>noise",
)


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        (Device("bmc", "fence_x", options={"ip": "a\naction=off"}), "more than one line"),
        (Device("bmc", "fence_x", options={"ip": "a\raction=off"}), "more than one line"),
        (Device("bmc", "fence_x", options={"ip": "a\0"}), "more than one line"),
        (Device("bmc", "fence_x", options={"ip\naction": "off"}), "more than one line"),
        (Device("bmc", "fence_x", options={"action": "on"}), "may not say 'action'"),
        (Device("bmc", "fence_x", secrets={"action": "file"}), "may not say 'action'"),
        (Device("bmc", "fence_x", options={"ipaddress": "h1"}), "knows no 'ipaddress'"),
        (Device("bmc", "fence_x", options={"password": "x"}), "is a secret"),
        (Device("bmc", "fence_x", options={"ip": "a"}, secrets={"ip": "b"}), "twice"),
        (Device("bmc", "fence_x", secrets={"password": "../shadow"}), "no name of a file"),
        (Device("bmc", "fence_x", secrets={"password": "/etc/shadow"}), "no name of a file"),
        (Device("b/mc", "fence_x"), "cannot be called that"),
        (Device("bmc", "fence_x", 0), "levels count from 1"),
    ],
)
def test_what_would_be_misunderstood_is_refused(device: Device, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        refuse_wrong(device, KNOWN)


def test_what_is_understood_is_taken() -> None:
    refuse_wrong(
        Device("psu-1.a", "fence_x", 2, {"ip": "h1=x", "password_script": "/a"}, {"password": "h1.bmc"}), KNOWN
    )
    assert lines_for(Order.STATUS, {"ip": "h1=x"}) == b"action=status\nip=h1=x\n"
    with pytest.raises(UsageError):
        lines_for(Order.STATUS, {"ip": "x\naction=off"})


def test_an_agent_that_cannot_switch_off_is_refused() -> None:
    text = "<resource-agent><parameters/><actions><action name='status'/></actions></resource-agent>"
    with pytest.raises(UsageError, match="cannot do 'off'"):
        refuse_wrong(Device("a", "fence_x"), read_description("fence_x", text))
    with pytest.raises(UsageError, match="not understood"):
        read_description("fence_x", "Traceback")


@pytest.fixture
def agent(tmp_path: Path) -> FakeAgent:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "bmc").write_text("opensesame\n")
    return FakeAgent.at(tmp_path / "agents")


@pytest.fixture
def agents(agent: FakeAgent, tmp_path: Path) -> Agents:
    limits = FencingSettings(agents=(str(agent.place),), secrets=str(tmp_path / "secrets"))
    return Agents(limits)


def device(plug: str, level: int = 1) -> Device:
    return Device(plug, AGENT, level, {"plug": plug}, {"password": "bmc"})


def test_options_and_secrets_go_in_as_lines_and_nothing_as_arguments(agents: Agents, agent: FakeAgent) -> None:
    agent.will("a", status=2)
    assert agents.tell(device("a"), Order.STATUS) == Reply("a", Order.STATUS, 2)
    assert agent.told == ["arguments: ", "action=status", "plug=a", "password=opensesame"]


def test_no_secret_is_in_what_is_told_of_it(agents: Agents, agent: FakeAgent) -> None:
    (agent.place / "says").touch()
    assert agents.tell(device("a"), Order.STATUS).said == "it was told *****"


def test_one_that_hangs_is_ended(agent: FakeAgent, tmp_path: Path) -> None:
    agent.hang("a", "off")
    limits = FencingSettings(agents=(str(agent.place),), secrets=str(tmp_path / "secrets"), off=0.3)
    assert Agents(limits).tell(device("a"), Order.OFF).code is None


@pytest.mark.parametrize("name", ["sh", "../agents/fence_test", "/bin/sh", "fence_none", "fence_test\n"])
def test_no_other_program_is_run(agents: Agents, name: str) -> None:
    with pytest.raises(UsageError, match="fence agent"):
        agents.check(Device("a", name))


@pytest.mark.parametrize("text", ["", "two\nlines", "a\0"])
def test_a_secret_is_one_line(agents: Agents, tmp_path: Path, text: str) -> None:
    (tmp_path / "secrets" / "bmc").write_text(text)
    with pytest.raises(UsageError, match="one line"):
        agents.check(device("a"))
    (tmp_path / "secrets" / "bmc").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        agents.check(device("a"))


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


@pytest.fixture
def fences(engine: Engine) -> Fences:
    return Fences(engine)


def fencer(engine: Engine, agents: Agents, *, alive: Sequence[str] = ()) -> Fencer:
    return Fencer(engine, agents, lambda host: host in alive, lambda _: None)


def test_devices_are_kept_as_they_were_named(fences: Fences) -> None:
    wanted = (device("b"), device("a", 2))
    assert fences.put("h1", reversed(wanted))
    assert fences.of("h1") == wanted
    assert not fences.put("h1", wanted)
    assert fences.devices() == {"h1": wanted}
    with pytest.raises(UsageError, match="one name"):
        fences.put("h1", [device("a"), device("a", 2)])


def test_a_host_is_proven_off_and_it_is_written_down_by_what(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent
) -> None:
    fences.put("h1", [device("a"), device("b")])
    agent.will("a")
    agent.will("b")
    proof = fencer(engine, agents).off("h1", "ana@desk")
    assert agent.actions == [("off", "a"), ("off", "b"), ("status", "a"), ("status", "b")]
    assert (proof.by, proof.asked_by, proof.holds) == (By.DEVICES, "ana@desk", True)
    assert "a (fence_test), b (fence_test)" in proof.said
    assert fences.proofs() == {"h1": proof}
    fences_of_one(engine, "h1").take()  # nobody has to wait for it


def test_what_is_not_proven_is_no_proof(engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent) -> None:
    fences.put("h1", [device("a")])
    agent.will("a", status=0)
    with pytest.raises(NeedsPersonError, match="says that it is on"):
        fencer(engine, agents).off("h1", "ana")
    assert fences.proof_of("h1") is None
    assert not fences.last()["h1"].proven


def test_one_that_lies_is_found_out_where_the_host_answers(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent
) -> None:
    fences.put("h1", [device("a")])
    agent.will("a")
    with pytest.raises(NeedsPersonError, match="yet h1 answers"):
        fencer(engine, agents, alive=["h1"]).off("h1", "ana")
    assert fences.proof_of("h1") is None


def test_while_another_controller_fences_it_nothing_is_ordered(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent
) -> None:
    fences.put("h1", [device("a")])
    fences_of_one(engine, "h1").take()
    with pytest.raises(BlockedError, match="being fenced"):
        fencer(engine, agents).off("h1", "ana")
    assert agent.actions == []


def test_a_device_that_cannot_be_spoken_to_stops_it_before_anything_is_ordered(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent, tmp_path: Path
) -> None:
    fences.put("h1", [device("a")])
    (tmp_path / "secrets" / "bmc").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        fencer(engine, agents).off("h1", "ana")
    assert agent.actions == []
    assert fences.last() == {}


def test_a_persons_word_counts_unless_the_host_answers(engine: Engine, fences: Fences, agents: Agents) -> None:
    with pytest.raises(BlockedError, match="it answers"):
        fencer(engine, agents, alive=["h1"]).confirm("h1", "ana")
    assert fences.proof_of("h1") is None
    proof = fencer(engine, agents).confirm("h1", "ana@desk")
    assert (proof.by, proof.said, fences.proof_of("h1")) == (By.PERSON, "ana@desk has said so", proof)


def test_a_proof_ends_when_anybody_sees_the_host_alive(engine: Engine, fences: Fences, agents: Agents) -> None:
    for host in ("h1", "h2"):
        fencer(engine, agents).confirm(host, "ana")
    gone = Host(make.entry("h1"), error="timed out")
    Sightings(engine).keep(make.cluster([gone, make.host("h2")]))
    assert set(fences.proofs()) == {"h1"}
    Sightings(engine).keep(make.cluster([make.host("h1")]))
    assert fences.proofs() == {}
    last = fences.last()["h1"]
    assert (last.proven, last.holds, last.void_because) == (True, False, "the host was seen alive")


def test_an_order_whose_controller_died_proves_nothing(engine: Engine, fences: Fences) -> None:
    number = fences.begin("h1", By.DEVICES, "ana")
    fences.note(number, "off is ordered of a", fences_of_one(engine, "h1").take())
    assert fences.proof_of("h1") is None
    assert fences.last()["h1"].said == "off is ordered of a"


def test_a_restored_journal_proves_no_host_off(engine: Engine, agents: Agents, tmp_path: Path) -> None:
    fencer(engine, agents).confirm("h1", "ana")
    back_up(engine, tmp_path / "backup.db")
    other = open_database(str(tmp_path / "other.db"))
    restore(other, tmp_path / "backup.db")
    assert Fences(other).proofs() == {}
    assert Fences(other).last()["h1"].void_because == "the journal was restored from a backup since"


HOSTS = """
[hosts.h1]
uri = "qemu+tls://h1/system"
[hosts.h2]
uri = "qemu+tls://h2/system"
"""


@pytest.fixture
def ready(mudanza: Program, agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The command, where no host answers and there is an agent."""
    with mudanza.config.open("a") as config:
        config.write(f'[fencing]\nagents = ["{agent.place}"]\nsecrets = "{tmp_path / "secrets"}"\n')
    mudanza("import", "-", stdin=HOSTS)
    monkeypatch.setattr("mudanza.operations.fencing.answers", lambda _means, _host: False)
    return mudanza


BMC_WORDS = ("--agent", AGENT, "--option", "plug=a", "--secret", "password=bmc", "--unmatched")


def test_devices_are_named_tested_and_used(ready: Program, agent: FakeAgent) -> None:
    assert ready("fence", "set", "h1", "bmc", *BMC_WORDS).returncode == 0
    assert agent.actions == []
    agent.will("a", status=0)
    done = ready("fence", "test", "h1", "-o", "json")
    assert (done.returncode, '"power": "on"' in done.stdout) == (0, True)
    agent.will("a", status=1)
    assert ready("fence", "test", "h1").returncode == 3
    assert {action for action, _ in agent.actions} == {"status"}

    agent.will("a")
    assert ready("fence", "off", "h1").returncode == 2  # nobody to be asked
    done = ready("fence", "off", "h1", "--yes")
    assert done.returncode == 0, done.stderr
    assert "h1 is proven off: switched off and then found off: bmc (fence_test)" in done.stderr
    shown = ready("fence", "show").stdout
    assert "password from bmc" in shown
    assert "opensesame" not in shown
    assert "fence off h1 --yes" in ready("audit").stdout


def test_a_host_that_answers_is_not_switched_off_unasked(
    ready: Program, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    monkeypatch.setattr("mudanza.operations.fencing.answers", lambda _means, _host: True)
    assert ready("fence", "off", "h1", "--yes").returncode == 3
    assert ready("fence", "confirm", "h1", "--yes").returncode == 3
    assert agent.actions == []


def test_a_host_without_a_device_takes_a_persons_word(ready: Program) -> None:
    done = ready("fence", "off", "h2", "--yes")
    assert (done.returncode, "fence confirm h2" in done.stderr) == (2, True)
    assert ready("fence", "confirm", "h2", "--yes").returncode == 0
    assert ready("fence", "confirm", "h9", "--yes").returncode == 2


def test_devices_go_round_by_export_and_import(ready: Program, agent: FakeAgent) -> None:
    ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    ready("fence", "set", "h1", "pdu", "--agent", AGENT, "--level", "2", "--option", "plug=b", "--unmatched")
    exported = ready("export").stdout
    assert "[hosts.h1.fence.bmc]" in exported
    assert "h2.fence" not in exported
    assert "nothing to change" in ready("import", "-", stdin=exported).stderr
    ready("fence", "unset", "h1", "bmc")
    assert "[hosts.h1.fence.bmc]" not in ready("export").stdout
    assert "fence devices changed: h1" in ready("import", "-", stdin=exported).stderr
    assert ready("export").stdout == exported
    ready("import", "-", stdin=HOSTS)  # which says nothing of them
    assert ready("export").stdout == exported
    wrong = exported.replace("plug = ", "plugg = ")
    assert ready("import", "-", stdin=wrong).returncode == 2
    assert ready("host", "remove", "h1").returncode == 0
    assert "fence" not in ready("export").stdout


# DeviceTest from time to time.


def settled(prober: Prober, fences: Fences, alive: Sequence[str] = ("h1",)) -> dict[str, str]:
    """Have the devices asked whose time has come; return what is the matter with each."""
    prober.turn(alive)
    if prober.under_way is not None:
        prober.under_way.wait(20.0)
    return {each.device: each.fault for each in fences.tests()}


def happened(engine: Engine) -> list[tuple[str, str]]:
    with reading(engine) as connection:
        return [(row.kind, row.said) for row in connection.execute(select(happening).order_by(happening.c.id))]


def test_one_that_answers_no_more_is_told_of_once_and_when_it_answers_again(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent
) -> None:
    fences.put("h1", [device("a"), device("b")])
    said: list[str] = []
    prober = Prober(fences, fencer(engine, agents, alive=["h1"]), 0.001, said.append)
    agent.will("a", status=0)
    agent.will("b", status=0)
    assert settled(prober, fences) == {"a": "", "b": ""}
    assert happened(engine) == []
    agent.will("a", status=1)
    for _ in range(2):
        assert settled(prober, fences)["a"].startswith("does not say whether the power is on")
    agent.will("a", status=2)
    assert "it switches another machine" in settled(prober, fences)["a"]
    agent.will("a", status=0)
    assert settled(prober, fences) == {"a": "", "b": ""}
    kinds = [kind for kind, _ in happened(engine)]
    assert kinds == ["fence.silent", "fence.back"]
    assert [line.lstrip("! ")[:18] for line in said] == ["a (fence_test) of "] * 2
    assert {action for action, _ in agent.actions} == {"status"}, "nothing is switched"


def test_a_host_that_has_died_meanwhile_is_rightly_off(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent
) -> None:
    fences.put("h1", [device("a")])
    agent.will("a", status=2)
    assert settled(Prober(fences, fencer(engine, agents), 60.0, print), fences) == {"a": ""}


def test_one_that_cannot_be_asked_is_told_of(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent, tmp_path: Path
) -> None:
    fences.put("h1", [device("a")])
    (tmp_path / "secrets" / "bmc").unlink()
    found = settled(Prober(fences, fencer(engine, agents, alive=["h1"]), 60.0, print), fences)
    assert "cannot be read" in found["a"]
    assert [kind for kind, _ in happened(engine)] == ["fence.silent"]
    fences.put("h1", [device("b")])
    assert fences.tests() == (), "of another device nothing is known"


def test_whose_time_has_come_is_asked() -> None:
    devices = {"h1": [BMC], "h2": [PSU_1, PSU_2], "h3": [BMC]}
    tests = [
        DeviceTest("h1", "bmc", 0.0, 10.0, ""),
        DeviceTest("h2", "psu-1", 0.0, 10.0, ""),
        DeviceTest("h2", "psu-2", 0.0, 70.0, ""),
    ]
    assert due_for_test(devices, tests, ["h1", "h2"], 60.0) == ["h2"]
    assert due_for_test(devices, tests, ["h1", "h2", "h3"], 5.0) == ["h1", "h2", "h3"]
    assert due_for_test(devices, tests, [], 5.0) == []
    assert due_for_test(devices, [DeviceTest("h1", "bmc", 0.0, -9.0, "")], ["h1"], 60.0) == ["h1"], (
        "a clock was set back"
    )


def test_where_it_is_not_wanted_nobody_is_asked(engine: Engine, fences: Fences, agents: Agents) -> None:
    fences.put("h1", [device("a")])
    assert settled(Prober(fences, fencer(engine, agents), 0.0, print), fences) == {}
