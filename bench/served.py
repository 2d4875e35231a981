"""The daemon of ``mudanza serve`` over simulated hosts: ``python -m bench.served FOLDER HOSTS GUESTS MOVES``.

Carries out that many moves at once. Tells a token and what its hosts take up by themselves, as JSON; then does what it
is told, line by line: ``spent`` has it tell the CPU-seconds of its hosts, ``stop`` ends it.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import TextIO

from bench.crowd import Crowd, remembering_definitions
from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.hands import OwnHands
from mudanza.cli.serve import SWITCH_EVERY, _answering, _desk, _photographer, _work
from mudanza.journal.sessions import Sessions
from mudanza.journal.tokens import Tokens
from mudanza.model.access import Scope
from mudanza.service.api import api_of
from mudanza.service.pages.dashboard import with_pages
from mudanza.service.watcher import Watcher


def main(folder: Path, hosts: int, guests: int, moves: int) -> None:
    """Serve until told to stop."""
    crowd = Crowd(hosts, guests)
    app = App(folder / "mudanza.toml", debug=False)
    app.inventory.put_hosts(crowd.entries())
    token = Tokens(app.database).make("bench", [Scope.ADMIN], "bench")
    own = resident()
    stop, cancel = clock.new_event(), clock.new_event()
    sys.setswitchinterval(SWITCH_EVERY)
    with crowd.answering(), remembering_definitions():
        photographer = _photographer(app)
        app.keeps = photographer.known
        watcher = Watcher(app.jobs, app.inventory.hosts, connect=app.loaded.settings.limits.connect)
        desk = _desk(app, photographer, watcher)
        front = with_pages(api_of(desk), Sessions(app.database), OwnHands(desk, watcher))
        with _answering(app, front, None):
            threading.Thread(target=_obey, args=(sys.stdin, crowd, stop), daemon=True).start()
            print(json.dumps({"token": token, "hosts_take": own}), flush=True)
            _work(app, photographer, watcher, stop, cancel, balance=False, parallel=moves)


def resident() -> int:
    """Return how much memory this process takes up, in bytes."""
    return memory_of("self")


def memory_of(process: str, what: str = "VmRSS") -> int:
    """Return one of the kernel's figures of a process's memory, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    return 0


def _obey(orders: TextIO, crowd: Crowd, stop: clock.Event) -> None:
    for line in orders:
        if line.strip() == "spent":
            print(json.dumps({"spent": crowd.spent + crowd.time.spent}), flush=True)
        elif line.strip() == "stop":
            break
    stop.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
