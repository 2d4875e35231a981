"""Measuring a link: an image that shows much and is little, and a rate that is told only where enough came through."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mudanza.hypervisor.probing.link import CLUSTER, PARTS, rate_of, repeating_image
from mudanza.migration.forecast.learning import Past, link_of
from mudanza.migration.forecast.model import Link
from mudanza.model.errors import HypervisorError
from mudanza.model.link import MeasuredLink
from mudanza.model.units import MIB
from tests import factories as make

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img here")


def written(directory: Path, size: int) -> Path:
    path = directory / "image.qcow2"
    with path.open("wb") as image:
        for start, part in repeating_image(size).items():
            image.seek(start)
            image.write(part)
        image.truncate(PARTS * CLUSTER)
    return path


@needs_qemu
def test_the_image_is_in_order_and_shows_the_same_over_and_over(tmp_path: Path) -> None:
    image, shown = written(tmp_path, 16 * MIB), tmp_path / "shown"
    told = json.loads(subprocess.check_output(["qemu-img", "check", "-f", "qcow2", "--output=json", image]))
    assert (told["check-errors"], told.get("corruptions", 0), told.get("leaks", 0)) == (0, 0, 0)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, shown], check=True)
    content = shown.read_bytes()
    assert len(content) == 16 * MIB
    one = content[:CLUSTER]
    assert content == one * (16 * MIB // CLUSTER)
    assert one.count(0) < CLUSTER / 100, "nothing of it may be sent as a hole"


def test_little_is_written_for_it() -> None:
    assert sum(map(len, repeating_image(256 * MIB).values())) < CLUSTER + 4096


def test_a_rate_is_told_from_step_to_step_and_not_from_one() -> None:
    here = make.host("h1")
    assert rate_of([(5.0, 16 * MIB), (6.0, 26 * MIB), (7.0, 36 * MIB)], here) == 10 * MIB
    for marks in ([], [(5.0, 16 * MIB)]):
        with pytest.raises(HypervisorError, match="too little"):
            rate_of(list(marks), here)


def test_what_is_learnt_or_told_counts_for_more_than_what_was_measured() -> None:
    measured = MeasuredLink(9e6, 20e6, 4, age=120.0)
    assert link_of((), None, None, measured=measured) == Link(9e6, "measured 2 min 0 s ago")
    assert link_of((), None, 5e6, measured=measured).rate == 5e6
    assert link_of((), 4 * MIB, None, measured=measured).rate == 4 * MIB
    assert link_of((), None, None).why.startswith("not known")


def test_moves_before_it_was_measured_do_not_count_and_those_since_correct_it() -> None:
    measured = MeasuredLink(100.0 * MIB, 100.0 * MIB, 1, age=120.0)

    def moved(rate: float, ago: float) -> Past:
        return Past("live", "a", "h1", "h2", None, {"memory_bytes": 99 * MIB, "memory_rate": rate * MIB}, ago)

    before, after = moved(10.0, ago=500.0), moved(90.0, ago=60.0)
    assert link_of((before, before), None, None).rate == pytest.approx(10 * MIB)
    only = link_of((before, before), None, None, back=(before,), measured=measured)
    assert only == Link(100.0 * MIB, "measured 2 min 0 s ago")
    corrected = link_of((after, before), None, None, measured=measured)
    assert 90 * MIB < corrected.rate < 100 * MIB
    assert corrected.why == "measured 2 min 0 s ago, 1 move since"
    changed = link_of((moved(20.0, 10.0), moved(20.0, 20.0), before), None, None, measured=measured)
    assert changed.rate == pytest.approx(20 * MIB), "two in a row are a change"
    back = link_of((before,), None, None, back=(after, before), measured=measured)
    assert back.why == "learnt from 1 move the other way"
