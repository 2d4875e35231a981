"""Which image a disk is: what tells of changes is called alike in all images of a VM."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mudanza.model.protection import ReplicaDisk, RestorePoint
from mudanza.model.vm import Backing
from mudanza.protection import scripts
from mudanza.protection.images import Image, images_of, read_image, replaced, with_images
from mudanza.protection.telling import disk_changes
from tests import factories as make
from tests.test_protection import point

A, B = Image("h1", "12", "/i/a.qcow2"), Image("h1", "13", "/i/b b.qcow2")
FOUND = {"vda": [A], "vdb": [B]}


def at_point(**images: Image) -> RestorePoint:
    disks = {target: ReplicaDisk(f"{target}.4.qcow2", 1 << 20) for target in images}
    return with_images(replace(point(4), disks=disks), {target: [image] for target, image in images.items()})


def test_an_image_is_read_as_it_was_written_down() -> None:
    assert read_image(str(B)) == B
    assert read_image("") is None


@pytest.mark.parametrize(
    ("now", "other"),
    [
        (FOUND, set()),
        ({"vda": [B], "vdb": [A]}, {"vda", "vdb"}),
        ({"vda": [replace(A, inode="14")], "vdb": [B]}, {"vda"}),
        ({"vda": [replace(A, path="/j/a.qcow2")]}, {"vda"}),
        ({"vda": [Image("h1", "20", "/i/a.snap"), A], "vdb": [B]}, set()),
        ({"vda": [Image("h1", "20", "/i/a.snap"), B]}, {"vda"}),
        ({"vda": [Image("h3", "7", "/k/a.qcow2")], "vdb": [Image("h3", "8", "/k/new")]}, set()),
        ({"vda": [Image("h3", "7", "/k/b b.qcow2")], "vdb": [Image("h3", "8", "/k/a.qcow2")]}, {"vda", "vdb"}),
        ({"vdc": [A], "vda": []}, set()),
    ],
)
def test_a_disk_is_another_one_once_its_image_is(now: Mapping[str, list[Image]], other: set[str]) -> None:
    """Swapped, replaced, elsewhere; upon the one it was; moved to another host; new, and not known."""
    assert replaced(at_point(vda=A, vdb=B), now) == other


def test_of_a_point_of_before_that_was_kept_nothing_is_known() -> None:
    assert replaced(point(4), {"vda": [B]}) == replaced(None, FOUND) == frozenset()


def test_it_is_told_which_disk_is_another_file() -> None:
    before, now = at_point(vda=A, vdb=B), at_point(vda=B, vdb=B)
    assert disk_changes(before, now) == ("disk vda was /i/a.qcow2, and is /i/b b.qcow2",)
    assert disk_changes(before, at_point(vda=replace(A, host="h3", path="/k/a"), vdb=B)) == ()


def test_the_host_tells_which_file_a_path_is(tmp_path: Path) -> None:
    top, below, gone = tmp_path / "it's  top", tmp_path / "below", tmp_path / "gone"
    top.touch()
    below.symlink_to(top)
    disk = make.disk(source=str(top), backing=(Backing(str(below), "qcow2"), Backing(str(gone), "raw")))

    def run(script: str, values: Mapping[str, object], **_: Any) -> list[list[str]]:
        names = {name: str(value) for name, value in values.items()}
        said = subprocess.run(
            ["sh", "-c", script], env={**names, "PATH": "/usr/bin:/bin"}, check=True, stdout=-1
        ).stdout
        return [line.split()[1:] for line in said.decode().splitlines()]

    shell = cast("Any", SimpleNamespace(host="h1", run=run))
    inode = str(top.stat().st_ino)
    found = images_of(shell, [disk])[disk.target]
    assert [(each.host, each.inode, each.path) for each in found] == [
        ("h1", inode, str(top)), ("h1", inode, str(below)), ("h1", "unknown", str(gone)),
    ]  # fmt: skip
    assert "$paths" in scripts.INODES
