"""What was asked comes out of the journal as it went in: whoever does it later does the same."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from mudanza.migration.asked import own_wishes, read_back, stored
from mudanza.migration.relocation.work import HEEDED
from mudanza.model.migration import MigrationOptions, with_wishes
from mudanza.model.policy import Compression, Policy, PostCopy
from mudanza.model.wishes import FIELDS, wishes_of

MAPS = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
OPTIONS = st.builds(
    MigrationOptions,
    max_downtime=st.floats(0.001, 100),
    bandwidth=st.none() | st.integers(1),
    deadline=st.none() | st.floats(1, 100),
    post_copy=st.none() | st.sampled_from(PostCopy),
    compression=st.sampled_from(Compression),
    map_storage=MAPS,
    map_network=MAPS,
    format=st.none() | st.sampled_from(("raw", "qcow2")),
    probe=st.none() | st.just("ping:db"),
    upon=MAPS,
    epoch=st.none() | st.integers(1),
    named=st.frozensets(st.sampled_from(FIELDS)),
    own=st.lists(st.sampled_from(FIELDS), unique=True).map(tuple),
)


@given(OPTIONS)
def test_nothing_of_it_is_lost(options: MigrationOptions) -> None:
    assert read_back(json.loads(json.dumps(stored(options)))) == replace(options, take_claim=False)


def test_all_of_it_is_written() -> None:
    assert set(stored(MigrationOptions())) == {field.name for field in fields(MigrationOptions)}


def test_what_an_earlier_version_did_not_write_is_as_usual() -> None:
    gentle = MigrationOptions(policy=Policy.GENTLE, named=frozenset({"policy"}))
    assert read_back({"policy": "gentle", "deadline": None}) == gentle


def test_what_was_changed_while_it_ran_is_no_wish_of_the_vm_any_more() -> None:
    heeded = with_wishes(MigrationOptions(), wishes_of({"policy": "gentle", "deadline": "5m"}))
    assert own_wishes(stored(heeded)) == ("policy gentle", "deadline 5 min 0 s")
    tuned = {**stored(heeded), "deadline": 60.0, "named": ["deadline"]}
    assert own_wishes(tuned) == ("policy gentle",)


def test_within_one_host_only_what_matters_there_is_told() -> None:
    heeded = stored(with_wishes(MigrationOptions(), wishes_of({"policy": "gentle", "deadline": "5m"})))
    assert own_wishes(heeded, HEEDED) == ("deadline 5 min 0 s",)
    assert own_wishes(stored(MigrationOptions()), HEEDED) == ()
