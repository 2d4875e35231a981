"""Digests: what they say of bytes and holes, what has to be copied, how a host is logged in to, how long one waits."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.hypervisor.attended import Attended, attend
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.contents import digests as module
from mudanza.hypervisor.contents.by_libvirt import LibvirtContents
from mudanza.hypervisor.contents.by_ssh import PICK
from mudanza.hypervisor.contents.digests import UNREAD, Digester, Digests, differing, runs
from mudanza.hypervisor.contents.reading import contents_of
from mudanza.hypervisor.ssh import ssh_command
from mudanza.model.errors import HostUnreachableError, MigrationFailedError
from mudanza.model.host import Host, HostEntry

SMALL = 8
"""Bytes of a chunk in these tests."""
BYTES = st.lists(st.sampled_from([b"\0" * SMALL, b"\0", b"a", b"a" * SMALL, b"b"]), max_size=6).map(b"".join)


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", SMALL)
        yield


def naive(content: bytes) -> Digests:
    chunks = [content[at : at + SMALL] for at in range(0, len(content), SMALL)]
    return Digests(len(content), tuple(hashlib.sha256(c).hexdigest() if any(c) else None for c in chunks))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (b"", b"", ()),
        (b"x" * 20, b"x" * 20, ()),
        (b"x" * 20, b"x" * 19 + b"y", ((16, 4),)),
        (b"x" * 8 + b"y" * 16, b"x" * 24, ((8, 16),)),
        (b"y" * 8 + b"x" * 8 + b"y" * 8, b"x" * 24, ((0, 8), (16, 8))),
        (b"x" * 16, b"x" * 8, ((8, 8),)),
        (b"\0" * 16, b"", ((0, 16),)),
        (b"\0" * 10, b"\0" * 12, ((8, 4),)),
        (b"x" * 8, b"x" * 8 + b"\0", ((8, 1),)),
    ],
)
def test_what_differs(a: bytes, b: bytes, expected: tuple[tuple[int, int], ...]) -> None:
    assert differing(naive(a), naive(b)) == expected


@given(a=BYTES, b=BYTES)
def test_copying_what_differs_makes_both_the_same(a: bytes, b: bytes) -> None:
    copy = bytearray(b)
    ranges = differing(naive(a), naive(b))
    for start, length in ranges:
        copy[start : start + length] = a[start : start + length]
    assert bytes(copy[: len(a)]) == a
    assert (not ranges) == (a == b)
    assert all(sum(one) < other[0] for one, other in pairwise(ranges)), "neighbours are one"


def test_what_nobody_looked_at_is_neither_the_same_nor_different() -> None:
    unread = Digests(16, (UNREAD, None))
    assert differing(unread, unread) == ()
    with pytest.raises(ValueError, match="chunk 0 was read on one side only"):
        differing(unread, Digests(16, (None, None)))


@given(content=BYTES, data=st.data())
def test_bytes_and_holes_in_any_pieces_give_the_same_digests(content: bytes, data: st.DataObject) -> None:
    digester = Digester(0, len(content))
    rest = content
    while rest:
        piece = rest[: data.draw(st.integers(1, len(rest)))]
        if not any(piece) and data.draw(st.booleans()):
            digester.hole(len(piece))
        else:
            digester.data(piece)
        rest = rest[len(piece) :]
    assert digester.left == 0
    assert tuple(digester.found[n] for n in sorted(digester.found)) == naive(content).chunks


def test_a_part_is_digested_as_it_is_in_the_whole() -> None:
    content = b"a" * 8 + b"b" * 8 + b"c" * 8
    digester = Digester(8, 16)
    digester.data(content[8:16])
    assert digester.found == {1: naive(content).chunks[1]}
    with pytest.raises(ValueError, match="more came"):
        digester.data(b"d")


@pytest.mark.parametrize(
    ("chunks", "length", "expected"),
    [
        (None, 0, []),
        (None, 17, [(0, 2)]),
        (set(), 17, []),
        ({2, 0, 1}, 17, [(0, 2)]),
        ({0, 2, 3, 9}, 30, [(0, 0), (2, 3)]),
    ],
)
def test_chunks_to_read_at_a_stretch(chunks: set[int] | None, length: int, expected: list[tuple[int, int]]) -> None:
    assert runs(chunks, length) == expected


def extent(start: int, length: int, zero: bool) -> str:
    """As qemu-img writes it."""
    said = f'"zero": {str(zero).lower()}, "data": {str(not zero).lower()}'
    return f'{{ "start": {start}, "length": {length}, "depth": 0, "present": true, {said}, "offset": {start}}},\n'


@pytest.mark.parametrize(
    ("wanted", "limit", "mapped", "holes"),
    [
        ("0 2", 20, "", []),
        ("0 2", 20, extent(0, 20, True), [0, 1, 2]),
        ("0 2", 20, extent(0, 9, True) + extent(9, 1, False) + extent(10, 502, True), [0, 2]),
        ("0 2", 20, extent(0, 4, True) + extent(4, 12, True) + extent(16, 4, False), [0, 1]),
        ("0 2", 20, extent(0, 8, True) + extent(8, 7, True), [0]),
        ("0 2", 20, extent(0, 4, False) + extent(12, 8, True), [2]),
        ("1 1", 20, extent(0, 20, True), [1]),
        ("0 9", 20, extent(0, 20, True), [0, 1, 2]),
        ("0 0\n2 2", 20, extent(0, 16, True), [0]),
        ("0 0", 20, '{ "start": 0, "length": 20, "zero": true, "data": unknown}', []),
        ("65535 65536", 2**53, extent(0, 65536 * 2**26, True), [65535]),
    ],
)
def test_only_what_the_map_calls_a_hole_is_skipped(wanted: str, limit: int, mapped: str, holes: list[int]) -> None:
    chunk = 2**26 if limit > 2**30 else SMALL
    done = subprocess.run(
        ["awk", "-v", f"chunk={chunk}", "-v", f"limit={limit}", PICK],
        input=f"{wanted}\n[{mapped}",
        capture_output=True,
        text=True,
        check=True,
    )
    plan = [line.split() for line in done.stdout.splitlines()]
    asked = [n for one in wanted.splitlines() for n in range(int(one.split()[0]), int(one.split()[1]) + 1)]
    assert [int(n) for _, n in plan] == [n for n in asked if n * chunk < limit]
    assert [int(n) for word, n in plan if word == "hole"] == holes


@pytest.mark.parametrize(
    ("uri", "program", "ending"),
    [
        ("qemu+ssh://h1/system", "ssh", ["--", "h1"]),
        ("qemu+ssh://root@Alias:2222/system", "ssh", ["-p", "2222", "-l", "root", "--", "Alias"]),
        ("qemu+ssh://[fe80::1]:22/system", "ssh", ["-p", "22", "--", "fe80::1"]),
        ("qemu+ssh://h1/system?keyfile=/a%20b&command=/opt/ssh", "/opt/ssh", ["-i", "/a b", "--", "h1"]),
        ("qemu+libssh2://u%40d@h1/system?keyfile=/k+1", "ssh", ["-i", "/k+1", "-l", "u@d", "--", "h1"]),
        ("qemu+ssh://-oProxyCommand=id/system", "ssh", ["--", "-oProxyCommand=id"]),
    ],
)
def test_the_uri_says_how_to_log_in(uri: str, program: str, ending: list[str]) -> None:
    command = ssh_command(uri)
    assert command is not None
    assert command[0] == program
    assert list(command[-len(ending) :]) == ending
    assert "BatchMode=yes" in command
    assert not any(word.startswith("StrictHostKeyChecking") for word in command)


def test_host_keys_are_trusted_as_the_uri_says() -> None:
    assert "StrictHostKeyChecking=no" in (ssh_command("qemu+ssh://h1/system?no_verify=1") or ())
    assert 'UserKnownHostsFile="/my keys"' in (ssh_command("qemu+libssh2://h1/system?known_hosts=/my keys") or ())


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu+tls://h1/system", "test:///default", "qemu+ssh:///system"])
def test_no_login_where_the_uri_has_none(uri: str) -> None:
    assert ssh_command(uri) is None


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/ssh"])
def test_without_a_login_the_controller_reads(program: str, caplog: pytest.LogCaptureFixture) -> None:
    entry = HostEntry("h1", f"qemu+ssh://h1/system?command={program}")
    with caplog.at_level(logging.INFO), HostConnection(entry) as host:
        assert isinstance(contents_of(host, Host(entry)), LibvirtContents)
    assert "h1 are read through the controller, for ssh does not do" in caplog.text


def test_work_that_does_not_get_on_is_given_up() -> None:
    interrupted = threading.Event()

    def work(attended: Attended) -> None:
        attended.interrupt_by(interrupted.set)
        interrupted.wait(20)

    with pytest.raises(HostUnreachableError, match=r"host h1: reading /a has not got on for 1 s"):
        attend(work, host="h1", what="reading /a", patience=1.0)
    assert interrupted.is_set()


def test_work_that_gets_on_may_take_its_time() -> None:
    told: list[int] = []

    def work(attended: Attended) -> str:
        for _ in range(4):
            threading.Event().wait(0.6)
            attended.got_on(10)
        return "done"

    assert attend(work, host="h1", what="it", patience=2.0, on_progress=told.append) == "done"
    assert told == sorted(told)
    assert told[-1] == 40


def test_work_is_stopped_where_it_is() -> None:
    stop, ended = threading.Event(), threading.Event()

    def work(attended: Attended) -> None:
        try:
            while True:
                attended.got_on(1)
                stop.set()
        finally:
            ended.set()

    with pytest.raises(MigrationFailedError, match="cancelled while reading /a on h1"):
        attend(work, host="h1", what="reading /a", patience=60, stop=stop)
    assert ended.is_set()


def test_what_fails_fails() -> None:
    def work(_attended: Attended) -> None:
        raise HostUnreachableError("h1", "gone")

    with pytest.raises(HostUnreachableError, match="gone"):
        attend(work, host="h1", what="it", patience=60)
