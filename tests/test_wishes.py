"""A VM's own wishes: what its metadata says, what of it is heeded, and what gives way to the command line."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mudanza.cli.limits import limits_asked
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.hypervisor.xml.wishes import WISHES_NAMESPACE, wishes_xml
from mudanza.model.migration import MigrationOptions, own_in_words, with_wishes
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.vm import VmState
from mudanza.model.wishes import NAMES, VmWishes, wishes_of


def wishes_in(metadata: str) -> VmWishes | None:
    xml = f"<domain type='kvm'><name>db</name><uuid>u</uuid><metadata>{metadata}</metadata></domain>"
    return parse_vm(xml, host="h1", state=VmState.SHUTOFF).wishes


def merged(said: dict[str, str], **named: str | None) -> MigrationOptions:
    asked = {"max_downtime": None, "deadline": None, "policy": None, "post_copy": None, **named}
    return with_wishes(MigrationOptions(**limits_asked(**asked)), wishes_of(said))  # type: ignore[arg-type]


def test_they_are_read_from_a_namespace_of_their_own() -> None:
    element = f"<w:wishes xmlns:w='{WISHES_NAMESPACE}' policy='gentle' max-downtime='0.5s' post-copy='never'/>"
    other = "<x:wishes xmlns:x='https://example.org/' policy='now'/>"
    assert wishes_in(other) is None
    found = wishes_in(other + element)
    assert found is not None
    assert (found.policy, found.max_downtime, found.deadline) == (Policy.GENTLE, 0.5, None)
    assert (found.post_copy, found.faults) == (PostCopy.NEVER, {})


def test_what_is_written_is_read_again() -> None:
    said = {"policy": "gentle", "deadline": "5m", "max-downtime": "80ms", "post-copy": "allow", "hooks": "dns pool"}
    said |= {"balance": "manual", "balance-window": "22:00-06:00 12:00-13:00"}
    assert set(said) == set(NAMES)
    written = wishes_xml(said).replace("<wishes", f"<wishes xmlns='{WISHES_NAMESPACE}'")
    assert wishes_in(written) == wishes_of(said)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("policy", "gentel", "none of auto, gentle, deadline, now"),
        ("policy", "", "none of"),
        ("post-copy", "yes", "none of allow, never, now"),
        ("max-downtime", "500", "names no unit"),
        ("max-downtime", "3000s", "between 1ms and 2000s"),
        ("max-downtime", "0", "between"),
        ("deadline", "soon", "not a duration"),
        ("deadline", "0s", "more than nothing"),
        ("balance", "sometimes", "none of auto, manual, advise, never"),
        ("balance-window", "22-6", "not a window"),
        ("balance-window", " ", "names no window"),
        ("polcy", "auto", "no such wish"),
    ],
)
def test_what_cannot_be_heeded_is_said_and_the_rest_is_heeded(name: str, text: str, why: str) -> None:
    other = ("policy", "auto") if name == "deadline" else ("deadline", "5m")
    found = wishes_of({name: text, other[0]: other[1]})
    assert why in found.faults[name]
    assert list(found.faults) == [name]
    assert (found.deadline, found.policy) == ((None, Policy.AUTO) if name == "deadline" else (300.0, None))


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=9), st.text(max_size=9)))
@example({"max-downtime": "\u00b9"})  # a digit, and no number
def test_reading_never_fails(said: dict[str, str]) -> None:
    found = wishes_of(said)
    assert set(found.faults) <= set(said)
    with_wishes(MigrationOptions(), found)


def test_the_command_line_counts_for_more_than_the_vm_and_that_for_more_than_what_is_usual() -> None:
    said = {"policy": "gentle", "max-downtime": "80ms"}
    alone = merged(said)
    assert (alone.policy, alone.max_downtime, alone.deadline) == (Policy.GENTLE, 0.08, None)
    assert alone.own == ("policy", "max_downtime")
    assert own_in_words(alone) == ("policy gentle", "downtime up to 80 ms")
    named = merged(said, max_downtime="300ms")  # the usual one, and named all the same
    assert (named.policy, named.max_downtime, named.own) == (Policy.GENTLE, 0.3, ("policy",))
    assert merged({}).own == ()


def test_a_policy_that_was_named_decides_about_post_copy_too() -> None:
    said = {"policy": "auto", "post-copy": "allow"}
    assert merged(said).postcopy is PostCopy.ALLOW
    assert merged(said, policy="gentle").post_copy is None
    careful = {"post-copy": "never"}
    assert merged(careful).postcopy is PostCopy.NEVER
    assert merged(careful, post_copy="allow").post_copy == "allow"


def test_hearing_a_vm_twice_changes_nothing() -> None:
    once = merged({"policy": "gentle", "deadline": "5m"}, deadline="9m")
    assert with_wishes(once, wishes_of({"policy": "gentle", "deadline": "5m"})) == once
