"""The command line of what is measured once, kept as data, and drawn from that."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def record_or_draw(
    program: str, about: str, record: Callable[[Path], object], draw: Callable[[Path, Path], object]
) -> int:
    """Do what the command line says: ``record DATA``, or ``draw DATA IMAGE``."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, files in {"record": ["data"], "draw": ["data", "image"]}.items():
        of_verb = verbs.add_parser(verb)
        for file in files:
            of_verb.add_argument(file, type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "record":
        record(arguments.data)
    else:
        draw(arguments.data, arguments.image)
    return 0
