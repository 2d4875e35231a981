"""Hypothesis plays against the product: whatever happens to a move, in whatever order, the promises hold."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.twin.machine import World

pytestmark = pytest.mark.timeout(3600)
"""On a busy machine handing the baton on takes its time."""

SEQUENCES = int(os.environ.get("MUDANZA_SEQUENCES", "250"))
"""About 0.17 s of CPU each."""

TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=SEQUENCES,
    stateful_step_count=12,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
