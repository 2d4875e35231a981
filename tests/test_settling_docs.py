"""The tables in docs/settling.md are what the code decides: every combination is tried, and none is left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mudanza.hypervisor.states import reason_name
from mudanza.migration.cold import settle as cold
from mudanza.migration.relocation.settle import At, Copying, DiskStanding, Next, Standing, settle_off, settle_running
from mudanza.migration.settle import Act, settle
from mudanza.model.migration import Qemu, Side, Sighting
from mudanza.model.vm import VmState

TEXT = (Path(__file__).parents[1] / "docs/settling.md").read_text(encoding="utf-8")
Row = tuple[str, ...]


def table(after: str) -> list[Row]:
    """Return the rows of the first table after these words, without its head."""
    assert TEXT.count(after) == 1, after
    lines = TEXT.partition(after)[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| ---"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 1 :])
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in rows]


def sightings() -> Iterator[Sighting]:
    """Yield everything that a host can say: every state with every reason that libvirt has for it."""
    yield Sighting(Side.ABSENT)
    for qemu in (None, *Qemu):
        yield Sighting(Side.UNSEEN, reason="no answer", qemu=qemu)
    for state in VmState:
        for reason in dict.fromkeys(reason_name(state, number) for number in range(40)):
            yield Sighting(Side.PRESENT, state, reason, persistent=True)
    yield Sighting(Side.PRESENT, VmState.RUNNING, "migration canceled", persistent=True, kept=True)


SIGHTINGS = tuple(sightings())
POST_COPY = ("post-copy", "post-copy failed")
ANEW = ("booted", "restored", "from snapshot")
BY_LIBVIRT = ("migrating", "post-copy", "unknown")
COMING = ("migrating", "starting up")
LATER = ("user", "I/O error", "watchdog", "crashed", "saving", "dumping", "creating snapshot")

Says = Callable[[Sighting], bool]


def is_on(seen: Sighting) -> bool:
    return seen.side is Side.PRESENT and seen.state.active


def is_paused(seen: Sighting) -> bool:
    return seen.side is Side.PRESENT and seen.state is VmState.PAUSED


def is_off(seen: Sighting) -> bool:
    return seen.side is Side.PRESENT and seen.state in (VmState.SHUTOFF, VmState.CRASHED)


BOTH: dict[str, Says] = {
    "any": lambda seen: True,
    "no such domain": lambda seen: seen.side is Side.ABSENT,
    "cannot be asked": lambda seen: seen.side is Side.UNSEEN,
    "no state": lambda seen: seen.side is Side.PRESENT and seen.state is VmState.NOSTATE,
    "on": is_on,
    "not off": lambda seen: is_on(seen) or seen.side is Side.UNSEEN,
    "runs": lambda seen: seen.running,
    "in post-copy": lambda seen: is_on(seen) and seen.reason in POST_COPY,
    "suspended": lambda seen: seen.side is Side.PRESENT and seen.state is VmState.PMSUSPENDED,
    "shutting down": lambda seen: seen.side is Side.PRESENT and seen.state is VmState.SHUTDOWN,
    "off (migrated)": lambda seen: is_off(seen) and seen.reason == "migrated",
}
AT_SOURCE = BOTH | {
    "runs again": lambda seen: seen.running and seen.reason == "migration canceled" and not seen.kept,
    "stopped": lambda seen: is_paused(seen) and seen.reason in BY_LIBVIRT,
    "paused": lambda seen: is_paused(seen) and seen.reason not in BY_LIBVIRT,
    "paused by somebody": lambda seen: is_paused(seen) and seen.reason == "user",
    "off": lambda seen: is_off(seen) and seen.reason != "migrated",
}
AT_TARGET = BOTH | {
    "started there": lambda seen: seen.running and seen.reason in ANEW,
    "arrived": lambda seen: seen.running and seen.reason not in ANEW,
    "incoming": lambda seen: is_paused(seen) and seen.reason in COMING,
    "resting": lambda seen: is_paused(seen) and seen.reason not in COMING,
    "stopped there": lambda seen: is_paused(seen) and seen.reason in LATER,
    "silent, no QEMU there": lambda seen: seen.qemu is Qemu.GONE,
    "silent, QEMU never ran": lambda seen: seen.qemu is Qemu.NEVER_RAN,
    "silent, QEMU ran": lambda seen: seen.qemu is Qemu.RAN,
    "off": lambda seen: is_off(seen) and seen.reason not in ("migrated", "shutdown"),
    "off (shutdown)": lambda seen: is_off(seen) and seen.reason == "shutdown",
}
ACTS = {
    "end the target's QEMU by ssh": Act.END_TARGET_QEMU,
    "end what is left at the target": Act.END_TARGET_REST,
    "end the source's copy": Act.DROP_SOURCE_COPY,
    "end the incoming copy": Act.END_TARGET_COPY,
    "resume at the source": Act.RESUME_SOURCE,
    "resume at the target": Act.RESUME_TARGET,
}
NO_OR_YES = {"any": (False, True), "none": (False,), "no": (False,), "under way": (True,), "yes": (True,)}


def fits(words: str, seen: Sighting, known: dict[str, Says]) -> bool:
    return any(known[word](seen) for word in words.split(" or "))


POSTCOPY = table("and either QEMU has ended, these rows come first:")
LIVE = table("Else the first row that fits counts; *any* is everything.")


def the_row(source: Sighting, target: Sighting, *, job: bool, was_paused: bool) -> Row | None:
    for row in LIVE:
        if not (fits(row[0], source, AT_SOURCE) and fits(row[1], target, AT_TARGET)):
            continue
        if job in NO_OR_YES[row[2]] and was_paused in NO_OR_YES[row[3]]:
            return row
    return None


def the_row_after_postcopy(source: Sighting, target: Sighting, *, ran_there: bool) -> Row | None:
    if not (ran_there or BOTH["in post-copy"](source) or BOTH["in post-copy"](target)):
        return None
    for row in POSTCOPY:
        if fits(row[0], source, AT_SOURCE) and fits(row[1], target, AT_TARGET):
            return row
    return None


def with_job(seen: Sighting) -> Sighting:
    return Sighting(seen.side, seen.state, seen.reason, seen.persistent, "migration out" if is_on(seen) else None)


def test_a_live_move_is_settled_as_its_table_says() -> None:
    used = set()
    either = (False, True)
    for source, target, job, was_paused in itertools.product(SIGHTINGS, SIGHTINGS, either, either):
        if the_row_after_postcopy(source, target, ran_there=False) is not None:
            continue
        here = with_job(source) if job else source
        there = with_job(target) if job else target
        under_way = bool(here.job or there.job)
        row = the_row(source, target, job=under_way, was_paused=was_paused)
        assert row is not None, f"no row for {source}, {target}"
        used.add(row)
        found = settle(here, there, was_paused=was_paused)
        acts = tuple(act for words, act in ACTS.items() if words in row[5])
        assert (found.verdict.value, found.acts) == (row[4], acts), (source, target, under_way, was_paused, row)
        assert found.arrived == ("keeps its definition and disks" not in row[5])
        assert bool(found.remark) == ("report says" in row[5]), (row, found)
    assert used == set(LIVE), f"nothing leads to {set(LIVE) - used}"


def test_a_live_move_is_settled_as_its_table_says_after_postcopy() -> None:
    used = set()
    for source, target, job, ran_there in itertools.product(SIGHTINGS, SIGHTINGS, (False, True), (False, True)):
        row = the_row_after_postcopy(source, target, ran_there=ran_there)
        here, there = (with_job(source), with_job(target)) if job else (source, target)
        found = settle(here, there, ran_there=ran_there)
        if row is None:
            assert found == settle(here, there)
            continue
        used.add(row)
        acts = tuple(act for words, act in ACTS.items() if words in row[3])
        assert (found.verdict.value, found.acts) == (row[2], acts), (source, target, job, ran_there, row)
        assert bool(found.remark) == ("report says" in row[3]), (row, found)
    assert used == set(POSTCOPY), f"nothing leads to {set(POSTCOPY) - used}"


def test_what_is_said_of_a_live_move_has_a_meaning() -> None:
    words = {word for row in LIVE for cell in row[:2] for word in cell.split(" or ")}
    explained = TEXT.partition("| a host says |")[2].partition("\n\n")[0]
    plain = {"any", "no such domain", "cannot be asked", "no state", "suspended", "shutting down"}
    assert [word for word in words - plain if word.removeprefix("paused ") not in explained] == []


COLD_WORDS: dict[str, Says] = {
    **{word: BOTH[word] for word in ("no such domain", "cannot be asked")},
    "anything": BOTH["any"],
    "off": is_off,
    "runs": lambda seen: is_on(seen) or BOTH["no state"](seen),
}
Facts = tuple[bool, bool, bool]
"""What the journal says: compared, defined, let go."""
JOURNAL: dict[str, Callable[[Facts], bool]] = {
    "anything": lambda facts: True,
    "compared and defined": lambda facts: facts[0] and facts[1],
    "compared, defined and let go": all,
    "not all three": lambda facts: not all(facts),
    "defined": lambda facts: facts[1],
    "defined, not compared": lambda facts: facts[1] and not facts[0],
    "not defined": lambda facts: not facts[1],
    "not both": lambda facts: not (facts[0] and facts[1]),
}
COLD = table("## A VM that moves switched off")
COLD_VERDICTS = {cold.Next.TAKE_BACK: "take back"}


def test_a_cold_move_is_settled_as_its_table_says() -> None:
    used = set()
    either = (False, True)
    everything: list[Facts] = [(one, two, three) for one in either for two in either for three in either]
    for source, target, facts in itertools.product(SIGHTINGS, SIGHTINGS, everything):
        rows = [
            row
            for row in COLD
            if fits(row[0], source, COLD_WORDS) and fits(row[1], target, COLD_WORDS) and JOURNAL[row[2]](facts)
        ]
        assert len(rows) == 1, (source, target, facts, rows)
        used.add(rows[0])
        compared, defined, let_go = facts
        found = cold.settle_cold(source, target, compared=compared, defined=defined, let_go=let_go)
        assert COLD_VERDICTS.get(found.next, found.next.value) == rows[0][3], (source, target, facts)
    assert used == set(COLD), f"nothing leads to {set(COLD) - used}"


STEPS = {
    "person": Next.PERSON,
    "clean up the old place": Next.FINISH,
    "clean up the new place": Next.UNDO,
    "define": Next.DEFINE,
    "end the copies": Next.ABORT,
    "copy": Next.COPY,
    "wait": Next.WAIT,
    "change over": Next.PIVOT,
    "switch off": Next.SWITCH_OFF,
}
Disks = Sequence[DiskStanding]


def strange(disks: Disks) -> bool:
    return any(At.ELSEWHERE in (disk.live, disk.kept) or disk.copying is Copying.FOREIGN for disk in disks)


def are_off(disks: Disks) -> bool:
    return all(disk.live is None for disk in disks)


def all_at(place: At, disks: Disks) -> bool:
    return all(disk.used is place for disk in disks)


def out_of_line(disks: Disks) -> bool:
    return any(disk.kept is not None and disk.kept is not disk.live for disk in disks)


def behind(disks: Disks) -> list[DiskStanding]:
    return [disk for disk in disks if disk.used is At.OLD]


def some_moved(disks: Disks) -> bool:
    return any(disk.used is At.NEW for disk in disks) and any(disk.copying is Copying.NOT for disk in behind(disks))


def one_is_copied(disks: Disks) -> bool:
    return any(disk.copying is not Copying.NOT for disk in behind(disks))


def one_is_not(disks: Disks) -> bool:
    return any(disk.copying is Copying.NOT for disk in behind(disks))


def kept_at(place: At, disks: Disks) -> bool:
    return all(disk.kept is place for disk in disks)


DISKS: dict[str, Callable[[Disks], bool]] = {
    "no such domain": lambda disks: not disks,
    "one at a third place, or being copied to one": strange,
    "off, all at the new place": lambda disks: are_off(disks) and all_at(At.NEW, disks),
    "off, not all at the new place": are_off,
    "all run from the new place, and the definition names others": lambda d: all_at(At.NEW, d) and out_of_line(d),
    "all run from the new place": lambda disks: all_at(At.NEW, disks),
    "some changed over, one not being copied, one being copied": lambda d: some_moved(d) and one_is_copied(d),
    "some changed over, one not being copied, and the definition names others": lambda d: (
        some_moved(d) and out_of_line(d)
    ),
    "some changed over, one not being copied": some_moved,
    "none being copied, and the definition names others": lambda d: not one_is_copied(d) and out_of_line(d),
    "none being copied": lambda disks: not one_is_copied(disks),
    "one not being copied": one_is_not,
    "all being copied, not all ready": lambda d: any(disk.copying is Copying.UNDER_WAY for disk in behind(d)),
    "all ready": lambda disks: all(disk.copying is Copying.READY for disk in behind(disks)),
    "in two places": lambda d: len({disk.kept for disk in d}) > 1 or len({disk.used for disk in d}) > 1,
    "all at the new place": lambda disks: kept_at(At.NEW, disks) and all_at(At.NEW, disks),
    "defined at the new place, running from the old": lambda d: kept_at(At.NEW, d) and all_at(At.OLD, d),
    "defined at the old place, running from the new": lambda d: kept_at(At.OLD, d) and all_at(At.NEW, d),
    "off, all at the old place": are_off,
    "running from the old place": lambda disks: True,
}


def standings(*, transient: bool) -> Iterator[Standing]:
    """Yield what up to three disks can be like together.

    A VM that is off runs none, and one without a definition keeps none.
    """
    yield {}
    lives: list[Sequence[At | None]] = [tuple(At), (None,)]
    kepts: list[Sequence[At | None]] = [tuple(At), (None,)] if transient else [tuple(At)]
    for live, kept in itertools.product(lives, kepts):
        if live == (None,) and kept == (None,):
            continue
        copying = (Copying.NOT,) if live == (None,) else tuple(Copying)
        each = [DiskStanding(*one) for one in itertools.product(live, kept, copying)]
        yield from ({"vda": one} for one in each)
        yield from ({"vda": one, "vdb": other} for one, other in itertools.product(each, each))
        plain = [disk for disk in each if disk.kept in (disk.live, None)]
        yield from (
            dict(zip(("vda", "vdb", "vdc"), three, strict=True)) for three in itertools.product(plain, repeat=3)
        )


@pytest.mark.parametrize("wanted", [False, True])
def test_disks_of_a_running_vm_are_settled_as_their_table_says(wanted: bool) -> None:
    rows = table("While it runs, or ran when the move began:")
    used = set()
    for standing in standings(transient=True):
        disks = tuple(standing.values())
        row = next(row for row in rows if DISKS[row[0]](disks))
        used.add(row)
        assert settle_running(standing, wanted=wanted).next is STEPS[row[1 if wanted else 2]], (standing, row)
    assert used == set(rows), f"nothing leads to {set(rows) - used}"


@pytest.mark.parametrize(("column", "wanted", "yet_to_stop"), [(1, True, True), (2, True, False), (3, False, False)])
def test_disks_of_a_vm_that_is_off_are_settled_as_their_table_says(
    column: int, wanted: bool, yet_to_stop: bool
) -> None:
    rows = table("Moved while it is off:")
    used = set()
    for standing in standings(transient=False):
        disks = tuple(standing.values())
        row = next(row for row in rows if DISKS[row[0]](disks))
        used.add(row)
        found = settle_off(standing, wanted=wanted, to_be_switched_off=yet_to_stop)
        assert found.next is STEPS[row[column]], (standing, row)
    assert used == set(rows), f"nothing leads to {set(rows) - used}"
