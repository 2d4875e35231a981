"""Every command does its work through a daemon that is named, or is one of those few that are about this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.cli.verbs import ROOMS, verbs_of
from mudanza.remote import reach
from tests.program import Done, Program
from tests.test_plan_noun import PLAN

LOOP = "goes on until it is told to stop; the daemon does the same by itself"
BY_ITSELF = {
    "lab": "hosts on this machine",
    "serve": "is the daemon",
    "work": LOOP,
    "balance watch": LOOP,
    "load sample": LOOP,
    "protection run": LOOP,
    "ha run": LOOP,
    "doctor": "looks at the settings, the journal and the ways of the machine that it runs on",
    "journal": "the journal as a file of its machine",
    "standby": "the journal and the settings of the machine that it runs on, sent as files",
    "rebuild": "for a journal that was lost, and before a daemon is started on the new one",
    "notify": "the webhooks of the settings of the machine that it runs on, and what these were told of",
    "console": "the bytes of a terminal; the daemon has a page for it",
}
"""What is not for a daemon, and why."""
AT_ONCE = {"lab", "serve", "console"}
"""Those of them that do not say so, for they never come to look for a journal here."""
VALUES = {
    "job_id": "1",
    "number": "1",
    "run_id": "1",
    "kind": "apart",
    "scope": "read",
    "goal": "balance",
    "word": "yes",
}
"""What is said where one thing is as good as any other."""
WAYS: dict[str, tuple[str, ...]] = {
    "wish": ("", "--policy gentle", "--clear"),
    "failover": ("--planned", "--source-is-dead"),
    "failover plan": ("--planned", "--resume"),
    "recovery start": ("", "--resume"),
    "recovery stop": ("--within 5m",),
    "failover group": ("--source-is-dead",),
    "failback": ("", "--mode live", "--mode cold"),
    "cluster cpu": ("", "--set", "--undo"),
    "power set": ("--keep-on", "--watts 95,190", "--mac="),
    "rolling": ("--command x", "--command x --dry-run", "--resume 1", "--resume 1 --skip-command"),
    "rolling show": ("", "1"),
    "host edit": ("--tag x",),
    "job tune": ("--bandwidth 50MiB/s",),
    "recovery show": ("", "NAME"),
    "forecast": ("web", "--accuracy"),
}
"""What is said besides, one way after the other."""


def commands() -> Iterator[tuple[str, Any]]:
    """Return every command of the program with its words."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        subcommands = getattr(command, "commands", {})
        if not subcommands or command.invoke_without_command:
            yield words, command
        for name, each in subcommands.items():
            yield from below(f"{words} {name}", each)

    for room in ROOMS:
        for verb, command in verbs_of(room).items():
            yield from below(verb, command)


COMMANDS = dict(commands())


def reason(words: str) -> str:
    return BY_ITSELF.get(words) or BY_ITSELF.get(words.split(maxsplit=1)[0], "")


THERE = [f"{words} | {way}" for words in COMMANDS if not reason(words) for way in WAYS.get(words, ("",))]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a daemon is asked for that knows nothing of it."""
    requests: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(f"{request.method} {request.url.path}")
        return httpx.Response(404, json={"title": "There is no such thing", "exit_code": 2})

    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://d/api/v1")
    monkeypatch.setattr(reach, "client_of", lambda _: client)
    return requests


@pytest.fixture
def run(mudanza: Program, tmp_path: Path) -> Callable[[str, str], Done]:
    """Have a command done by a daemon, with what it needs to be told."""
    plan = tmp_path / "a file"
    plan.write_text(PLAN.as_json())

    def told(command: Any) -> Iterator[str]:
        for each in command.params:
            value = str(plan) if each.metavar in ("FILE", "PLAN", "FILE|NAME") else VALUES.get(each.name, "x")
            if each.param_type_name == "argument" and (each.required or each.name == "vms"):
                yield value
            elif each.required:
                yield from (each.opts[0], value)
            elif each.name == "yes":
                yield "--yes"

    def doing(words: str, way: str) -> Done:
        return mudanza("--server", "/run/d.sock", *words.split(), *told(COMMANDS[words]), *way.split())

    return doing


@pytest.mark.parametrize("command", THERE)
def test_it_is_done_by_the_daemon(run: Callable[[str, str], Done], asked: list[str], command: str) -> None:
    words, _, way = command.partition(" | ")
    done = run(words, way)
    assert "cannot be done through a daemon" not in done.stderr, "have it done there, or say why not: BY_ITSELF"
    assert asked, done.stderr
    assert done.returncode == 2, "the daemon knows nothing of it"


@pytest.mark.parametrize("words", [words for words in COMMANDS if reason(words) and words.split()[0] not in AT_ONCE])
def test_what_is_not_for_a_daemon_says_so(run: Callable[[str, str], Done], asked: list[str], words: str) -> None:
    done = run(words, "")
    assert (done.returncode, asked) == (2, []), done.stderr
    assert "cannot be done through a daemon" in done.stderr


def test_the_list_of_those_is_no_longer_than_it_has_to_be() -> None:
    known = {*COMMANDS, *(words.split()[0] for words in COMMANDS)}
    assert set(BY_ITSELF) <= known
    assert set(WAYS) <= set(COMMANDS)
    assert len(COMMANDS) > 60, "all of them were found"
