"""What tests on simulated hosts share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

from mudanza.remote import reach
from mudanza.service.watcher import Watcher
from tests.program import Done, Program
from tests.twin.asking import Passing, answered_in, desk_over, work_in
from tests.twin.scene import Scene, scene

Ask = Callable[..., Done]
SERVER = ("--server", "/run/d.sock")


@pytest.fixture
def the(tmp_path: Path) -> Iterator[Scene]:
    """Three hosts, with two VMs that run on the first and one that is off on the second."""
    with scene(Random(7).randrange, tmp_path, hosts=3) as made:
        made.make_vm("web", "h1", shared=True)
        made.make_vm("db", "h1")
        made.make_vm("off", "h2", run=False)
        yield made


@pytest.fixture
def program(the: Scene, mudanza: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The command over a scene: nothing waits in real time, and signals are left alone in threads of the simulation."""
    mudanza.config.write_text(f'database = "{the.database}"\n')
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return mudanza


@pytest.fixture
def idle(the: Scene, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Passing]:
    """A daemon that answers commands, and works on nothing. Time passes for them while they wait."""
    watcher = Watcher(the.jobs, the.inventory.hosts, connect=5.0)
    daemon = Passing(the, desk_over(the, tmp_path, watcher), watcher)
    client = httpx.Client(transport=daemon, base_url="http://d/api/v1")
    monkeypatch.setattr(reach, "client_of", lambda _: client)
    wait = the.twin.scheduler.sleep

    def sleep(seconds: float) -> None:
        if the.twin.scheduler.running is None:
            daemon.let_pass(seconds)
        else:
            wait(seconds)

    monkeypatch.setattr(the.twin.scheduler, "sleep", sleep)
    with answered_in(the):
        yield daemon


@pytest.fixture
def daemon(the: Scene, idle: Passing, tmp_path: Path) -> Passing:
    """The same, and it works on what is queued."""
    work_in(the, tmp_path, idle.watcher)
    return idle


@pytest.fixture
def there(daemon: Passing, program: Program) -> Ask:
    """Have a command done by a daemon that works."""
    assert daemon
    return lambda *words: program(*SERVER, *words)


@pytest.fixture
def asked(idle: Passing, program: Program) -> Ask:
    """Have a command answered by a daemon that works on nothing."""
    assert idle
    return lambda *words: program(*SERVER, *words)
