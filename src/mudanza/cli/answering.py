"""Answers that are typed where a plan's run was begun: on a terminal a question need not be answered elsewhere."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.cli.output import say
from mudanza.model.errors import MudanzaError
from mudanza.model.recovery import NO, YES

if TYPE_CHECKING:
    from mudanza.cli.context import App

LOOK_AGAIN = 0.3
"""Seconds between two looks whether the run has ended."""
WORDS = {"y": YES, "yes": YES, "s": YES, "sí": YES, "si": YES, "n": NO, "no": NO}
"""What can be typed."""


@contextmanager
def answering(app: App, plan: str) -> Iterator[None]:
    """Take lines that are typed for answers to what the plan's run asks, while the block runs; nothing where this is no
    terminal."""
    if not sys.stdin.isatty():
        yield
        return
    say("questions can be answered here: yes or no, then Enter")
    over = clock.new_event()

    def listen() -> None:
        terminal = sys.stdin.fileno()
        while not over.is_set():
            if not select.select([terminal], [], [], LOOK_AGAIN)[0]:
                continue
            typed = os.read(terminal, 4096)
            if not typed:  # nobody can type any more
                return
            for line in typed.decode(errors="replace").splitlines():
                take(app, plan, line)

    clock.start_thread(listen, "answers")
    try:
        yield
    finally:
        over.set()


def take(app: App, plan: str, line: str) -> None:
    """Answer with one typed line."""
    word = WORDS.get(line.strip().lower())
    if word is None:
        say("yes or no?")
        return
    try:
        say(app.asked.answer_recovery(plan, word))
    except MudanzaError as error:
        say(f"! {error}")
