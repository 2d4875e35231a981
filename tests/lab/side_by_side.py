"""Runs the lab's tests in two halves side by side, each in a lab of its own: they wait more than they compute.

``python -m tests.lab.side_by_side [PYTEST OPTIONS]``; exits 1 when a half fails.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
SECONDS = {
    "test_migrate.py": 300,
    "test_claims.py": 120,
    "test_rebuild.py": 120,
    "test_squashed.py": 50,
    "test_formats.py": 50,
    "test_matrix.py": 200,
    "test_cold_faults.py": 150,
    "test_link_cut.py": 135,
    "test_cold.py": 110,
    "test_check_states.py": 110,
    "test_cold_disks.py": 95,
    "test_jobs.py": 90,
    "test_power.py": 65,
    "test_kinds.py": 60,
    "test_probes.py": 60,
    "test_check.py": 60,
    "test_relocate.py": 45,
    "test_lab_core.py": 40,
    "test_snapshots.py": 35,
    "test_carrier.py": 30,
    "test_reading.py": 30,
}
"""About how long a file takes, measured on two cores."""
OTHERS = 25
"""About how long every other file takes."""
STOP_LIMIT = 120.0
"""Seconds a half may take to end its lab after Ctrl-C."""


def halves() -> tuple[list[str], list[str]]:
    """Return the test files in two halves that take about the same time."""
    contract = HERE.parent / "contract/test_contract.py"
    files = sorted([*HERE.glob("test_*.py"), contract], key=lambda file: (-SECONDS.get(file.name, OTHERS), file.name))
    found: tuple[list[str], list[str]] = ([], [])
    taken = [0, 0]
    for file in files:
        lighter = taken.index(min(taken))
        found[lighter].append(str(file))
        taken[lighter] += SECONDS.get(file.name, OTHERS)
    return found


def main() -> int:
    """Run both; show the first one as it goes, and the second one's output after it."""
    first, second = ([sys.executable, "-m", "pytest", "-m", "lab", *sys.argv[1:], *half] for half in halves())
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryFile("w+") as output:
        # In sessions of their own: Ctrl-C reaches this process, and each of them once, by it.
        running = [
            subprocess.Popen(second, stdout=output, stderr=subprocess.STDOUT, start_new_session=True),
            subprocess.Popen(first, start_new_session=True),
        ]
        try:
            codes = [process.wait() for process in reversed(running)]
        except KeyboardInterrupt:
            for process in running:
                process.send_signal(signal.SIGINT)
            for process in running:
                process.wait(STOP_LIMIT)
            return 130
        output.seek(0)
        sys.stdout.write(output.read())
    return 1 if any(codes) else 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
