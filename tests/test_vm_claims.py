"""Claims in a VM's metadata: written and read as they are, disturbing nothing, and good for adopting the job."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.claims import (
    claim_namespace,
    claim_xml,
    read_claims,
    same_definition,
    with_claim,
    without_claim,
)
from mudanza.hypervisor.xml.parsing import parse
from mudanza.journal.database import open_database
from mudanza.journal.jobs import LEASE, Jobs, NewJob
from mudanza.migration import claim as holding
from mudanza.migration import vm_claim
from mudanza.migration.vm_claim import VmClaim, bare, in_the_way, is_void
from mudanza.model.claim import Claim
from mudanza.model.errors import BlockedError, HostUnreachableError
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import VmState
from tests import factories as make
from tests.timekeeping import SetClock, set_clock

TAGGED = """<domain type='kvm'>
  <name>db</name>
  <metadata>
    <m:mudanza xmlns:m="https://mudanza.dev/xmlns/1"><m:tag>db</m:tag></m:mudanza>
  </metadata>
  <devices/>
</domain>"""
PLAIN = "<domain type='kvm'><name>db</name><devices/></domain>"
OTHER = replace(make.CLAIM, journal="f" * 32, job=3)

texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)


@given(texts, texts, st.lists(texts.filter(bool), max_size=3, unique=True))
def test_a_claim_is_read_as_it_was_written(who: str, record: str, made: list[str]) -> None:
    claim = replace(make.CLAIM, controller=who, record=record.strip(), made=tuple(made), done=("compare",), took="x-1")
    assert read_claims(parse(with_claim(TAGGED, claim), "h1")) == (claim,)


@pytest.mark.parametrize("before", [TAGGED, PLAIN])
def test_taken_away_it_leaves_the_definition_as_it_was(before: str) -> None:
    claimed = with_claim(before, make.CLAIM)
    assert without_claim(claimed) != claimed
    assert same_definition(claimed, before)
    assert same_definition(without_claim(claimed), before)
    assert "m:tag" in claimed or before == PLAIN
    assert not same_definition(claimed, before.replace("db</name>", "other</name>"))
    assert not same_definition(claimed, before.replace("<devices/>", "<devices><tpm/></devices>"))


def test_each_journal_has_a_place_of_its_own() -> None:
    """As libvirt keeps them: one element for each namespace, whatever its prefix."""
    elements = (
        claim_xml(claim).replace("<claim ", f"<claim xmlns='{claim_namespace(claim.journal)}' ", 1)
        for claim in (make.CLAIM, OTHER)
    )
    both = TAGGED.replace("</metadata>", "".join(elements) + "</metadata>")
    assert read_claims(parse(both, "h1")) == (make.CLAIM, OTHER)
    assert claim_namespace(make.CLAIM.journal) != claim_namespace(OTHER.journal)
    moved = with_claim(both, make.CLAIM)
    assert read_claims(parse(moved, "h2")) == (make.CLAIM,), "what lost the race does not travel"


def test_a_damaged_claim_is_a_claim_all_the_same() -> None:
    damaged = TAGGED.replace("</metadata>", f"<c:claim xmlns:c='{claim_namespace('abc')}' job='x'/></metadata>")
    (claim,) = read_claims(parse(damaged, "h1"))
    assert (claim.journal, claim.job, claim.name) == ("abc", 0, "abc-0")
    assert "unknown controller" in claim.in_words


def test_what_is_in_the_way(tmp_path: Path) -> None:
    jobs = Jobs(open_database(str(tmp_path / "m.db")))
    assert jobs.journal == Jobs(open_database(str(tmp_path / "m.db"))).journal
    assert jobs.journal != Jobs(open_database(str(tmp_path / "n.db"))).journal
    handle = jobs.begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop"))
    own = replace(make.CLAIM, journal=jobs.journal, job=handle.id)
    unknown = replace(own, job=99)
    assert in_the_way(jobs, ()) is None
    assert in_the_way(jobs, (own,)) is None, "the unfinished job says it better"
    assert in_the_way(jobs, (own, make.CLAIM)) == make.CLAIM
    assert in_the_way(jobs, (unknown,)) == unknown
    assert not is_void(jobs, own)
    handle.finish("done", "moved", 0)
    assert in_the_way(jobs, (own,)) is None
    assert is_void(jobs, own)
    assert not is_void(jobs, make.CLAIM)


def test_no_definition_gets_into_a_claim() -> None:
    def texts_of(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for each in value.values() for text in texts_of(each)]
        if isinstance(value, list):
            return [text for each in value for text in texts_of(each)]
        return [str(value)]

    record = {"xml": "<secret/>", "cold": {"target_xml": "<secret/>", "files": [{"path": "/a"}]}, "saved_xml": None}
    assert bare(record) == {"cold": {"files": [{"path": "/a"}]}}
    assert texts_of(bare(record)) == ["/a"]
    assert Claim.__dataclass_fields__["record"].repr is False


class Turns:
    """Lets threads do one thing each in an order that was chosen, then all as they like."""

    def __init__(self, order: Sequence[int], everybody: Sequence[int]) -> None:
        self._order = deque(order)
        self._busy = set(everybody)
        self._changed = threading.Condition()

    def take(self, who: int, act: Callable[[], Any]) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: self._next() in (None, who), timeout=60)
            if self._order:
                self._order.popleft()
            result = act()
            self._changed.notify_all()
            return result

    def leave(self, who: int) -> None:
        with self._changed:
            self._busy.discard(who)
            self._changed.notify_all()

    def _next(self) -> int | None:
        while self._order and self._order[0] not in self._busy:
            self._order.popleft()
        return self._order[0] if self._order else None


class Metadata:
    """A VM's metadata as one controller reaches it. libvirt carries each call out as a whole, in some order: that
    order is what no real host lets a test choose."""

    def __init__(self, there: dict[str, Claim], turns: Turns, who: int) -> None:
        self._there, self._turns, self._who = there, turns, who

    def domains(self, _host: str) -> Metadata:
        return self

    def sighting(self, _uuid: str) -> Sighting:
        return Sighting(Side.PRESENT, VmState.RUNNING, "booted", persistent=True)

    def claims(self, _uuid: str) -> tuple[Claim, ...]:
        return cast(tuple[Claim, ...], self._turns.take(self._who, lambda: tuple(self._there.values())))

    def set_claim(self, _uuid: str, claim: Claim) -> None:
        self._turns.take(self._who, lambda: self._there.__setitem__(claim.journal, claim))

    def drop_claim(self, _uuid: str, journal: str) -> None:
        self._turns.take(self._who, lambda: self._there.pop(journal, None))


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Jobs, ...]]:
    places = (tmp_path_factory.mktemp("journal") / "m.db" for _ in range(3))
    found = tuple(Jobs(open_database(str(path))) for path in places)
    before, vm_claim.STEP_BACK = vm_claim.STEP_BACK, 0.0
    yield found
    vm_claim.STEP_BACK = before


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_in_whatever_order_things_happen_one_controller_goes_on_at_the_most(
    journals: tuple[Jobs, ...], order: list[int]
) -> None:
    there: dict[str, Claim] = {}
    turns = Turns(order, range(len(journals)))
    outcomes: dict[int, str] = {}
    handles = [jobs.begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop")) for jobs in journals]

    def contend(who: int) -> None:
        claim = VmClaim(cast(Connections, Metadata(there, turns, who)), journals[who], handles[who], {})
        try:
            claim.take()
            outcomes[who] = "won"
        except BlockedError as refused:
            outcomes[who] = str(refused)
        finally:
            turns.leave(who)

    threads = [threading.Thread(target=contend, args=(who,)) for who in range(len(journals))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [who for who, outcome in outcomes.items() if outcome == "won"]
    assert len(outcomes) == len(journals)
    assert len(winners) <= 1
    assert set(there) == {journals[who].journal for who in winners}, "who lost leaves nothing"
    for who in winners:
        handles[who].finish("done", "", 0)


class Hanging:
    """Two hosts that take their time, and then do not answer."""

    def __init__(self, time: SetClock, is_kept: Callable[[], bool]) -> None:
        self._time, self._is_kept = time, is_kept

    def domains(self, _host: str) -> Hanging:
        return self

    def claims(self, _uuid: str) -> tuple[Claim, ...]:
        for _ in range(4):
            self._time.pass_time(LEASE / 3)
            until = monotonic() + 1.0
            while not self._is_kept() and monotonic() < until:
                sleep(0.01)
        raise HostUnreachableError("h2", "no answer within 20 s")


def test_a_host_that_hangs_longer_than_the_lease_does_not_cost_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "KEEP_EVERY", 0.01)
    with set_clock() as time:
        jobs = Jobs(open_database(str(tmp_path / "m.db")))
        handle = jobs.begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop"))
        kept_at = [time.monotonic()]

        def renew(longer: float = 0.0) -> None:
            type(handle).renew(handle, longer)
            kept_at.append(time.monotonic())

        monkeypatch.setattr(handle, "renew", renew)
        hosts = cast(Connections, Hanging(time, lambda: kept_at[-1] == time.monotonic()))
        VmClaim(hosts, jobs, handle, {}).confirm()
        handle.intend("rearm", {})
