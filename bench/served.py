"""The daemon of ``mudanza serve`` over simulated hosts: ``python -m bench.served FOLDER HOSTS GUESTS MOVES``.

Carries out that many moves at once. The hosts live in the process that works, which tells a token and what they take up
of its memory, as JSON; then it does what it is told, line by line: ``spent`` has it tell the CPU-seconds of its hosts.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import libvirt

from bench.crowd import Crowd, remembering_definitions
from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.output import say
from mudanza.cli.serve import listening, parts_of
from mudanza.cli.work import ending_at_signals
from mudanza.hypervisor.connection import lines_opened_by
from mudanza.journal.tokens import Tokens
from mudanza.model.access import Scope
from mudanza.service.processes import Line, Part, Processes


def main(folder: Path, hosts: int, guests: int, moves: int) -> None:
    """Serve until told to stop."""
    app = App(folder / "mudanza.toml", debug=False)
    token = Tokens(app.database).make("bench", [Scope.ADMIN], "bench")
    stop, cancel = clock.new_event(), clock.new_event()
    with ending_at_signals(stop, cancel), listening(app, None) as doors:
        front, workers = parts_of(app, doors, balance=False, parallel=moves)

        def among_hosts(line: Line) -> None:
            before = resident()
            crowd = Crowd(hosts, guests)
            app.anew().inventory.put_hosts(crowd.entries())
            threading.Thread(target=_obey, args=(crowd,), daemon=True).start()
            print(json.dumps({"token": token, "hosts_take": resident() - before}), flush=True)
            with crowd.answering(), remembering_definitions():
                workers[0].run(line)

        def without_hosts(line: Line) -> None:
            with lines_opened_by(_nobody):
                front.run(line)

        parts = (Part(workers[0].name, among_hosts), *workers[1:])
        Processes(Part(front.name, without_hosts), parts, say, app.database.dispose).run(stop, cancel)


def resident() -> int:
    """Return how much memory this process takes up, in bytes."""
    return memory_of("self", "VmRSS")


def memory_of(process: str, what: str, file: str = "status") -> int:
    """Return one of the kernel's figures of a process's memory, in bytes; 0 where there is none such."""
    try:
        lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:")), 0)


def _nobody(uri: str) -> Any:
    raise libvirt.libvirtError(f"{uri} is looked at by another process")


def _obey(crowd: Crowd) -> None:
    for line in sys.stdin:
        if line.strip() == "spent":
            print(json.dumps({"spent": crowd.spent + crowd.time.spent}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
