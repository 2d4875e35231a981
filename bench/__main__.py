"""``python -m bench NAME [-o table|json]``."""

from __future__ import annotations

import argparse
import importlib
import sys

from bench.figures import print_figures
from mudanza.model.errors import UsageError

BENCHMARKS = {
    "drain": "a host with four guests, emptied over a capped uplink, beside what its bytes take by themselves",
    "dr": "rounds of replication, beside virtnbdbackup; many protected VMs; what a guest writes meanwhile",
    "disks": "a cold move over a capped link, beside qemu-img convert, rsync and scp",
    "overhead": "our whole command for an idle guest, over plain virsh migrate's",
    "migrate": "live moves of idle, busy and several guests, beside virsh migrate plain and at its best",
    "service": "the daemon with 1,000 simulated hosts: a look at all, the dashboard, the API, memory",
    "planning": "plans: beside hbal, hsqueeze, Watcher, ProxLB and CP-SAT; time and memory up to 10,000 hosts",
    "power": "a published day of CPU use: energy, moves, overload, beside CloudSim's policies (needs the trace)",
    "writer": "a guest that writes to its disk at two thirds of the link, beside virsh migrate",
}


def main() -> int:
    """Run one benchmark, print its figures; 1 when a goal was missed."""
    names = "\n".join(f"  {name:<12}{about}" for name, about in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench", epilog=f"benchmarks:\n{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--runs", type=int, default=5, help="measurements of each side")
    parser.add_argument(
        "--only", metavar="CASE", help="one case of a benchmark that has several (migrate, dr, service)"
    )
    arguments = parser.parse_args()
    benchmark = importlib.import_module(f"bench.{arguments.name}")
    cases = getattr(benchmark, "CASES", {})
    if arguments.only and arguments.only not in cases:
        parser.error(f"{arguments.name} has no case {arguments.only!r} (known: {', '.join(cases) or 'none'})")
    only = {"only": arguments.only} if arguments.only else {}
    try:
        results = benchmark.measure(arguments.runs, **only)
    except UsageError as error:
        sys.stderr.write(f"{error}\n" + (f"  {error.remedy}\n" if error.remedy else ""))
        return 2
    getattr(benchmark, "show", print_figures)(results, arguments.output)
    return 0 if all(getattr(result, "met", None) is not False for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
