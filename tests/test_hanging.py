"""Does a guest hang? Only one that was heard, is silent with its channel open, and does nothing else for so long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.availability.hanging import Listened, hangs, listen
from mudanza.availability.mending import NOBODY, mends
from mudanza.model.errors import UsageError
from mudanza.model.kept import Care, KeptUp, OnHang, Past
from mudanza.model.pulse import Pulse, Voice
from mudanza.model.vm import VmState
from tests import factories as make

FINE = Pulse(1, True, Voice.ANSWERS, 10.0, 1000, 50)
SILENT = replace(FINE, voice=Voice.SILENT)


def after(*pulses: Pulse, every: float = 15.0) -> Listened:
    known: Listened | None = None
    for number, pulse in enumerate(pulses):
        known = listen(known, pulse, number * every)
    assert known is not None
    return known


def test_one_that_was_heard_and_does_nothing_any_more_hangs() -> None:
    known = after(FINE, *[SILENT] * 5)
    assert hangs(known, 75.0) == ("its agent is silent, and it has read, written and sent nothing, for 1 min 15 s")
    assert hangs(known, 76.0) == ""


def test_one_that_spins_hangs_too() -> None:
    assert hangs(after(FINE, *[replace(SILENT, cpu_seconds=10.0 + 15.0 * n) for n in range(1, 6)]), 60.0)
    assert not hangs(after(FINE, *[replace(SILENT, cpu_seconds=10.0 + 5.0 * n) for n in range(1, 6)]), 60.0)


@pytest.mark.parametrize(
    "last",
    [
        replace(SILENT, disk_bytes=1001),
        replace(SILENT, sent_packets=51),
        replace(SILENT, disk_bytes=None),
        replace(SILENT, cpu_seconds=None),
        replace(SILENT, sent_packets=None),
        replace(SILENT, running=False),
        replace(SILENT, run=2),
        replace(SILENT, voice=Voice.NOT_THERE),
        replace(SILENT, voice=Voice.UNKNOWN),
        FINE,
    ],
)
def test_any_sign_of_life_or_doubt_begins_anew(last: Pulse) -> None:
    assert hangs(after(FINE, *[SILENT] * 9, last), 30.0) == ""


def test_one_that_was_never_heard_is_left_alone() -> None:
    assert hangs(after(*[SILENT] * 20), 30.0) == ""
    assert hangs(after(FINE, replace(SILENT, run=2), *[replace(SILENT, run=2)] * 20), 30.0) == "", "it was restarted"


pulses = st.builds(
    Pulse,
    run=st.integers(1, 2),
    running=st.booleans(),
    voice=st.sampled_from(Voice),
    cpu_seconds=st.one_of(st.none(), st.floats(0, 100)),
    disk_bytes=st.one_of(st.none(), st.integers(0, 1)),
    sent_packets=st.one_of(st.none(), st.integers(0, 1)),
)


@given(st.lists(pulses, min_size=1, max_size=15), st.floats(0.1, 60))
def test_whoever_hangs_was_heard_and_is_silent_in_every_look_since(found: Sequence[Pulse], every: float) -> None:
    known = after(*found, every=every)
    if not hangs(known, every * 1.5):
        return
    looks = round((known.at - (known.since or 0.0)) / every)
    last = found[-looks:]
    assert {pulse.voice for pulse in last} == {Voice.SILENT}
    assert len({(pulse.run, pulse.disk_bytes, pulse.sent_packets) for pulse in found[-looks - 1 :]}) == 1
    assert any(pulse.voice is Voice.ANSWERS and pulse.run == found[-1].run for pulse in found)


def kept(on_hang: OnHang = OnHang.RESTART) -> dict[str, KeptUp]:
    return {"u-db": KeptUp("u-db", "db", 5, 3, False, "ana", 0.0, "h1", (), Care(on_hang=on_hang))}


def mended(
    state: VmState,
    reason: str,
    who: dict[str, KeptUp],
    past: Past | None = None,
    hung: bool = False,
    *,
    closed: bool = False,
) -> tuple[list[str], tuple[str, ...]]:
    vm = make.vm(name="db", uuid="u-db", host="h1", state=state, reason=reason)
    hosts = [make.host("h1", entry=make.entry("h1", maintenance=closed)), make.host("h2")]
    why = {"u-db": "it is silent"} if hung else NOBODY
    found, told = mends(who, make.cluster(hosts, [vm]), {"u-db": past or Past()}, {}, 1000.0, why)
    return [each.act.value for each in found], told


def test_one_that_hangs_is_reset_only_where_that_was_said() -> None:
    assert mended(VmState.PAUSED, "watchdog", kept()) == (["reset"], ())
    told = ("db on h1 hangs: its watchdog has it stand still",)
    assert mended(VmState.PAUSED, "watchdog", kept(OnHang.TELL)) == ([], told)
    assert mended(VmState.PAUSED, "watchdog", kept(), closed=True) == ([], told)
    assert mended(VmState.RUNNING, "booted", kept(), hung=True) == (["reset"], ())
    assert mended(VmState.RUNNING, "booted", kept(OnHang.TELL), hung=True) == ([], ("db on h1 hangs: it is silent",))
    assert mended(VmState.RUNNING, "booted", kept()) == ([], ())
    assert mended(VmState.PAUSED, "user", kept(), hung=True) == ([], ()), "somebody has paused it"
    crashed = mended(VmState.PAUSED, "crashed", kept())
    assert crashed == ([], ("db on h1 has crashed in itself, and stands still",)), "that is kept for a look"


def test_a_watchdog_that_only_says_so_is_believed_where_that_was_said() -> None:
    def barked(who: dict[str, KeptUp], state: VmState = VmState.RUNNING, reason: str = "booted") -> list[bool]:
        vm = make.vm(name="db", uuid="u-db", host="h1", state=state, reason=reason)
        found, _ = mends(who, make.cluster([make.host("h1")], [vm]), {}, {}, 0.0, NOBODY, ["u-db"])
        return [each.by_watchdog for each in found]

    assert barked(kept()) == [True]
    assert barked(kept(OnHang.TELL)) == []
    assert barked(kept(), VmState.PAUSED, "watchdog") == [False], "another watchdog has it stand still"
    assert barked(kept(), VmState.PAUSED, "user") == []
    assert barked(kept(), VmState.SHUTOFF, "shutdown") == []


def test_it_is_not_reset_without_end() -> None:
    assert mended(VmState.PAUSED, "watchdog", kept(), Past(within_a_day=3, ago=900.0))[0] == []
    assert "not again" in mended(VmState.PAUSED, "watchdog", kept(), Past(within_a_day=3, ago=900.0))[1][0]
    assert mended(VmState.PAUSED, "watchdog", kept(), Past(failed=1, ago=10.0)) == ([], ())
    assert mended(VmState.PAUSED, "watchdog", kept(), Past(under_way=True)) == ([], ())


@pytest.mark.parametrize(
    "care",
    [Care(max_loss=5.0), Care(hang_after=1.0), Care(answers="http://x"), Care(answers="tcp:x"), Care(answers="ping:")],
)
def test_what_cannot_be_meant_is_refused(care: Care) -> None:
    with pytest.raises(UsageError):
        care.refuse_wrong()
