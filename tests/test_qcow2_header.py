"""Another backing image named in a qcow2 header."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.migration.freight.qcow2_header import (
    HEAD,
    LONGEST_NAME,
    NoRoomError,
    backing_format,
    backing_name,
    renamed,
    virtual_size,
)

AT = 0x200
NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=200)


def head(name: str, *, behind: bytes = b"", bits: int = 16) -> bytes:
    text = name.encode()
    start = b"QFI\xfb" + struct.pack(">IQII", 3, AT, len(text), bits)
    return (start.ljust(AT, b"\0") + text + behind).ljust(HEAD, b"\0")


def patched(before: bytes, name: str) -> bytes:
    after = bytearray(before)
    for at, data in renamed(before, name):
        after[at : at + len(data)] = data
    return bytes(after)


@given(NAMES, NAMES)
def test_the_new_name_is_read_back_and_nothing_is_left_of_the_old(old: str, new: str) -> None:
    after = patched(head(old), new)
    assert backing_name(after) == new
    assert after == head(new)


def test_what_stands_behind_the_name_is_not_overwritten() -> None:
    before = head("/srv/base", behind=b"DATA")
    assert backing_name(patched(before, "/srv/b")) == "/srv/b"
    with pytest.raises(NoRoomError):
        renamed(before, "/srv/base.qcow2")


def test_a_name_longer_than_the_format_allows_is_refused() -> None:
    with pytest.raises(NoRoomError):
        renamed(head("/srv/base"), "/" * (LONGEST_NAME + 1))
    with pytest.raises(NoRoomError):
        renamed(head("/srv/base", bits=9), "/srv/bases")


@pytest.mark.parametrize("data", [b"", b"QFI\xfb", bytes(HEAD), b"QFI\xfb" + bytes(HEAD - 4)])
def test_what_names_no_backing_image_is_left_alone(data: bytes) -> None:
    assert backing_name(data) is None


def real(tmp_path: Path, *options: str) -> bytes:
    """The head of an image as QEMU makes it."""
    path = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "5M"], check=True)
    return path.read_bytes()[:HEAD]


def test_format_of_the_base_and_size_are_where_qemu_puts_them(tmp_path: Path) -> None:
    for kind in ("raw", "qcow2"):
        found = real(tmp_path, "-u", "-b", "/srv/base", "-F", kind)
        assert (backing_name(found), backing_format(found), virtual_size(found)) == (
            "/srv/base",
            kind.encode(),
            5 << 20,
        )
    assert backing_format(real(tmp_path)) is None
    old = real(tmp_path, "-o", "compat=0.10", "-u", "-b", "/srv/base", "-F", "raw")
    assert (backing_format(old), virtual_size(old)) == (b"raw", 5 << 20)
    for nothing in (b"", b"QFI\xfb", bytes(HEAD)):
        assert (backing_format(nothing), virtual_size(nothing)) == (None, None)
