"""The daemon's processes: what dies is started again, and all end with the one that has started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mudanza import clock
from mudanza.model.errors import BlockedError, MudanzaError, UsageError
from mudanza.service import processes
from mudanza.service.processes import Line, Part, Processes
from tests.lab.conftest import await_true
from tests.program import Program

ENOUGH = 60.0


class Notes:
    """A folder where each process of a test writes down, line by line, what becomes of it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "notes"
        self._file.touch()

    def write(self, words: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{words}\n")

    @property
    def lines(self) -> list[str]:
        return self._file.read_text().splitlines()

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[-1]) for line in self.lines if line.startswith(f"{name} begins ")]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "AGAIN_AFTER", 0.05)


def part(notes: Notes, name: str, then: Callable[[Line], None] = lambda _: None) -> Part:
    """Return one that waits until it is to stop, and does something ``then``."""

    def run(line: Line) -> None:
        notes.write(f"{name} begins {os.getpid()}")
        line.ready(name)
        while not line.stop.wait(0.02):
            line.alive()
        then(line)
        notes.write(f"{name} ends")

    return Part(name, run)


class Beside:
    """What happens to them meanwhile, in a thread that starts none of them."""

    def __init__(self) -> None:
        self.stop, self.cancel = clock.new_event(), clock.new_event()
        self.said: list[str] = []
        self.failure: BaseException | None = None

    def run(self, of: Processes, what: Callable[[], None]) -> None:
        """Have them work while something happens, and then stop."""

        def happen() -> None:
            try:
                what()
            except BaseException as error:
                self.failure = error
                self.cancel.set()
            finally:
                self.stop.set()

        clock.start_thread(happen, "meanwhile")
        of.run(self.stop, self.cancel)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def beside() -> Beside:
    return Beside()


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_one_that_is_killed_is_started_again_and_the_others_go_on(notes: Notes, beside: Beside) -> None:
    both = Processes(part(notes, "front"), [part(notes, "worker")], beside.said.append, lambda: None)

    def killed() -> None:
        for name in ("worker", "front", "worker"):
            await_true(lambda name=name: notes.pids(name) != [], f"{name} is there")  # type: ignore[misc]
            known = notes.pids(name)
            os.kill(known[-1], signal.SIGKILL)
            await_true(lambda name=name, known=known: notes.pids(name)[len(known) :] != [], "another")  # type: ignore[misc]

    beside.run(both, killed)
    assert (len(notes.pids("front")), len(notes.pids("worker"))) == (2, 3)
    assert notes.lines[-2:] == ["worker ends", "front ends"], "who answers ends last"
    assert len(beside.said) == 3
    assert all("was killed by signal 9; another one takes its place" in words for words in beside.said)


def test_what_keeps_one_from_beginning_ends_all_and_is_told(notes: Notes, beside: Beside) -> None:
    def fail(_line: Line) -> None:
        raise UsageError("the certificate cannot be used", remedy="name another one")

    all_of_them = Processes(part(notes, "front"), [Part("worker", fail)], beside.said.append, lambda: None)
    with pytest.raises(UsageError, match="the certificate cannot be used") as failed:
        beside.run(all_of_them, lambda: clock.sleep(0.5))
    assert failed.value.remedy == "name another one"
    assert notes.lines[-1] == "front ends"


def test_nobody_works_before_somebody_answers(notes: Notes, beside: Beside) -> None:
    def fail(_line: Line) -> None:
        raise BlockedError("nobody can answer")

    with pytest.raises(BlockedError, match="nobody can answer"):
        Processes(Part("front", fail), [part(notes, "worker")], beside.said.append, lambda: None).run(
            beside.stop, beside.cancel
        )
    assert notes.lines == []


def test_one_that_fails_once_all_went_well_is_started_again(
    notes: Notes, beside: Beside, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail_once(line: Line) -> None:
        notes.write(f"worker begins {os.getpid()}")
        line.ready("")
        if len(notes.pids("worker")) == 1:
            raise RuntimeError("by accident")
        line.stop.wait()

    both = Processes(part(notes, "front"), [Part("worker", fail_once)], beside.said.append, lambda: None)
    beside.run(both, lambda: await_true(lambda: len(notes.pids("worker")) == 2, "another one works"))
    assert "by accident" in capfd.readouterr().err, "the log tells where it arose"
    assert len(beside.said) == 1


def test_what_is_under_way_is_waited_for_and_cancelled_if_somebody_wants_that(notes: Notes, beside: Beside) -> None:
    def wait(line: Line) -> None:
        notes.write("winding up")
        line.cancel.wait()

    both = Processes(part(notes, "front"), [part(notes, "worker", wait)], beside.said.append, lambda: None)

    def stop_and_cancel() -> None:
        await_true(lambda: notes.pids("worker") != [], "it works")
        beside.stop.set()
        await_true(lambda: "winding up" in notes.lines, "it is told to stop")
        assert "front ends" not in notes.lines
        beside.cancel.set()

    beside.run(both, stop_and_cancel)
    assert notes.lines[-2:] == ["worker ends", "front ends"]


def test_one_that_dies_while_all_end_is_not_started_again_and_that_is_told(notes: Notes, beside: Beside) -> None:
    def die(_line: Line) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    both = Processes(part(notes, "front"), [part(notes, "worker", die)], beside.said.append, lambda: None)
    with pytest.raises(MudanzaError, match="process worker was killed by signal 9"):
        beside.run(both, lambda: await_true(lambda: notes.pids("worker") != [], "it works"))
    assert (len(notes.pids("worker")), notes.lines[-1]) == (1, "front ends")


# --- the daemon itself, with no host ---


def children_of(pid: int) -> list[int]:
    """Return the processes it has started: the one that answers, and those that work."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def daemon(mudanza: Program, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "mudanza", "serve", "--no-balance", "--socket", str(tmp_path / "d.sock")]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(argv, stdout=said, stderr=said, text=True)
    try:
        await_true(lambda: answers(tmp_path), "it answers", limit=ENOUGH)
        yield process
    finally:
        process.kill()
        process.wait()


def answers(folder: Path) -> bool:
    import httpx

    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(folder / "d.sock")), timeout=ENOUGH) as client:
            return client.get("http://d/api/v1/health").is_success
    except httpx.TransportError:
        return False


def test_whoever_asks_while_the_one_that_answers_is_gone_is_answered_by_the_next(
    daemon: subprocess.Popen[str], tmp_path: Path
) -> None:
    front, worker = children_of(daemon.pid)
    os.kill(front, signal.SIGKILL)
    await_true(lambda: answers(tmp_path), "it answers again", limit=ENOUGH)
    os.kill(worker, signal.SIGKILL)
    await_true(
        lambda: len({front, worker}.symmetric_difference(children_of(daemon.pid))) == 4,
        "others are there",
        limit=ENOUGH,
    )
    assert answers(tmp_path)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(ENOUGH) == 0
    assert not (tmp_path / "d.sock").exists()


def test_all_of_a_daemon_goes_where_it_is_killed_and_the_next_takes_its_place(
    daemon: subprocess.Popen[str], tmp_path: Path
) -> None:
    children = children_of(daemon.pid)
    daemon.kill()
    daemon.wait()
    await_true(lambda: not any(map(is_there, children)), "all are gone", limit=ENOUGH)
    argv = [sys.executable, "-m", "mudanza", "serve", "--no-balance", "--socket", str(tmp_path / "d.sock")]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as following:
        await_true(lambda: answers(tmp_path), "the next one answers", limit=ENOUGH)
        following.send_signal(signal.SIGINT)
        assert following.wait(ENOUGH) == 0


def test_ctrl_c_in_a_terminal_which_all_of_them_get_is_told_once(daemon: subprocess.Popen[str], tmp_path: Path) -> None:
    for pid in (*children_of(daemon.pid), daemon.pid):
        os.kill(pid, signal.SIGINT)
    assert daemon.wait(ENOUGH) == 0
    assert "cancelling" not in (tmp_path / "said").read_text()


def test_several_workers_share_what_may_be_done_at_once(mudanza: Program, tmp_path: Path) -> None:
    with mudanza.config.open("a") as settings:
        settings.write("[service]\nworkers = 2\n")
    argv = [sys.executable, "-m", "mudanza", "serve", "--no-balance", "--socket", str(tmp_path / "d.sock")]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as daemon:
        await_true(lambda: answers(tmp_path) and len(children_of(daemon.pid)) == 3, "all are there", limit=ENOUGH)
        last = children_of(daemon.pid)[-1]
        os.kill(last, signal.SIGKILL)
        await_true(lambda: len({last} ^ {*children_of(daemon.pid)}) == 4, "another one works", limit=ENOUGH)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(ENOUGH) == 0
