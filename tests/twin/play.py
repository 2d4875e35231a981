"""Plays the model without hypothesis, thousands of times: ``python -m tests.twin.play [--sequences N] [--seed S]``.

Each sequence follows from its number alone. One that breaks a promise is printed with its number and what happened,
and the shortest run of its steps that still does so.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies._internal.numbers import IntegersStrategy

from tests.twin.machine import World

STEPS = 12
STUCK = 300
"""Seconds of the machine's own time after which a sequence is given up, and where it hangs is told."""


@dataclass(frozen=True)
class Step:
    """One rule with its arguments."""

    rule: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.rule}({', '.join(f'{name}={value!r}' for name, value in sorted(self.arguments.items()))})"


def drawn(strategy: st.SearchStrategy[Any], random: Random) -> Any:
    """Draw from one of the few kinds of strategies that the model uses."""
    found = getattr(strategy, "wrapped_strategy", strategy)
    if hasattr(found, "elements"):
        return random.choice(list(found.elements))
    if isinstance(found, IntegersStrategy):
        return random.randint(found.start or 0, found.end or 0)
    return random.random() < 0.5


def play(number: int, counts: Counter[str]) -> tuple[list[Step], BaseException | None, str]:
    """Play one sequence; return its steps and what broke, if anything did."""
    random = Random(number)
    world, steps = World(), []
    try:
        for rule in world._initialize_rules_to_run:
            steps.append(Step(rule.function.__name__, {k: drawn(v, random) for k, v in sorted(rule.arguments.items())}))
            take(world, steps[-1])
        for _ in range(random.randint(2, STEPS)):
            rules = [
                each for each in sorted(world.rules, key=lambda each: each.function.__name__) if _fits(world, each)
            ]
            rule = random.choice(rules)
            steps.append(Step(rule.function.__name__, {k: drawn(v, random) for k, v in sorted(rule.arguments.items())}))
            take(world, steps[-1])
    except Exception as error:
        return steps, error, _end(world, counts, quietly=True)
    try:
        return steps, None, _end(world, counts)
    except Exception as error:
        return steps, error, ""


def replay(steps: list[Step]) -> BaseException | None:
    """Take these steps, leaving out those that cannot be taken; return what broke."""
    world = World()
    rules = {each.function.__name__: each for each in (*world._initialize_rules_to_run, *world.rules)}
    try:
        for step in steps:
            if step.rule == "begin" or _fits(world, rules[step.rule]):
                take(world, step)
    except Exception as error:
        _end(world, Counter(), quietly=True)
        return error
    try:
        _end(world, Counter())
    except Exception as error:
        return error
    return None


def shortest(steps: list[Step], error: BaseException) -> list[Step]:
    """Leave out what is not needed for the same kind of break."""
    kind = str(error).partition("\n")[0][:25]
    for at in range(len(steps) - 1, 0, -1):
        fewer = steps[:at] + steps[at + 1 :]
        found = replay(fewer)
        if found is not None and str(found).startswith(kind):
            steps = fewer
    return steps


def _fits(world: World, rule: Any) -> bool:
    return all(precondition(world) for precondition in rule.preconditions)


def take(world: World, step: Step) -> None:
    """Take a step, and see whether all that must hold does."""
    getattr(world, step.rule)(**step.arguments)
    for each in world.invariants:
        each.function(world)


def _end(world: World, counts: Counter[str], *, quietly: bool = False) -> str:
    if quietly:
        with contextlib.suppress(Exception):
            world.close()
        return ""
    try:
        if world.vm:
            world.come_to_rest()
            for job in world.the.jobs.latest(99):
                ended = f"{job.kind} {job.state} {job.exit_code}"
                counts[ended + (", gone on with by another controller" if job.epoch > 1 else "")] += 1
            counts["libvirt itself ran two"] += sum(not each.actor for each in world.twin.oracle.violations)
    finally:
        world.close()
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="The number of the first one.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Stop after so many seconds.")
    parser.add_argument("--keep-going", action="store_true", help="Do not stop at the first that breaks a promise.")
    wanted = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts: Counter[str] = Counter()
    broken = 0
    begun = time.monotonic()
    for number in range(wanted.seed, wanted.seed + wanted.sequences):
        if time.monotonic() - begun > wanted.seconds:
            break
        counts["sequences"] += 1
        faulthandler.dump_traceback_later(STUCK, exit=True)
        steps, error, _ = play(number, counts)
        if error is None:
            continue
        broken += 1
        print(f"--- sequence {number} breaks a promise: {str(error).partition(chr(10))[0]}", flush=True)
        steps = shortest(steps, error)
        error = replay(steps) or error
        print("\n".join(map(str, steps)))
        traceback.print_exception(error, limit=-3)
        if not wanted.keep_going:
            break
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    print(f"{time.process_time():.1f} s of CPU, {broken} broken promises")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
