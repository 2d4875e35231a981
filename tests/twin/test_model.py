"""Hypothesis plays against the product: whatever happens to a move, in whatever order, the promises hold."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Verbosity, settings

from tests.twin.machine import World

SEQUENCES = int(os.environ.get("MUDANZA_SEQUENCES", "150"))

TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=SEQUENCES,
    stateful_step_count=12,
    deadline=None,
    derandomize=False,
    print_blob=True,
    verbosity=Verbosity.normal,
    suppress_health_check=list(HealthCheck),
)
