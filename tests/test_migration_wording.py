"""Libvirt's bare words explained, and what is said of a VM that did not move."""

from __future__ import annotations

import pytest

from mudanza.migration.live.reporting import not_moved
from mudanza.migration.record import MoveRecord
from mudanza.migration.residue import Residue
from mudanza.migration.settle import Settlement, Verdict
from mudanza.migration.wording import explained
from mudanza.model.errors import MigrationFailedError, VmDownError

RECORD = MoveRecord("u-1", "db", "h1", "h2", False, True, False, False, True, "<domain/>", "<domain/>")
STAYED = Settlement(Verdict.STAYED, "it runs at the source")
DOWN = Settlement(Verdict.DOWN, "it is shut off (crashed) at the source")


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("internal error: client socket is closed", "h1 lost its login to the libvirt of h2"),
        ("End of file while reading data: Input/output error", "h1 lost its login to the libvirt of h2"),
        ("operation failed: Lost connection to destination host", "h1 lost its login to the libvirt of h2"),
        ("internal error: qemu unexpectedly closed the monitor: …", "/var/log/libvirt/qemu/db.log"),
        (
            "internal error: Unable to find an unused port in range 'migration' (49152-49215)",
            "ports for migration are taken on h2",
        ),
        ("unable to execute QEMU command 'blockdev-mirror': Need a root block node", "--mode cold can move it"),
    ],
)
def test_known_words_are_explained_and_kept(said: str, meaning: str) -> None:
    found = explained(said, "h1", "h2", "db")
    assert meaning in found
    assert found.endswith(f": {said}")


@pytest.mark.parametrize("said", ["", "cancelled on request", "nothing has moved for 20 s", "{source}"])
def test_other_words_stay(said: str) -> None:
    assert explained(said, "h1", "h2", "db") == said


@pytest.mark.parametrize("why", ["cancelled on request", "cancelled on request of ana", "not done within the deadline"])
def test_nothing_stands_in_the_way_of_what_was_cancelled(why: str) -> None:
    assert not_moved(RECORD, STAYED, why, Residue(), 7).remedy == "what was done: mudanza job show 7"


def test_what_failed_is_to_be_checked() -> None:
    error = not_moved(RECORD, STAYED, "client socket is closed", Residue(kept=("h2:/x",)), 7)
    assert isinstance(error, MigrationFailedError)
    assert "mudanza check u-1 --to h2" in error.remedy
    assert "left over: h2:/x" in error.vm_state


@pytest.mark.parametrize(("name", "word"), [("db", "db"), ("--help", "u-1"), ("a;reboot", "u-1")])
def test_a_vm_that_is_down_can_be_started_where_it_lies(name: str, word: str) -> None:
    record = MoveRecord("u-1", name, "h1", "h2", False, True, False, False, True, "<domain/>", "<domain/>")
    error = not_moved(record, DOWN, "", Residue(), 7)
    assert isinstance(error, VmDownError)
    assert error.remedy.startswith(f"start it on h1, where it lies: mudanza start {word};")
    assert "check" not in error.remedy
