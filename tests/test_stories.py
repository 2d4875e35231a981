"""The stories in scenarios/availability come out as they are told, and in none of them is a VM in two places."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.availability.watching import Act, Round, Signs, Standing, Taken, Terms, decide
from tests.story import EVENTS, OF_THE_ROUTER, OF_US, WE_ARE_REPLACED, Story, stories


@pytest.mark.parametrize("path", stories(), ids=lambda path: path.stem)
def test_it_comes_out_as_it_is_told(path: Path) -> None:
    story = Story.read(path)
    world = story.play()
    assert world.faults == []
    assert story.told(world) == story.text, f"see how it comes out: python -m tests.story {path}"


def happenings(names: list[str]) -> st.SearchStrategy[list[tuple[int, str]]]:
    of_hosts = st.builds(
        lambda name, event: name + (event if event.startswith("'") else f" {event}"),
        st.sampled_from(names),
        st.sampled_from(sorted(EVENTS)),
    )
    ours = [*OF_US, *OF_THE_ROUTER, WE_ARE_REPLACED, "db is shut down", "db crashes", "web crashes", "db hangs"]
    ours += ["web does nothing any more", "web answers again", "web stops its agent"]
    what = st.one_of(of_hosts, st.sampled_from(sorted(ours)))
    return st.lists(st.tuples(st.integers(0, 100), what), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda count: st.tuples(
            st.just([f"h{n}" for n in range(1, count + 1)]), happenings([f"h{n}" for n in range(1, count + 1)])
        )
    ),
    st.sampled_from(["honest", "idle", "hanging", "failing", "one supply hangs"]),
    st.sampled_from(["", "with: heartbeat", "with: router", "with: router, heartbeat, mending", "uplink: drain"]),
    st.booleans(),
)
def test_whatever_happens_no_vm_is_in_two_places(
    told: tuple[list[str], list[tuple[int, str]]], agent: str, has: str, vms: bool
) -> None:
    names, events = told
    head = [f"hosts: {' '.join(names)}", "until: 160 s", *([has] if has else [])]
    head += [
        f"{what} of {name}: {value}" for name in names for what, value in (("agent", agent), ("power supplies", 2))
    ]
    if vms:
        head += [
            "vm db: on h1, priority 1, restarts 2",
            "vm web: on h1, hang 30",
            f"vm batch: on {names[-1]}, not kept",
        ]
        head += [f"vm own: on h1, replica {names[-1]}, rounds 20"] if len(names) > 1 else []
    lines = [f"{at:4} s - {what}" for at, what in sorted(events) if vms or not what.startswith(("db ", "web "))]
    world = Story("Anything", "\n".join(["Anything", "", *head, "", *lines, ""])).play()
    assert world.faults == []


signs = st.builds(
    Signs,
    libvirt=st.booleans(),
    ping=st.sampled_from([None, True, False]),
    ssh=st.sampled_from([None, True, False]),
    beat=st.sampled_from([None, True, False]),
    witnesses=st.dictionaries(st.sampled_from(["h8", "h9"]), st.booleans()),
    maintenance=st.booleans(),
    proven_off=st.booleans(),
)


@given(
    st.lists(st.dictionaries(st.sampled_from(["h1", "h2", "h3", "h4"]), signs, min_size=1), min_size=1, max_size=12),
    st.dictionaries(st.just("router"), st.booleans()),
)
def test_nobody_is_fenced_who_lives_or_who_was_not_silent_for_long_enough(
    rounds: list[dict[str, Signs]], anchors: dict[str, bool]
) -> None:
    taken: dict[str, Taken] = {}
    silent_since: dict[str, float] = {}
    terms = Terms(confirm=10.0)
    for number, hosts in enumerate(rounds):
        at = number * 5.0
        for name, found in hosts.items():
            if found.libvirt or found.alive or found.maintenance or found.proven_off:
                silent_since.pop(name, None)
            else:
                silent_since.setdefault(name, at)
        decision = decide(taken, Round(at, hosts, anchors), terms)
        taken = dict(decision.hosts)
        silent = [n for n, s in hosts.items() if not (s.libvirt or s.alive or s.maintenance or s.proven_off)]
        watched = [n for n, s in hosts.items() if not (s.maintenance or s.proven_off)]
        fenced = [name for act, name in decision.acts if act is Act.FENCE]
        for name in fenced:
            assert taken[name].standing is Standing.CONFIRMED
            assert at - silent_since[name] >= terms.confirm
            assert len(silent) <= terms.brake * len(watched)
            assert hosts[name].witnesses or anchors.get("router")
        assert decision.said
