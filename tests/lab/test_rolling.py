"""Maintenance rolls over real hosts, by ssh from the controller's seat, while guests work on them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, know_by_ssh
from tests.lab.test_serve import serving

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

LIMIT = 800.0
NOTE = "/run/rolled"


@pytest.fixture(scope="module")
def seat(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    """Patient: what is shown is what follows from what, and not how busy the machine is."""
    mudanza = know_by_ssh(lab, tmp_path_factory.mktemp("rolling"))
    with mudanza.config.open("a") as config:
        config.write("[limits]\nread = 60\nconnect = 60\n")
    return mudanza


@pytest.fixture
def guests(lab: Lab, request: pytest.FixtureRequest) -> Iterator[list[Guest]]:
    """Small guests on shared storage, two on each host, or what a test asks for: one on each."""
    each = int(getattr(request, "param", 2))

    def make(number: int) -> Guest:
        spec = GuestSpec(f"roll{number}", memory=128 * MIB, beat=0.05, disk=16 * MIB, pool="shared")
        return create_guest(lab, spec, lab.hosts[number // each])

    with ThreadPoolExecutor(3) as pool:
        begun = [pool.submit(make, number) for number in range(each * len(lab.hosts))]
        wait(begun)
        try:
            yield [made.result() for made in begun]
        finally:
            list(pool.map(lambda made: made.exception() or made.result().remove(), begun))


def at_home(lab: Lab, guests: list[Guest]) -> None:
    """See that each guest runs where it was made, and there alone, and has lost no heartbeat."""
    for number, guest in enumerate(guests):
        running = [host for host, state in guest.states().items() if state == "running"]
        assert running == [lab.hosts[number * len(lab.hosts) // len(guests)]], guest.name
        guest.verify()


@pytest.mark.soak
def test_maintenance_rolls_over_three_hosts_and_no_guest_notices(lab: Lab, seat: Mudanza, guests: list[Guest]) -> None:
    seen = f"virsh --connect qemu:///system list --name --state-running | grep -c roll | tee {NOTE}; true"
    dry = seat("rolling", "--command", seen, "--dry-run", "-o", "json").data
    assert [(each["host"], len(each["plan"]["moves"])) for each in dry] == [(host, 2) for host in lab.hosts]
    rolled = seat("rolling", "--command", seen, "-o", "json", limit=LIMIT)
    assert rolled.events[-1]["state"] == "done"
    assert [lab.cell(host).run(["cat", NOTE]).stdout for host in lab.hosts] == ["0\n"] * 3, "each was empty then"
    at_home(lab, guests)
    [kept] = seat("rolling", "show", "-o", "json").data
    assert [(lap["host"], lap["exit_code"], lap["output"]) for lap in kept["laps"]] == [
        (host, 0, "0\n") for host in lab.hosts
    ]
    assert not [each for each in seat("hosts", "-o", "json").data if each["entry"]["maintenance"]]


@pytest.mark.soak
def test_a_fault_on_the_second_host_stops_it_and_it_goes_on_once_that_is_mended(
    lab: Lab, seat: Mudanza, guests: list[Guest], tmp_path: Path
) -> None:
    script = tmp_path / "upgrade"
    script.write_text("#!/bin/sh\ntest ! -e /run/broken || { echo it is broken; exit 9; }\necho upgraded\n")
    lab.cell(lab.hosts[1]).run(["touch", "/run/broken"])
    stopped = seat("rolling", "--script", str(script), expect=7, limit=LIMIT)
    assert f"{lab.hosts[1]}: the command ended with exit code 9" in stopped.err
    number = stopped.err.partition("mudanza rolling --resume ")[2].split(";")[0]
    assert "it is broken" in seat("rolling", "show", number).out
    for guest in guests:
        assert list(guest.states().values()).count("running") == 1
    lab.cell(lab.hosts[1]).run(["rm", "/run/broken"])
    seat("rolling", "--resume", number, limit=LIMIT)
    at_home(lab, guests)


@pytest.mark.parametrize("guests", [1], indirect=True)
def test_a_host_that_starts_anew_is_waited_for(lab: Lab, seat: Mudanza, guests: list[Guest]) -> None:
    [host, *_] = lab.hosts
    running = seat.start("rolling", "--hosts", host, "--command", "touch /run/ready", "--reboot", "-o", "json")
    number = str(running.until_event(lambda event: event.get("stage") == "command", "the command")["rolling"])

    def has_begun() -> bool:
        """Whether its controller knows it, too: else nobody would know whether it did when the host starts anew."""
        [lap] = seat("rolling", "show", number, "-o", "json").data["laps"]
        return bool(lap["begun"])

    await_true(has_begun, "the command has begun")
    await_true(lambda: not lab.cell(host).run(["test", "-e", "/run/ready"], check=False).returncode, "it is done")
    faults.kill_host(lab, host)
    faults.boot_host(lab, host)
    assert running.end(limit=LIMIT).events[-1]["state"] == "done"
    at_home(lab, guests)


@pytest.mark.soak
def test_a_host_that_dies_just_before_its_command_begins_has_it_begun_once_it_is_back(lab: Lab, seat: Mudanza) -> None:
    """Its disk tells that it had not begun: nobody has to be asked, and nothing is done twice."""
    host, ran = lab.hosts[0], "/root/ran"
    # The last thing before a command is that its number is linked: there it is held up.
    held = "printf '#!/bin/sh\ntouch /run/beginning; exec sleep 900\n' >/root/ln; chmod 755 /root/ln"
    lab.cell(host).run(["sh", "-c", f"rm -f {ran}; {held}; mount --bind /root/ln /usr/bin/ln"])
    running = seat.start("rolling", "--hosts", host, "--command", f"echo once >>{ran}; sync", "-o", "json")
    begins = ["test", "-e", "/run/beginning"]
    await_true(lambda: not lab.cell(host).run(begins, check=False).returncode, "it is about to begin", limit=LIMIT)
    faults.kill_host(lab, host)
    faults.boot_host(lab, host)
    told = running.end(limit=LIMIT)
    assert f"{host}: it has started anew before its command began" in told.err
    assert told.events[-1]["state"] == "done"
    assert lab.cell(host).run(["cat", ran]).stdout == "once\n"
    assert lab.cell(host).run(["ls", "/var/lib/mudanza"]).stdout == "", "nothing of it is left there"
    lab.cell(host).run(["rm", ran, "/root/ln"])


@pytest.mark.soak
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_has_it_roll_and_the_next_one_goes_on_by_itself(
    lab: Lab, seat: Mudanza, guests: list[Guest], tmp_path: Path, end: signal.Signals
) -> None:
    """And whoever follows it hears of it to its end."""
    place = tmp_path / "mudanza.sock"
    through, hosts = ("--server", str(place), "rolling"), lab.hosts[:2]
    cell = lab.cell(hosts[0])
    held = "touch /run/begun; until [ -e /run/go ]; do sleep 0.2; done; echo gone on"
    lab.cell(hosts[1]).run(["touch", "/run/go"])
    with serving(seat, place) as (daemon, _):
        rolling = seat.start(*through, "--hosts", ",".join(hosts), "--command", held, "-o", "json")
        await_true(lambda: cell.run(["test", "-e", "/run/begun"], check=False).returncode == 0, "it runs", limit=LIMIT)
        daemon.send(end)
        daemon.end(expect=None)
    cell.run(["touch", "/run/go"])
    with serving(seat, place) as (daemon, _):
        done = rolling.end(limit=LIMIT)
        daemon.send(signal.SIGTERM)
        daemon.end(0)
    number = done.events[-1]["rolling"]
    assert (done.events[-1]["event"], done.events[-1]["state"]) == ("rolling ended", "done")
    assert f"rolling maintenance {number} is gone on with here" in done.err
    assert f"{hosts[0]} | gone on" in done.err
    stages = [(each["host"], each["stage"]) for each in done.events if each["event"] == "rolling"]
    assert stages[-1] == (hosts[1], "returning")
    assert {each["event"] for each in done.events} >= {"rolling", "plan", "start", "end", "report"}
    kept = seat("rolling", "show", str(number), "-o", "json").data
    assert [lap["output"] for lap in kept["laps"]] == ["gone on\n"] * 2
    at_home(lab, guests)
    for host in hosts:
        lab.cell(host).run(["rm", "-f", "/run/begun", "/run/go"])
