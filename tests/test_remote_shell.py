"""A shell that runs one script after the other, here without ssh between; and what reads files by it."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.hypervisor.contents.by_ssh import SshContents
from mudanza.hypervisor.ssh import RemoteShell
from mudanza.model.errors import HypervisorError

END_LIMIT = 10.0


@pytest.fixture
def shell() -> Iterator[RemoteShell]:
    opened = RemoteShell("h1", ("sh", "-c"))
    yield opened
    opened.close()


def test_one_script_after_the_other_and_nothing_of_one_in_the_next(shell: RemoteShell) -> None:
    assert list(shell.run("a=1; cd /; echo noise; echo \"@ first $a\"; echo '@ more'")) == [["first", "1"], ["more"]]
    assert list(shell.run('echo "@ ${a-nothing}"')) == [["nothing"]]


def test_a_program_in_a_script_does_not_eat_the_next_one(shell: RemoteShell) -> None:
    assert list(shell.run("cat; echo '@ one'")) == [["one"]]
    assert list(shell.run("echo '@ two'")) == [["two"]]


def test_a_script_that_fails_fails_with_its_own_words_and_the_next_one_runs(shell: RemoteShell) -> None:
    list(shell.run("echo earlier >&2"))
    with pytest.raises(HypervisorError, match=r"host h1: .*exit code 3: no such thing$"):
        list(shell.run("echo no such thing >&2; exit 3; echo '@ never'"))
    assert list(shell.run("echo '@ goes on'")) == [["goes", "on"]]


def test_what_a_script_has_started_ends_with_the_connection(tmp_path: Path) -> None:
    shell = RemoteShell("h1", ("sh", "-c"))
    [[_, number]] = [next(shell.run('sleep 600 & echo "@ started $!"; wait'))]
    assert Path(f"/proc/{number}").exists()
    shell.close()
    until = time.monotonic() + END_LIMIT
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < until, "it runs on"
        time.sleep(0.02)


@pytest.fixture
def logins(tmp_path: Path) -> Path:
    """A program that logs in here, and counts how often it does."""
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\necho login >>{tmp_path}/count\nexec sh -c "$1"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.skipif(os.geteuid() != 0, reason="it reads as root")
def test_one_login_serves_all_readings_until_it_is_closed(tmp_path: Path, logins: Path) -> None:
    file = tmp_path / "it's odd\nname"
    file.write_bytes(b"abc" * 1000)
    contents = SshContents("h1", (str(logins),))
    for _ in range(3):
        contents.write_out(str(file))
        digests = contents.digests(str(file), 3000, block=False)
        assert digests.chunks == (hashlib.sha256(b"abc" * 1000).hexdigest(),)
    assert (tmp_path / "count").read_text().count("login") == 1
    with pytest.raises(HypervisorError, match="nowhere"):
        contents.digests("/nowhere", 3000, block=False)
    contents.close()
    contents.close()
