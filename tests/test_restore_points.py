"""What restore points are like: which rounds freeze the guest, and what is kept of its firmware."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.hypervisor.backups import aside_xml, backup_xml, places_of
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.shell import HostShell
from mudanza.journal.database import open_database
from mudanza.journal.jobs import JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.protection import (
    Carriage,
    Consistency,
    FirmwareState,
    Protection,
    checkpoint_name,
    is_own_checkpoint,
    own_name,
)
from mudanza.model.vm import VmState
from mudanza.protection import firmware, scripts
from mudanza.protection.freezing import Quiet, frozen
from mudanza.protection.replica import files_of
from mudanza.protection.serving import (
    SOURCE_SOCKETS,
    is_near_socket,
    is_own_place,
    near_socket,
    new_far_socket,
    scratch_of,
)
from mudanza.protection.telling import how_consistent
from tests import factories as make
from tests.test_protection import UUID, VALUES, point, vm_with
from tests.test_protection_pages import protected

JOURNAL = "0123456789abcdef0123456789abcdef"


# Which rounds freeze the guest.


@given(every=st.integers(1, 12), fates=st.lists(st.booleans(), min_size=1, max_size=60))
def test_of_so_many_rounds_each_nth_freezes_and_one_that_broke_off_is_made_up_for(
    every: int, fates: list[bool]
) -> None:
    now = protected(freeze_every=every)
    froze: list[int] = []
    for number, well in enumerate(fates, start=1):
        if now.is_to_be_frozen and well:
            froze.append(number)
        now = replace(now, rounds=number, points=(*now.points, point(number)) if well else now.points)
    for multiple in range(every, len(fates) + 1, every):
        after = [number for number in range(multiple, len(fates) + 1) if fates[number - 1]]
        assert not after or after[0] in froze
    assert len(froze) <= len(fates) // every


def test_nobody_is_frozen_who_does_not_want_it() -> None:
    assert not protected().is_to_be_frozen
    assert protected(freeze_every=1).is_to_be_frozen


# Names that no other journal gives.


def test_two_journals_call_nothing_alike() -> None:
    one, other = (replace(protected(), journal=journal) for journal in (JOURNAL, JOURNAL[::-1]))
    assert one.id == other.id
    assert own_name(one) != own_name(other)
    assert near_socket(one, 1) != near_socket(other, 1)
    [served] = places_of(backup_xml(near_socket(one, 1), {"vda": "/a"}, ""))
    assert (is_near_socket(one, served), is_near_socket(other, served)) == (True, False)
    disk = make.disk(source="/i/vda.qcow2")
    [aside] = places_of(aside_xml({"vda": scratch_of(one, disk, 1)}, "mudanza-1-7"))
    assert (is_own_place(one, [disk], aside), is_own_place(other, [disk], aside)) == (True, False)
    assert is_own_place(one, [disk], served)
    assert not is_own_place(one, [make.disk(source="/i/vdb.qcow2")], aside)
    assert not is_own_place(one, [disk], f"{aside}.old")
    assert is_own_checkpoint(one, checkpoint_name(one, 7))
    assert not is_own_checkpoint(one, checkpoint_name(other, 7))
    assert is_own_checkpoint(one, "mudanza-1-7"), "as they were called before"
    assert is_own_checkpoint(one, f"mudanza-{JOURNAL[:12]}-1-7"), "and after that"
    assert is_near_socket(one, f"{SOURCE_SOCKETS}/mudanza-{JOURNAL[:12]}-1-7.sock"), "and after that"
    assert not is_own_checkpoint(one, "mudanza-12-7")
    assert not is_own_checkpoint(one, "mudanza-1-7-x")


def test_a_protection_whose_number_was_given_again_calls_nothing_as_the_one_before_did(tmp_path: Path) -> None:
    """An image that was no disk of the VM when that was given up still has its bitmaps."""
    engine = open_database(str(tmp_path / "mudanza.db"))
    store = Protections(engine)
    before = store.make(VALUES)
    store.remove(before.id)
    made = store.make(VALUES)
    store.change(made.id, made_at=before.made_at + 1)
    now = store.get(made.id)
    assert now.id == before.id
    assert checkpoint_name(now, 1) != checkpoint_name(before, 1)
    assert near_socket(now, 1) != near_socket(before, 1)
    assert is_near_socket(now, near_socket(before, 1)), "its backup is ended all the same"


def test_the_far_sockets_of_another_journal_are_not_swept(tmp_path: Path) -> None:
    one, other = (replace(protected(), journal=journal) for journal in (JOURNAL, JOURNAL[::-1]))
    mine, theirs, old = (new_far_socket(each, 1) for each in (one, other, one))
    script = scripts.SWEEP.replace("/run/", f"{tmp_path}/")
    found = [tmp_path / Path(each).name for each in (mine, theirs, old)]
    for each in found:
        each.touch()
    values = {"directory": "/nowhere", "protection": own_name(one), "wanted": "", "socket": str(found[0])}
    sh(script, values)
    assert [each.exists() for each in found] == [True, True, False]


def test_a_protection_knows_its_journal_and_keeps_what_is_measured(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "mudanza.db"))
    store = Protections(engine)
    made = store.make({**VALUES, "freeze_every": 3})
    assert len(made.journal) == 32
    assert (made.freeze_every, made.compress, made.carriage) == (3, "auto", Carriage())
    store.measured(made.id, Carriage(rate=1e6, ratio=2.5, speed=3e7))
    taken = replace(
        point(1), consistency=Consistency.APPLICATION, firmware=FirmwareState("firmware.1.tgz", "d"), sent=5, why_not=""
    )
    store.add_point(made.id, taken, "c")
    found = store.of(UUID)
    assert found.carriage == Carriage(rate=1e6, ratio=2.5, speed=3e7)
    assert found.points == (taken,)
    assert files_of(found.points) == {"vda.1.qcow2", "firmware.1.tgz"}


def test_what_a_point_is_like_is_told_only_where_it_was_asked_for() -> None:
    assert how_consistent(point(1)) == ""
    assert "application-consistent" in how_consistent(replace(point(1), consistency=Consistency.APPLICATION))
    assert how_consistent(replace(point(1), why_not="no agent")) == ", crash-consistent only: no agent"


# Freezing.


class Scene:
    """A guest, its host and the journal, and in which order something was asked of them."""

    def __init__(self, freezes: int | Exception = 1, thaws: int | Exception = 1, guardian: str = "/run/g") -> None:
        self.done: list[str] = []
        self._answers = {"freeze": freezes, "thaw": thaws}
        self._guardian = guardian
        self.domains = cast(
            "Domains",
            SimpleNamespace(
                host="h1",
                freeze=lambda _uuid, timeout: self.ask("freeze"),
                thaw=lambda _uuid, timeout: self.ask("thaw"),
                has_no_agent=Domains.has_no_agent,
            ),
        )
        self.here = cast("HostShell", SimpleNamespace(run=self.run))
        self.handle = cast(
            "JobHandle",
            SimpleNamespace(
                perform=lambda _name, _about, act, _outcome=None: act(), note=lambda *_: self.done.append("note")
            ),
        )

    def ask(self, what: str) -> int:
        self.done.append(what)
        answer = self._answers[what]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, script: str, _values: Any, *, what: str) -> list[list[str]]:
        assert what
        self.done.append("guardian" if script == scripts.THAW_GUARD else "called off")
        return [["guardian", self._guardian] if self._guardian else ["guardian"]]

    def play(self, state: VmState = VmState.RUNNING, fault: Exception | None = None) -> Quiet:
        vm = replace(vm_with(), state=state)
        with frozen(self.handle, self.domains, vm, self.here) as quiet:
            self.done.append("instant")
            if fault is not None:
                raise fault
        return quiet


def test_a_guardian_is_there_before_it_is_frozen_and_called_off_after_it_is_thawed() -> None:
    scene = Scene()
    assert scene.play() == Quiet(Consistency.APPLICATION)
    assert scene.done == ["guardian", "freeze", "instant", "thaw", "note", "called off"]


def test_whatever_happens_at_the_instant_it_is_thawed() -> None:
    scene = Scene()
    with suppress(HypervisorError):
        scene.play(fault=HypervisorError("h1", "no backup"))
    assert scene.done == ["guardian", "freeze", "instant", "thaw", "note", "called off"]


def test_one_that_was_thawed_before_its_instant_was_kept_is_not_consistent() -> None:
    quiet = Scene(thaws=0).play()
    assert quiet.consistency is Consistency.CRASH
    assert "somebody thawed it" in quiet.why_not


def test_an_agent_that_does_not_answer_is_thawed_by_its_guardian_which_is_not_called_off() -> None:
    silent = HostUnreachableError("h1", "libvirt did not answer within 15 s")
    scene = Scene(freezes=silent, thaws=silent)
    quiet = scene.play()
    assert quiet.consistency is Consistency.CRASH
    assert "did not freeze" in quiet.why_not
    assert scene.done == ["guardian", "freeze", "instant", "thaw", "note"]


def test_without_a_line_to_an_agent_no_guardian_stays() -> None:
    import libvirt

    none = HypervisorError("h1", "QEMU guest agent is not configured", code=libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED)
    scene = Scene(freezes=none, thaws=none)
    assert scene.play().why_not.startswith("its agent did not freeze")
    assert scene.done[-1] == "called off"


def test_nobody_is_frozen_without_a_guardian_or_while_it_stands_still() -> None:
    scene = Scene(guardian="")
    assert "no virsh" in scene.play().why_not
    assert scene.done == ["guardian", "instant"]
    scene = Scene()
    assert scene.play(VmState.PAUSED).why_not == "it is paused"
    assert scene.done == ["instant"]


def test_a_guardian_thaws_by_itself_and_one_that_was_called_off_does_not(tmp_path: Path) -> None:
    virsh = tmp_path / "virsh"
    virsh.write_text(f'#!/bin/sh\n[ -e {tmp_path}/answers ] || exit 1\necho "$@" >>{tmp_path}/told\n')
    virsh.chmod(0o755)
    script = scripts.THAW_GUARD.replace("/run/", f"{tmp_path}/").replace("sleep 1\n", "sleep 0.05\n")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    off = sh(script, {"uuid": "u-off", "limit": 0.3, "again": 100}, **path).split()[2]
    Path(off).unlink()
    own = Path(sh(script, {"uuid": "u-1", "limit": 0.1, "again": 100}, **path).split()[2])
    assert own.exists()
    (tmp_path / "answers").touch()
    await_gone(own)
    assert (tmp_path / "told").read_text() == "-c qemu:///system domfsthaw --domain u-1\n"


def await_gone(path: Path) -> None:
    subprocess.run(["sh", "-c", 'while [ -e "$1" ]; do sleep 0.05; done', "sh", str(path)], check=True, timeout=30)


# Firmware.


def sh(script: str, values: Mapping[str, object], **environment: str) -> str:
    """Run a script as it is run at a host; return what it prints."""
    text = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items()) + script
    done = subprocess.run(
        ["sh", "-s"],
        input=text,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Local:
    """A shell, here."""

    host = "h1"

    def run(self, script: str, values: dict[str, object], **_: Any) -> list[list[str]]:
        return [line.split()[1:] for line in sh(script, values).splitlines() if line.startswith("@ ")]


DEFINITION = f"""<domain type='kvm'><name>db</name><uuid>{UUID}</uuid><memory>1024</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/x/CODE.fd</loader>{{nvram}}</os>
  <devices>{{tpm}}</devices></domain>"""


@pytest.mark.parametrize(
    ("nvram", "tpm", "found"),
    [
        ("<nvram>/n/db.fd</nvram>", "", firmware.Places("/n/db.fd")),
        ("<nvram template='/x/VARS.fd'/>", "", firmware.Places("/var/lib/libvirt/qemu/nvram/db_VARS.fd")),
        (
            "", "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
            firmware.Places("", f"/var/lib/libvirt/swtpm/{UUID}/tpm2"),
        ),
        (
            "", "<tpm model='tpm-tis'><backend type='emulator' version='1.2'/></tpm>",
            firmware.Places("", f"/var/lib/libvirt/swtpm/{UUID}/tpm1.2"),
        ),
        ("", "<tpm model='tpm-tis'><backend type='passthrough'/></tpm>", firmware.Places()),
        ("", "", firmware.Places()),
    ],
)  # fmt: skip
def test_where_libvirt_keeps_what_the_firmware_knows(nvram: str, tpm: str, found: firmware.Places) -> None:
    assert firmware.places_of(DEFINITION.format(nvram=nvram, tpm=tpm)) == found


@pytest.fixture
def vm_files(tmp_path: Path) -> firmware.Places:
    variables, tpm = tmp_path / "source/nvram/db_VARS.fd", tmp_path / "source/swtpm/u/tpm2"
    variables.parent.mkdir(parents=True)
    tpm.mkdir(parents=True)
    variables.write_bytes(os.urandom(200_000))
    (tpm / "tpm2-00.permall").write_bytes(os.urandom(9000))
    (tpm / ".lock").touch()
    return firmware.Places(str(variables), str(tpm))


def test_what_was_kept_is_in_place_again_and_what_has_not_changed_is_not_brought(
    tmp_path: Path, vm_files: firmware.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cast("HostShell", Local())
    to = replace(protected(), directory=str(tmp_path / "replica"))
    copied = firmware.read(here, vm_files, None)
    assert copied is not None
    state = firmware.keep(here, to, 4, copied, None)
    assert state is not None
    assert state.file == "firmware.4.tgz"
    again = firmware.read(here, vm_files, state)
    assert again == firmware.Copied(state.digest, "")
    assert firmware.keep(here, to, 5, again, state) == state
    before = Path(vm_files.variables).read_bytes()
    Path(vm_files.variables).write_bytes(b"changed" * 10)
    changed = firmware.read(here, vm_files, state)
    assert changed is not None
    assert changed.digest != state.digest

    target = firmware.Places(str(tmp_path / "target/db.fd"), str(tmp_path / "target/swtpm/u/tpm2"))
    monkeypatch.setattr(firmware, "places_of", lambda _: target)
    handle = cast("JobHandle", SimpleNamespace(perform=lambda _name, _about, act: act()))
    for _ in range(2):  # over what is there from earlier days, too
        firmware.put_in_place(handle, here, to, state, "<domain/>")
        assert Path(target.variables).read_bytes() == before
        assert sorted(each.name for each in Path(target.tpm).iterdir()) == ["tpm2-00.permall"]
        on_the_way = (tmp_path / "target", tmp_path / "target/swtpm", tmp_path / "target/swtpm/u")
        assert all(each.stat().st_mode & 0o011 == 0o011 for each in on_the_way), "swtpm and QEMU get through"
        Path(target.variables).write_bytes(b"stale")
        (Path(target.tpm) / "stale").touch()


def test_a_vm_without_firmware_of_its_own_has_nothing_to_keep() -> None:
    nobody = cast("HostShell", None)
    assert firmware.read(nobody, firmware.Places(), None) is None
    assert firmware.keep(nobody, cast("Protection", None), 1, None, FirmwareState("firmware.1.tgz", "d")) is None
