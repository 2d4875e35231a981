"""Which images keep their content in another file: heads as qemu-img writes them, and as nobody should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.hypervisor.probing.image_heads import data_elsewhere

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not here")


def head(place: Path, image_format: str, *options: str) -> bytes:
    """The first bytes of a new image."""
    image = place / "image"
    words = ["qemu-img", "create", "-q", "-f", image_format, *options, str(image), "8M"]
    subprocess.run(words, check=True, cwd=place)
    return image.read_bytes()[:4096]


def test_an_external_data_file_is_told_by_its_name(tmp_path: Path) -> None:
    data = tmp_path / "data ☃.raw"
    assert data_elsewhere(head(tmp_path, "qcow2", "-o", f"data_file={data},data_file_raw=on")) == str(data)
    assert data_elsewhere(head(tmp_path, "qcow2", "-o", f"data_file={data}")[:200]) is not None


def test_the_extents_of_a_flat_vmdk_lie_elsewhere(tmp_path: Path) -> None:
    assert data_elsewhere(head(tmp_path, "vmdk", "-o", "subformat=monolithicFlat")) is not None


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("qcow2", ()),
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow2", ("-o", "extended_l2=on,cluster_size=128k")),
        ("qcow2", ("-o", "compression_type=zstd,lazy_refcounts=on")),
        ("vmdk", ()),
        ("raw", ()),
    ],
)
def test_any_other_image_holds_its_content_itself(tmp_path: Path, image_format: str, options: tuple[str, ...]) -> None:
    assert data_elsewhere(head(tmp_path, image_format, *options)) is None


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_stands_in_a_header_is_an_answer(before: bytes, after: bytes) -> None:
    for begin in (b"", b"QFI\xfb\x00\x00\x00\x03"):
        assert isinstance(data_elsewhere(begin + before + b"DATA" + after), str | None)
