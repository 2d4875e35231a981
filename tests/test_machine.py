"""Is the machine behind a device the host? By UUID in any order of its bytes, or by serial number."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from mudanza.availability.behind import as_redfish, ipmi_words, machine_behind
from mudanza.availability.fence_agents import Agents, Description, refuse_wrong
from mudanza.availability.fencer import Fencer
from mudanza.cli.availability_settings import FencingSettings
from mudanza.hypervisor.reading.machine import machine_of
from mudanza.journal.database import open_database
from mudanza.journal.fences import WAKE, Fences
from mudanza.model.errors import NeedsPersonError, UsageError
from mudanza.model.fencing import Device
from mudanza.model.machine import Comparison, Machine, Verdict, compare, machine
from tests.fence_agent import AGENT, FakeAgent
from tests.program import Program
from tests.test_fencing import BMC_WORDS, agent, agents, device, engine, fences, ready

__all__ = ["agent", "agents", "engine", "fences", "ready"]

H1 = UUID("4c4c4544-0051-3510-8052-b4c04f4d3132")
H2 = UUID("4c4c4544-0051-3510-8052-b4c04f4d3133")


def of(*uuids: UUID | str, serials: tuple[str, ...] = ()) -> Machine:
    return machine(map(str, uuids), serials)


def smbios(uuid: UUID) -> str:
    """The bytes as SMBIOS writes them, told one after the other."""
    return str(UUID(bytes=uuid.bytes_le))


def ipmi(uuid: UUID) -> str:
    """The bytes as IPMI sends them, told one after the other."""
    return str(UUID(bytes=uuid.bytes[::-1]))


def both(uuid: UUID) -> str:
    """What SMBIOS has, sent as IPMI sends a UUID."""
    return str(UUID(bytes=uuid.bytes_le[::-1]))


@pytest.mark.parametrize("told", [str, smbios, ipmi, both, lambda uuid: str(uuid).upper(), lambda uuid: uuid.hex])
def test_a_uuid_is_known_in_any_order_of_its_bytes(told: object) -> None:
    assert callable(told)
    assert compare(of(H1), of(told(H1))).verdict is Verdict.SAME
    assert compare(of(told(H1)), of(H1)).verdict is Verdict.SAME
    assert compare(of(H2), of(told(H1))).verdict is Verdict.OTHER


def test_that_the_bytes_were_turned_round_is_said() -> None:
    assert compare(of(H1), of(H1)).said == f"UUID {H1}"
    assert compare(of(H1), of(smbios(H1))).said == f"UUID {H1} (its bytes in another order)"


orders = st.sampled_from([str, smbios, ipmi, both])


@given(st.uuids(), st.uuids(), orders, orders)
def test_two_machines_are_not_taken_for_one(one: UUID, other: UUID, first: object, second: object) -> None:
    assert callable(first)
    assert callable(second)
    here, there = of(first(one)), of(second(other))
    if not here or not there:
        assert compare(here, there).verdict is Verdict.UNKNOWN
    elif one == other:
        assert compare(here, there).verdict is Verdict.SAME
    elif sorted(one.bytes) != sorted(other.bytes):
        assert compare(here, there).verdict is Verdict.OTHER


def test_a_serial_number_tells_where_a_uuid_does_not() -> None:
    assert compare(of(H1, serials=("S1",)), of(H2, serials=("s1 ",))).verdict is Verdict.SAME, "BMCs make UUIDs up"
    assert compare(of(serials=("S1",)), of(serials=("S2",))).verdict is Verdict.OTHER
    assert compare(of(H1, serials=("S1",)), of(serials=("S2",))).verdict is Verdict.OTHER
    assert compare(of(H1), of(serials=("S1",))).verdict is Verdict.UNKNOWN
    assert compare(of(H1), of()).verdict is Verdict.UNKNOWN
    assert compare(of(), of(H1)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "said",
    ["", " ", "None", "To Be Filled By O.E.M.", "Default string", "0123456789", "0000000000", "Not Specified", "....."],
)
def test_what_many_machines_say_tells_nothing(said: str) -> None:
    assert not of(serials=(said,))


@pytest.mark.parametrize(
    "said",
    ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "no", "", None,
     "03000200-0400-0500-0006-000700080009"],
)  # fmt: skip
def test_a_uuid_of_nobody_is_none(said: str | None) -> None:
    assert not machine([said], [])


SYSINFO = f"""
<sysinfo type='smbios'>
  <bios><entry name='vendor'>X</entry></bios>
  <system><entry name='manufacturer'>Dell Inc.</entry><entry name='serial'>S123456</entry>
    <entry name='uuid'>{H1}</entry></system>
  <baseBoard><entry name='serial'>Default string</entry></baseBoard>
  <chassis><entry name='serial'>C9</entry></chassis>
</sysinfo>
"""


def test_a_host_is_known_by_what_libvirt_and_its_firmware_say() -> None:
    capabilities = f"<capabilities><host><uuid>{H2}</uuid></host></capabilities>"
    assert machine_of(capabilities, SYSINFO, "h1") == of(H1, H2, serials=("S123456", "C9"))
    assert machine_of(capabilities, "", "h1") == of(H2)


# What is asked of devices.


def test_an_agent_that_can_tell_is_asked(agents: Agents, agent: FakeAgent) -> None:
    assert machine_behind(agents, device("a")).why_not == "fence_test cannot tell which machine it switches"
    agent.identify(f"uuid={H1}", "serial=S1", "something=else", "noise")
    assert machine_behind(agents, device("a")).machine == of(H1, serials=("S1",))
    assert agent.actions == [("identify", "a")]


def test_one_that_fails_tells_nothing(agents: Agents, agent: FakeAgent) -> None:
    agent.identify("x")
    (agent.place / "identify").chmod(0)
    (agent.place / "identify").unlink()
    (agent.place / "identify").mkdir()
    assert not machine_behind(agents, device("a")).machine


IPMITOOL = """#!/bin/sh
echo "$IPMI_PASSWORD $*" >>"$(dirname "$0")/asked"
case "$*" in
    *guid) echo "System GUID  : {guid}"; echo "GUID Encoding : SMBIOS" ;;
    *fru*) echo " Product Serial        : {serial}"; echo " Chassis Serial        : Default string" ;;
esac
"""


@pytest.fixture
def bmc(tmp_path: Path) -> Agents:
    """Agents with a fence_ipmilan, and an ipmitool beside it."""
    place = tmp_path / "ipmi"
    place.mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "bmc").write_text("opensesame\n")
    agent = place / "fence_ipmilan"
    agent.write_text(
        '#!/bin/sh\necho \'<resource-agent><parameters><parameter name="ip"/><parameter name="password"/>'
        '<parameter name="username"/><parameter name="lanplus"/></parameters><actions><action name="off"/>'
        '<action name="status"/></actions></resource-agent>\'\n'
    )
    tool = place / "ipmitool"
    tool.write_text(IPMITOOL.format(guid=smbios(H1), serial="S9"))
    for each in (agent, tool):
        each.chmod(0o755)
    return Agents(FencingSettings(agents=(str(place),), secrets=str(tmp_path / "secrets")))


def test_a_bmc_is_asked_by_ipmitool_and_its_password_is_no_argument(bmc: Agents, tmp_path: Path) -> None:
    told = Device("bmc", "fence_ipmilan", 1, {"ip": "10.0.0.9", "username": "ana", "lanplus": "1"}, {"password": "bmc"})
    found = machine_behind(bmc, told)
    assert compare(of(H1), found.machine).verdict is Verdict.SAME
    assert found.machine.serials == {"S9"}
    asked = (tmp_path / "ipmi" / "asked").read_text().splitlines()
    words = "opensesame -I lanplus -E -H 10.0.0.9 -U ana"
    assert asked == [f"{words} mc guid", f"{words} fru print 0"]
    assert "no" in machine_behind(bmc, Device("bmc", "fence_ipmilan", 1, {"ip": "h"})).why_not
    (tmp_path / "ipmi" / "ipmitool").write_text("#!/bin/sh\necho no route; exit 1\n")
    assert "no route" in machine_behind(bmc, told).why_not


def test_a_bmc_that_nobody_can_log_in_to_is_asked_once(bmc: Agents, tmp_path: Path) -> None:
    told = Device("bmc", "fence_ipmilan", 1, {"ip": "10.0.0.9"}, {"password": "bmc"})
    tool, asked = tmp_path / "ipmi" / "ipmitool", tmp_path / "ipmi" / "asked"
    refused = "Error: Unable to establish IPMI v2 / RMCP+ session"
    tool.write_text(f"#!/bin/sh\necho asked >>{asked}\necho '{refused}' >&2\nexit 1\n")
    assert refused in machine_behind(bmc, told).why_not
    assert asked.read_text() == "asked\n"


def test_a_key_of_the_bmcs_own_is_a_secret_and_no_argument(bmc: Agents) -> None:
    key = {"hexadecimal_kg": "bmc"}
    found = machine_behind(bmc, Device("bmc", "fence_ipmilan", 1, {"ip": "h"}, {"password": "bmc", **key}))
    assert "which everybody here could read" in found.why_not
    known = Description(frozenset({"ip", "hexadecimal_kg"}), frozenset({"off", "status"}))
    with pytest.raises(UsageError, match="is a secret"):
        refuse_wrong(Device("bmc", "fence_ipmilan", 1, {"ip": "h", "hexadecimal_kg": "31323334"}), known)


def test_what_an_agent_is_told_is_what_the_bmc_is() -> None:
    assert ipmi_words("fence_idrac", {"ip": "h", "privlvl": "operator"}) == [
        *("-I", "lanplus", "-E", "-H", "h", "-L", "OPERATOR")
    ]
    assert ipmi_words("fence_ipmilan", {"ip": "h", "timeout": "9"})[:2] == ["-I", "lan"]
    assert ipmi_words("fence_ipmilan", {"ipmitool_timeout": "5", "target": "0x24"})[3:] == ["-N", "5", "-t", "0x24"]
    assert as_redfish({"ip": "h", "systems_uri": "/redfish/v1/Systems/1", "ssl_insecure": "1"}) == {
        "ip": "h",
        "system": "/redfish/v1/Systems/1",
    }


# What becomes of it.


@pytest.fixture
def h1_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the host says of itself."""
    monkeypatch.setattr("mudanza.operations.fencing.machine_of", lambda _means, _host: of(H1))


WORDS = tuple(word for word in BMC_WORDS if word != "--unmatched")


def shown(ready: Program) -> str:
    return ready("fence", "show", "-o", "json").stdout


def test_what_switches_the_host_is_taken(ready: Program, agent: FakeAgent, h1_is: None) -> None:
    agent.identify(f"uuid={smbios(H1)}")
    done = ready("fence", "set", "h1", "bmc", *WORDS)
    assert (done.returncode, "compared: UUID 4c4c4544" in done.stderr) == (0, True)
    assert "the host's: UUID" in shown(ready)
    assert {action for action, _ in agent.actions} == {"identify"}, "nothing is switched"


@pytest.mark.parametrize("word", [(), ("--unmatched",)])
def test_what_switches_another_machine_is_not(
    ready: Program, agent: FakeAgent, h1_is: None, word: tuple[str, ...]
) -> None:
    agent.identify(f"uuid={H2}")
    done = ready("fence", "set", "h1", "bmc", *WORDS, *word)
    assert (done.returncode, f"UUID {H2}" in done.stderr) == (3, True)
    assert AGENT not in shown(ready)


def test_what_cannot_tell_is_taken_by_a_persons_word_which_is_kept(ready: Program, agent: FakeAgent) -> None:
    done = ready("fence", "set", "h1", "bmc", *WORDS)
    assert (done.returncode, "--unmatched" in done.stderr) == (3, True)
    assert AGENT not in shown(ready)
    assert ready("fence", "set", "h1", "bmc", *BMC_WORDS).returncode == 0
    assert "not compared, by " in shown(ready)
    agent.will("a", status=0)
    assert ready("fence", "test", "h1").returncode == 0
    assert "not compared, by " in shown(ready), "that nothing tells takes nobody's word away"


def test_a_test_finds_out_that_it_is_another_one_by_now(ready: Program, agent: FakeAgent, h1_is: None) -> None:
    ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    agent.will("a", status=0)
    agent.identify(f"uuid={H1}")
    assert ready("fence", "test", "h1").returncode == 0
    assert "the host's: UUID" in shown(ready)
    agent.identify(f"uuid={H2}")
    done = ready("fence", "test", "h1")
    assert (done.returncode, "another machine than h1" in done.stderr) == (3, True)
    agent.will("a")
    done = ready("fence", "off", "h1", "--yes")
    assert (done.returncode, "switch another machine" in done.stderr) == (5, True)
    assert "off" not in {action for action, _ in agent.actions}, "it is not told to switch that one"


def test_another_level_is_used_where_one_switches_another_machine(
    engine: Engine, fences: Fences, agents: Agents, agent: FakeAgent
) -> None:
    fences.put("h1", [device("a"), device("b", 2)])
    for plug in "ab":
        agent.will(plug)
    fences.matched("h1", "a", Comparison(Verdict.OTHER, "it is h2"))
    said: list[str] = []
    fencer = Fencer(engine, agents, lambda _: False, said.append)
    assert fencer.off("h1", "ana").proven
    assert agent.actions == [("off", "b"), ("status", "b")]
    assert said[0] == "! a (fence_test) is left out: ANOTHER MACHINE: it is h2"
    fences.matched("h1", "b", Comparison(Verdict.OTHER, "it is h3"))
    with pytest.raises(NeedsPersonError, match="another machine: a, b"):
        fencer.off("h1", "ana")


def test_what_was_compared_is_known_as_long_as_a_device_is_the_same(engine: Engine, fences: Fences) -> None:
    fences.put("h1", [device("a"), device("b")])
    same = Comparison(Verdict.SAME, "UUID x")
    for name in ("a", "b", WAKE):
        fences.matched("h1", name, same)
    fences.put("h1", [device("a"), device("b", 2)])
    assert [each.device for each in fences.matches()] == [WAKE, "a"]
    fences.matched("h1", "a", Comparison(Verdict.UNKNOWN, "no"))
    assert {each.verdict for each in fences.matches()} == {Verdict.SAME}


def test_an_address_that_wakes_is_one_of_the_hosts_cards(ready: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ready("power", "set", "h1", "--mac", "52:54:00:00:00:01")
    assert (done.returncode, "--unmatched" in done.stderr) == (3, True)
    cards = "mudanza.operations.host_power._card_of"
    monkeypatch.setattr(cards, lambda *_: Comparison(Verdict.OTHER, "its network cards are others"))
    assert ready("power", "set", "h1", "--mac", "52:54:00:00:00:01", "--unmatched").returncode == 3
    monkeypatch.setattr(cards, lambda *_: Comparison(Verdict.SAME, "it is one of them"))
    assert ready("power", "set", "h1", "--mac", "52:54:00:00:00:01").returncode == 0
    assert "the host's: it is one of them" in ready("power", "show", "-o", "json").stdout


def test_a_database_of_this_schema_is_opened(tmp_path: Path) -> None:
    assert Fences(open_database(str(tmp_path / "m.db"))).matches() == ()
