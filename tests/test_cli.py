"""The command as a script meets it: exit codes, what goes where, and files in and out. No host is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from mudanza.cli.exit_codes import INTERRUPTED
from mudanza.cli.lab import _argv
from mudanza.cli.options import parse_map
from mudanza.cli.output import Format, print_data, write_line
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import Host, HostEntry
from mudanza.model.vm import VmState
from mudanza.operations.choosing import choose_vms
from tests.factories import OTHER_UUID, cluster, host, vm
from tests.program import Program

LIMIT = 30.0
"""Seconds one command may take on a loaded machine."""
NOWHERE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
TWO_HOSTS = f"""
[hosts.h1]
uri = "{NOWHERE}"
tags = ["rack1", "straße"]

[hosts."ñ;$(id)"]
uri = "qemu+ssh://root@h2/system"
peer_uri = "qemu+tls://h2/system"
maintenance = true
"""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "Usage: "),
        (("frobnicate",), "No such command"),
        (("host",), "Usage: "),
        (("show",), "Missing argument"),
        (("vms", "--colour"), "No such option"),
        (("vms", "-o", "xml"), "'xml' is not one of"),
        (("job", "show", "x"), "valid integer"),
        (("migrate", "a", "--parallel", "0"), "greater than or equal to 1"),
        (("migrate", "a", "--bandwidth", "fast"), "'fast' is not a rate"),
        (("migrate", "a", "--bandwidth", "0"), "--bandwidth must be more than nothing"),
        (("migrate", "a", "--deadline", "0s"), "--deadline must be more than nothing"),
        (("migrate", "a", "--max-downtime", "0"), "--max-downtime must be more than nothing"),
        (("migrate", "a", "--max-downtime", "300"), "300ms"),
        (("migrate", "a", "--max-downtime", " 0.5 "), "names no unit"),
        (("migrate", "a", "--max-downtime", "0.1ms"), "between 1ms and 2000s"),
        (("migrate", "a", "--max-downtime", "1h"), "between 1ms and 2000s"),
        (("migrate", "a", "--bandwidth", "1KiB/s"), "at least 1MiB/s"),
        (("migrate", "a", "--bandwidth", "99999999TiB/s"), "less than 8 EiB/s"),
        (("migrate", "a", "--map-storage", "default"), "not of the form A=B"),
        (("vms",), "no host is known yet"),
        (("job", "show", "1"), "there is no job 1"),
        (("job", "resume", "1"), "there is no job 1"),
        (("job", "watch", "1"), "there is no job 1"),
        (("job", "cancel", "1"), "there is no job 1"),
        (("job", "close", "1"), "there is no job 1"),
        (("job", "close", "--", "-1"), "there is no job -1"),
        (("host", "remove", "h1"), "there is no host 'h1'"),
        (("host", "edit", "h1"), "nothing to change"),
        (("host", "add", "a b", NOWHERE), "no blanks"),
        (("host", "add", "h1", "nonsense"), "not a libvirt URI"),
        (("lab", "fault", "earthquake"), "there is no fault 'earthquake'"),
        (("lab", "exec", "h1", "--"), "no command is given"),
        (("lab", "up", "--uplink", "fast"), "'fast' is not a rate"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_so_on_stderr_alone(
    mudanza: Program, words: tuple[str, ...], complaint: str
) -> None:
    done = mudanza(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("words", [("--help",), ("migrate", "--help"), ("lab", "up", "--help"), ("--version",)])
def test_help_is_no_error_and_goes_to_stdout(mudanza: Program, words: tuple[str, ...]) -> None:
    done = mudanza(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_what_is_exported_can_be_imported_any_number_of_times(mudanza: Program) -> None:
    assert mudanza("import", "-", stdin=TWO_HOSTS).stderr == "hosts changed: h1, ñ;$(id)\n"
    exported = mudanza("export").stdout
    assert mudanza("import", "-", stdin=exported).stderr == "nothing to change\n"
    assert mudanza("host", "remove", "h1").returncode == 0
    assert mudanza("import", "-", stdin=exported).stderr == "hosts changed: h1\n"
    assert mudanza("export").stdout == exported


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = [", "not TOML"),
        ("[hosts.a]", "hosts.a.uri"),
        ('[hosts.a]\nuri = "u"', "not a libvirt URI"),
        ("[hosts.a]\nuri = 3", "hosts.a.uri"),
        ('[hosts.a]\nuri = "test:///default"\nmaintenence = true', "hosts.a.maintenence"),
        (f'[hosts.fine]\nuri = "{NOWHERE}"\n[hosts."a b"]\nuri = "{NOWHERE}"', "'a b' is no host name"),
    ],
)
def test_nothing_of_a_bad_file_is_imported(mudanza: Program, text: str, complaint: str) -> None:
    done = mudanza("import", "-", stdin=text)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert mudanza("export").stdout.strip() == "[hosts]"


def test_files_that_cannot_be_read_are_named(mudanza: Program, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        done = mudanza("import", str(path))
        assert done.returncode == 2
        assert f"{path} cannot be read" in done.stderr


@pytest.mark.parametrize("name", ["garbage", "directory", "garbage/below.db"])
def test_a_database_that_cannot_be_opened_is_named(mudanza: Program, tmp_path: Path, name: str) -> None:
    (tmp_path / "garbage").write_text("no database at all, but long enough to be looked at\n" * 20)
    (tmp_path / "directory").mkdir()
    mudanza.config.write_text(f'database = "{tmp_path / name}"')
    done = mudanza("jobs")
    assert done.returncode == 2
    assert f"the database {tmp_path / name} cannot be opened" in done.stderr


@pytest.mark.parametrize(
    ("database", "complaint"),
    [
        ("postgresql://ana:secret@db/mudanza", "needs the Python package psycopg"),
        ("postgresql+psycopg://ana:secret@db/mudanza", "needs the Python package psycopg"),
        ("postgresql://ana:secret@db:port/mudanza", "cannot be opened"),
        ("oracel://ana:secret@db/mudanza", "cannot be opened"),
    ],
)
def test_a_database_server_that_cannot_be_used_is_named_with_what_to_do(
    mudanza: Program, monkeypatch: pytest.MonkeyPatch, database: str, complaint: str
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as where it is not installed
    mudanza.config.write_text(f'database = "{database}"')
    done = mudanza("jobs")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "secret" not in done.stderr
    assert "directory" not in done.stderr


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing_else(mudanza: Program, closing: str) -> None:
    mudanza("import", "-", stdin=TWO_HOSTS)
    for words in ("export", "host remove h1"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" -m mudanza {words} {closing}', sys.executable],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Error" not in done.stderr
    assert "h1" not in mudanza("export").stdout


def test_a_host_that_does_not_answer_is_added_by_force_only_and_shown_as_not_seen(mudanza: Program) -> None:
    refused = mudanza("host", "add", "h1", NOWHERE)
    assert refused.returncode == 2
    assert f"virsh -c '{NOWHERE}' version" in refused.stderr
    assert mudanza("host", "add", "h1", NOWHERE, "--force").returncode == 0
    hosts = mudanza("hosts", "-o", "json")
    assert hosts.returncode == 0
    [seen] = json.loads(hosts.stdout)
    assert seen["error"].startswith("cannot connect")
    assert "host h1 was not seen: cannot connect" in hosts.stderr


def test_a_vm_that_may_be_on_a_host_not_seen_is_not_called_missing(mudanza: Program) -> None:
    mudanza("host", "add", "h1", NOWHERE, "--force")
    for words in (("show", "db"), ("migrate", "db"), ("start", "db"), ("shutdown", "db"), ("check", "db")):
        done = mudanza(*words)
        assert done.returncode == BlockedError.exit_code, words
        assert "not seen: h1" in done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_names_are_printed_in_utf_8_in_any_locale(mudanza: Program, encoding: str) -> None:
    mudanza("import", "-", stdin=TWO_HOSTS)
    done = subprocess.run(
        [sys.executable, "-m", "mudanza", "export"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=True,
    )
    assert "straße" in done.stdout
    assert "ñ;$(id)" in done.stdout


@pytest.mark.parametrize("entry", [["-m", "mudanza"], ["-c", "from mudanza.__main__ import main; main()"]])
@pytest.mark.parametrize("module", ["typer", "libvirt"])
def test_ctrl_c_while_it_is_being_loaded_ends_it_silently(
    mudanza: Program, tmp_path: Path, entry: list[str], module: str
) -> None:
    """A library that takes for ever to load makes sure that it is being loaded: as it starts, or by a command."""
    mudanza("import", "-", stdin=TWO_HOSTS)
    (tmp_path / f"{module}.py").write_text("print('loading', flush=True)\nimport time\ntime.sleep(60)\n")
    program = subprocess.Popen(
        # Who runs the tests in the background has it ignored, and so would a child.
        ["env", "--default-signal=INT", sys.executable, *entry, "vms"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "loading\n"
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=LIMIT) == ("", "")
    assert program.returncode == INTERRUPTED


LEFT_BEHIND = """
import os, sys, threading, time

class TakenDown:
    def __del__(self, write=os.write):
        write(1, b"Python is taken down")

sys.held = TakenDown()
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
from mudanza.__main__ import main
main()
"""
"""A program that ends while a thread is in a call that comes back some day."""


@pytest.mark.parametrize(
    ("words", "code", "said"), [(["--version"], 0, "mudanza "), (["frobnicate"], 2, "No such command")]
)
def test_it_ends_without_a_crash_while_a_call_is_stuck(words: list[str], code: int, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND, *words], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert ended.returncode == code
    assert said in ended.stdout + ended.stderr
    assert "taken down" not in ended.stdout


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(("output", "read"), [(Format.JSON, json.loads), (Format.YAML, yaml.safe_load)])
def test_everything_a_model_holds_can_be_printed(
    output: Format, read: object, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {"state": Colour.RED, "at": Path("/srv"), "some": {3, 1}, "vm": vm(state=VmState.PAUSED), "name": "日本"}
    print_data(value, output)
    assert callable(read)
    printed = read(capsys.readouterr().out)
    assert (printed["state"], printed["at"], printed["some"], printed["name"]) == ("red", "/srv", [1, 3], "日本")
    assert printed["vm"]["state"] == "paused"


def test_a_reader_that_has_left_ends_the_printing_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        write_line(stream, "nobody")
        write_line(stream, "reads this")


def test_maps_name_each_source_once() -> None:
    assert parse_map(["a=b", "c=d=e"], "--map-storage") == {"a": "b", "c": "d=e"}
    assert parse_map(None, "--map-storage") == {}
    for pairs in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(UsageError, match="--map-storage"):
            parse_map(pairs, "--map-storage")


@pytest.mark.parametrize("words", [("--bandwidth", "0"), ()])
def test_an_error_before_anything_runs_is_an_event_too(mudanza: Program, words: tuple[str, ...]) -> None:
    done = mudanza("migrate", "nosuch", "--to", "h2", "-o", "json", *words)
    (event,) = map(json.loads, done.stdout.splitlines())
    assert (event["event"], event["exit_code"], done.returncode) == ("error", 2, 2)
    assert event["message"] in done.stderr


def test_vms_are_chosen_by_name_uuid_and_tag_each_once() -> None:
    db, web = vm(name="db", tags=("prod",)), vm(name="--help", uuid=OTHER_UUID, tags=("prod", "web"))
    known = cluster(vms=[db, web])
    assert choose_vms(known, ["db", db.uuid], ["prod"]) == (db, web)
    assert choose_vms(known, ["--help"], None) == (web,)
    for names, tags in ((None, None), (["nope"], None), (None, ["nope"])):
        with pytest.raises(UsageError):
            choose_vms(known, names, tags)


def test_of_two_copies_that_are_off_the_one_it_has_not_left_by_failover_is_meant() -> None:
    left, newest = (vm(host=name, state=VmState.SHUTOFF, epoch=epoch) for name, epoch in (("h1", 0), ("h2", 1)))
    known = Cluster((host("h1"), host("h2")), (left, newest))
    assert known.find("web") is newest
    runs = replace(left, state=VmState.RUNNING)
    assert known.with_hosts(Cluster((host("h1"),), (runs,))).find("web") is runs, "one that runs is that one"
    with pytest.raises(UsageError, match="ambiguous"):
        Cluster(known.hosts, (left, replace(newest, epoch=0))).find("web")


def test_a_vm_no_seen_host_lists_may_be_on_one_that_was_not_seen() -> None:
    dark = Host(HostEntry("h2", NOWHERE), error="no answer")
    with pytest.raises(BlockedError, match="not seen: h2"):
        Cluster((host("h1"), dark), (vm(),)).find("elsewhere")


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (["virsh", "list", "--all"], ["virsh", "list", "--all"]),
        (["--", "virsh", "--version"], ["virsh", "--version"]),
        (["--", "mudanza", "vms"], [sys.executable, "-m", "mudanza", "vms"]),
    ],
)
def test_the_command_for_the_lab_is_what_follows(command: list[str], argv: list[str]) -> None:
    assert _argv(command) == argv


@pytest.mark.parametrize("command", [["--seconds", "3"], ["--"], ["--", "-o"]])
def test_an_option_too_late_is_told_from_a_command(command: list[str]) -> None:
    with pytest.raises(UsageError):
        _argv(command)
