"""libvirt's ssh is out of reach of the terminal's Ctrl-C."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from mudanza.hypervisor.apart import _in_a_session_of_its_own, apart


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _in_a_session_of_its_own.cache_clear()
    yield
    _in_a_session_of_its_own.cache_clear()


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu+tls://h1/system",
        "qemu+libssh2://h1/system?no_tty=1",
        "qemu+ssh://root@h1/system",
        "qemu+ssh://root@h1/system?no_tty=0",
    ],
)
def test_what_has_no_ssh_or_may_ask_on_the_terminal_is_opened_as_it_is(uri: str) -> None:
    assert apart(uri) == uri


def test_whatever_stands_for_ssh_runs_with_its_arguments_in_a_session_of_its_own(tmp_path: Path) -> None:
    program = tmp_path / "ssh of 'mine' + 1"
    program.write_text('#!/bin/sh\nps -o sid= -p $$; printf "<%s>" "$@"\n')
    program.chmod(0o755)
    opened = apart(f"qemu+ssh://root@h1:2222/system?command={quote(str(program))}&keyfile=/k+1&no_tty=1")
    parts = urlsplit(opened)
    assert opened.startswith("qemu+ssh://root@h1:2222/system?keyfile=/k+1&no_tty=1&command=")
    [instead] = parse_qs(parts.query)["command"]
    done = subprocess.run([instead, "-p", "22", "a b", "*"], capture_output=True, text=True, check=True)
    session, told = done.stdout.splitlines()
    assert int(session) != os.getsid(0)
    assert told == "<-p><22><a b><*>"


def test_what_keeps_it_from_being_there_leaves_the_way_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = "qemu+ssh://root@h1/system?no_tty=1"
    in_the_way = tmp_path / "a file"
    in_the_way.touch()
    for name, value in (("PATH", "/nowhere"), ("XDG_CACHE_HOME", str(in_the_way))):
        _in_a_session_of_its_own.cache_clear()
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert apart(uri) == uri


def test_one_script_is_there_for_all_and_one_that_was_changed_is_written_anew(tmp_path: Path) -> None:
    first, second = (apart(f"qemu+ssh://root@{host}/system?no_tty=1") for host in ("h1", "h2"))
    assert urlsplit(first).query == urlsplit(second).query
    [script] = (tmp_path / "mudanza").iterdir()
    script.write_text("#!/bin/sh\nexit 1\n")
    _in_a_session_of_its_own.cache_clear()
    assert apart("qemu+ssh://root@h1/system?no_tty=1") == first
    assert (script.read_text(), script.stat().st_mode & 0o777) == ('#!/bin/sh\nexec setsid ssh "$@"\n', 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_nobody_else_chooses_what_root_runs(tmp_path: Path) -> None:
    """As with sudo where the home directory stays that of the user."""
    uri = "qemu+ssh://root@h1/system?no_tty=1"
    os.chown(tmp_path, 1000, 1000)
    assert apart(uri) == uri
    os.chown(tmp_path, 0, 0)
    tmp_path.chmod(0o777)
    _in_a_session_of_its_own.cache_clear()
    assert apart(uri) == uri
    tmp_path.chmod(0o755)
    _in_a_session_of_its_own.cache_clear()
    assert apart(uri) != uri
