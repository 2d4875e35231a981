"""Starting and stopping real guests."""

from __future__ import annotations

import pytest

from mudanza.lab import faults
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from tests.lab.command import Mudanza
from tests.lab.test_migrate import MakeGuest, make_guest

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab


def test_a_guest_asked_while_it_boots_shuts_down_all_the_same(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("early")
    virsh(lab.cell("h1"), "destroy", guest.uuid)
    mudanza("start", "early")
    done = mudanza("shutdown", "early")
    assert "early is off" in done.err
    assert guest.states() == {"h1": "shut off"}
    assert "asked again" in done.err, "it did not listen yet when it was asked first"
    assert "nothing to do" in mudanza("shutdown", "early").err


@pytest.mark.soak
def test_a_guest_that_does_not_answer_is_told_with_its_state(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    make_guest("silent")
    faults.kill_qemu(lab, "h1", "silent")
    told = mudanza("lab", "verify", "silent", "--lab", lab.name, expect=1)
    assert "guest silent does not answer" in told.err
    assert "the VM: shut off on h1" in told.err
    assert "python" not in told.err, "how we asked is nobody's business"
