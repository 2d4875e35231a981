"""A guest's display: which way leads to it, and logging in there, whatever answers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.hypervisor import rfb
from mudanza.hypervisor.displays import Way, way_to
from mudanza.hypervisor.pictures import PNG, RAW, Keys, Picture, messages, parse_picture, update
from mudanza.hypervisor.rfb import log_in, proof
from mudanza.hypervisor.xml.displays import Display, parse_displays
from mudanza.model.errors import BlockedError, HypervisorError
from mudanza.model.host import HostEntry

VERSION = b"RFB 003.008\n"
ADDRESS = (
    "<graphics type='vnc' port='5901' autoport='yes' listen='{0}'><listen type='address' address='{0}'/></graphics>"
)
SOCKET = "<graphics type='vnc'><listen type='socket' socket='/run/vnc.sock'/></graphics>"
SPICE = "<graphics type='spice' port='5900'><listen type='address' address='0.0.0.0'/></graphics>"


def shown(graphics: str, uri: str) -> Way:
    text = f"<domain><name>web</name><devices>{graphics}</devices></domain>"
    return way_to("web", parse_displays(text, "h1"), HostEntry("h1", uri))[1]


@pytest.mark.parametrize(
    ("graphics", "uri", "way"),
    [
        (ADDRESS.format("127.0.0.1"), "qemu:///system", Way(handed_over=0)),
        (SPICE + SOCKET, "qemu+unix:///system?socket=/run/l", Way(handed_over=1)),
        ("<graphics type='vnc'><listen type='none'/></graphics>", "qemu:///system", Way(handed_over=0)),
        (ADDRESS.format("127.0.0.1"), "qemu+ssh://root@h1/system", Way(by_ssh="127.0.0.1:5901")),
        (ADDRESS.format("0.0.0.0"), "qemu+libssh2://h1/system", Way(by_ssh="127.0.0.1:5901")),
        (ADDRESS.format("::"), "qemu+ssh://h1/system", Way(by_ssh="[::1]:5901")),
        (ADDRESS.format("10.0.0.9"), "qemu+ssh://h1/system", Way(by_ssh="10.0.0.9:5901")),
        (SPICE + SOCKET, "qemu+ssh://h1/system", Way(by_ssh="/run/vnc.sock")),
        (ADDRESS.format("0.0.0.0"), "qemu+tls://h1/system", Way(directly=("h1", 5901))),
        (ADDRESS.format("::"), "qemu://h1/system", Way(directly=("h1", 5901))),
        (ADDRESS.format("10.0.0.9"), "qemu+tcp://h1/system", Way(directly=("10.0.0.9", 5901))),
    ],
)
def test_there_is_a_way_to_a_display(graphics: str, uri: str, way: Way) -> None:
    assert shown(graphics, uri) == way


@pytest.mark.parametrize(
    ("graphics", "uri", "said", "remedy"),
    [
        ("", "qemu:///system", "no VNC display$", "virsh edit"),
        (SPICE, "qemu:///system", "but SPICE, which is not shown here", "beside SPICE too"),
        (ADDRESS.format("127.0.0.1"), "qemu+tls://h1/system", "127.0.0.1:5901 of host h1 only.*by tls", "qemu+ssh"),
        (ADDRESS.format("::1"), "qemu+tls://h1/system", "::1:5901 of host h1 only", "qemu+ssh"),
        (SOCKET, "qemu+tls://h1/system", "/run/vnc.sock of host h1 only", "qemu+ssh"),
        (ADDRESS.format("0.0.0.0"), "qemu+ext:///system?command=nc", "by ext", "qemu+ssh"),
        ("<graphics type='vnc'><listen type='none'/></graphics>", "qemu+ssh://h1/system", "nowhere", "qemu+ssh"),
    ],
)
def test_where_there_is_none_it_is_said_why_and_what_to_do(graphics: str, uri: str, said: str, remedy: str) -> None:
    with pytest.raises(BlockedError, match=said) as raised:
        shown(graphics, uri)
    assert remedy in raised.value.remedy


def test_a_password_is_read_and_printed_nowhere() -> None:
    [found] = parse_displays("<domain><devices><graphics type='vnc' passwd='opensesame'/></devices></domain>", "h1")
    assert found == Display(0, "vnc", password="opensesame")
    assert "opensesame" not in repr(found)


def test_what_is_proven_is_what_vnc_servers_expect() -> None:
    assert proof(bytes(8), "").hex() == "8ca64de9c1b123a7"
    assert proof(bytes(16), "passwordand more") == proof(bytes(16), "password")


@contextmanager
def server(answers: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """Have somebody answer at the other end, who hangs up after it."""
    here, there = socket.socketpair()

    def answer() -> None:
        with there:
            try:
                answers(there)
            except OSError:
                return  # the viewer had enough

    answering = threading.Thread(target=answer)
    answering.start()
    with here:
        yield here
    answering.join(60)
    assert not answering.is_alive()


def taken(line: socket.socket, count: int) -> bytes:
    return line.recv(count, socket.MSG_WAITALL)


def says(data: bytes) -> Callable[[socket.socket], None]:
    """Return somebody who says that, says no more, and listens."""

    def answer(line: socket.socket) -> None:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        taken(line, 1 << 16)

    return answer


def reason(text: str) -> bytes:
    return struct.pack("!I", len(text.encode())) + text.encode()


def test_one_logs_in_without_a_password_and_what_comes_next_is_left_on_the_line() -> None:
    def qemu(line: socket.socket) -> None:
        line.sendall(VERSION)
        assert taken(line, 12) == VERSION
        line.sendall(b"\x02\x02\x01")
        assert taken(line, 1) == b"\x01"
        line.sendall(bytes(4) + b"next")

    with server(qemu) as line:
        log_in(line, "h1", "of no use here")
        assert taken(line, 4) == b"next"


@pytest.mark.parametrize(("password", "right"), [("opensesame", True), ("wrong", False)])
def test_one_logs_in_with_a_password(password: str, right: bool) -> None:
    challenge = bytes(range(16))

    def qemu(line: socket.socket) -> None:
        line.sendall(VERSION)
        taken(line, 12)
        line.sendall(b"\x01\x02")
        assert taken(line, 1) == b"\x02"
        line.sendall(challenge)
        good = taken(line, 16) == proof(challenge, "opensesame")
        line.sendall(bytes(4) if good else struct.pack("!I", 1) + reason("Authentication failed"))

    with server(qemu) as line:
        if right:
            log_in(line, "h1", password)
            return
        with pytest.raises(HypervisorError, match="lets nobody in: Authentication failed"):
            log_in(line, "h1", password)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (b"HTTP/1.1 400 Bad\r\n", "greets with b'HTTP/1.1 400'"),
        (VERSION + b"\x00" + reason("too many\nof them"), "lets nobody in: too many of them"),
        (VERSION + b"\x01\x13", "not known here: VeNCrypt"),
        (VERSION + b"\x02\x14\x63", "SASL, kind 99"),
        (VERSION + b"\x01\x02", "definition has none"),
        (VERSION, "hung up"),
        (b"", "hung up"),
        (VERSION + b"\x00" + struct.pack("!I", 1 << 31) + b"x" * 2000, "lets nobody in: xxx"),
    ],
)
def test_what_keeps_one_out_is_said(answers: bytes, said: str) -> None:
    with (
        server(says(answers)) as line,
        pytest.raises((HypervisorError, BlockedError), match=said),
    ):
        log_in(line, "h1", None)


def test_who_is_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rfb, "LOGIN_LIMIT", 0.2)

    def slow(line: socket.socket) -> None:
        line.sendall(VERSION[:5])
        taken(line, 1)

    with server(slow) as line, pytest.raises(HypervisorError, match=r"did not answer within 0\.2 s"):
        log_in(line, "h1", None)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda rest: VERSION + rest)), st.text(max_size=9))
def test_whatever_is_answered_one_is_in_or_is_told_why_not(answers: bytes, password: str) -> None:
    with server(says(answers)) as line, suppress(HypervisorError, BlockedError):
        log_in(line, "h1", password)


# Pictures of one.


def ppm(width: int, height: int, pixels: bytes) -> bytes:
    return b"P6\n%d %d\n255\n" % (width, height) + pixels


def png(width: int, height: int, rest: bytes = b"") -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack("!II", width, height) + rest


def test_a_picture_is_read_and_what_is_none_is_not() -> None:
    assert parse_picture(ppm(2, 1, b"abcdef")) == Picture(2, 1, RAW, b"abc\0def\0")
    assert parse_picture(png(2, 1, b"...")) == Picture(2, 1, PNG, png(2, 1, b"..."))
    for none in (b"", b"GIF89a", ppm(2, 1, b"abc"), ppm(0, 1, b""), b"P6 99999999 1 255 ", b"P5\n1 1\n255\nx"):
        assert parse_picture(none) is None
    for none in (png(0, 1), png(1 << 20, 1), png(2, 1)[:20]):
        assert parse_picture(none) is None


def test_of_pictures_those_that_differ_are_told() -> None:
    before, after, large = (Picture(*each, b"aaa\0") for each in ((1, 1, RAW), (1, 1, PNG), (2, 2, RAW)))
    assert update(before, before, whole=False) == b""
    assert update(before, before, whole=True) == struct.pack("!BxHHHHHi", 0, 1, 0, 0, 1, 1, 0) + b"aaa\0"
    assert update(before, after, whole=False) == struct.pack("!BxHHHHHiI", 0, 1, 0, 0, 1, 1, PNG, 4) + b"aaa\0"
    assert update(before, large, whole=False) == struct.pack("!BxHHHHHi", 0, 1, 0, 0, 2, 2, -223)


SAID = (
    b"\0" * 20, b"\2\0\0\2" + b"\0" * 8, b"\3" + b"\0" * 9, b"\4" + b"\0" * 7, b"\5" + b"\0" * 5,
    b"\6\0\0\0\0\0\0\3cut", b"\xff" + b"\0" * 11,
)  # fmt: skip


@given(st.lists(st.sampled_from(SAID)), st.integers(1, 40))
def test_what_a_viewer_says_is_understood_in_whatever_pieces_it_comes(said: list[bytes], size: int) -> None:
    whole, found, rest = b"".join(said), [], b""
    for at in range(0, len(whole), size):
        new, rest = messages(rest + whole[at : at + size])
        found += new
    assert (found, rest) == (said, b"")


@given(st.binary(max_size=60))
def test_what_no_viewer_says_is_refused_or_waited_for(said: bytes) -> None:
    try:
        found, rest = messages(said)
    except ValueError:
        return
    assert b"".join(found) + rest == said


def test_no_viewer_says_too_much() -> None:
    with pytest.raises(ValueError, match="begins with 6"):
        messages(b"\6\0\0\0" + struct.pack("!I", 1 << 31))


def test_keys_are_pressed_together_and_one_that_modifies_others_alone_where_there_are_none() -> None:
    ctrl, shift, letter, keys = 0x1D, 0x2A, 0x1E, Keys()

    def pressed(*moves: tuple[int, bool]) -> list[list[int]]:
        return [found for key, down in moves if (found := keys.pressed(key, down=down))]

    assert pressed((letter, True), (letter, False)) == [[letter]]
    both = ((ctrl, True), (shift, True), (letter, True), (letter, False), (shift, False), (ctrl, False))
    assert pressed(*both) == [[ctrl, shift, letter]]
    assert pressed((ctrl, True), (ctrl, False)) == [[ctrl]]
    assert pressed((ctrl, False), (letter, False)) == []
