"""Claims in a VM's metadata: written and read as they are, disturbing nothing, and good for adopting the job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.migration.vm_claim import bare, in_the_way, is_void
from mudanza.model.claim import Claim
from tests import factories as make

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
