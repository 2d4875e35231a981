"""The best host for one VM."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.model.errors import BlockedError
from mudanza.model.finding import Finding, Level
from mudanza.model.host import Host
from mudanza.model.units import GIB
from mudanza.model.vm import Vm, VmState
from mudanza.planning.placement import best_target, candidates
from tests import factories as make

BLOCKED = (Finding(Level.BLOCKER, "memory", "host h2", "the VM needs 8 GiB", "move another VM off"),)
WARNED = (Finding(Level.WARNING, "vlan", "network card", "tagged", "look"),)
H1, H2, H3 = (make.host(name) for name in ("h1", "h2", "h3"))
FREE = {"h2": (), "h3": ()}


def load(name: str, *, memory: int = 2 * GIB, vcpus: int = 2, state: VmState = VmState.RUNNING) -> Vm:
    return make.vm(
        uuid=f"load-{name}-{memory}-{vcpus}", name="load", host=name, memory=memory, vcpus=vcpus, state=state
    )


def test_the_host_with_the_smaller_share_of_promised_memory() -> None:
    vm = make.vm()
    cluster = make.cluster((H1, H2, H3), (vm, load("h2")))
    choice = best_target(vm, cluster, FREE)
    assert choice.host == "h3"
    assert choice.reason == (
        "the least loaded of 2 hosts that fit: after the move 1 GiB of 16 GiB of memory promised (6%), "
        "2 vCPUs on 8 CPUs (0.25 each)"
    )
    assert choice.rejected == {
        "h1": "the VM is there now",
        "h2": "fits, but is more loaded: 3 GiB of 16 GiB of memory promised (19%), 4 vCPUs on 8 CPUs (0.50 each)",
    }


def test_it_is_the_share_that_counts_not_the_bytes() -> None:
    large = make.host("h3", memory_total=64 * GIB)
    cluster = make.cluster((H1, H2, large), (load("h2"), load("h3", memory=4 * GIB)))
    assert best_target(make.vm(), cluster, FREE).host == "h3"


def test_equal_memory_is_decided_by_vcpus_and_then_by_name() -> None:
    busy = load("h2", memory=1 * GIB, vcpus=4), load("h3", memory=1 * GIB, vcpus=2)
    assert best_target(make.vm(), make.cluster((H1, H2, H3), busy), FREE).host == "h3"
    assert best_target(make.vm(), make.cluster((H3, H2, H1)), FREE).host == "h2"


def test_what_is_shut_off_is_no_load() -> None:
    cluster = make.cluster((H1, H2, H3), (load("h2", state=VmState.SHUTOFF), load("h3", memory=1)))
    assert best_target(make.vm(), cluster, FREE).host == "h2"


def test_a_stale_copy_of_the_vm_itself_is_no_load() -> None:
    cluster = make.cluster((H1, H2, H3), (make.vm(host="h2"), load("h3", memory=1)))
    assert best_target(make.vm(), cluster, FREE).host == "h2"


def test_warnings_forbid_nothing_and_blockers_do() -> None:
    cluster = make.cluster((H1, H2, H3))
    assert best_target(make.vm(), cluster, {"h2": WARNED, "h3": ()}).host == "h2"
    choice = best_target(make.vm(), cluster, {"h2": BLOCKED, "h3": ()})
    assert choice.host == "h3"
    assert choice.reason.startswith("the only host that fits")
    assert choice.rejected["h2"] == "host h2: the VM needs 8 GiB"


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (replace(H2, error="timed out"), "not seen: timed out"),
        (replace(H2, entry=make.entry("h2", maintenance=True)), "in maintenance"),
    ],
)
def test_hosts_out_of_the_question(host: Host, why: str) -> None:
    cluster = make.cluster((H1, host, H3))
    assert [h.name for h in candidates(make.vm(), cluster)] == ["h3"]
    assert best_target(make.vm(), cluster, FREE).rejected["h2"] == why


def test_nobody_fits_and_each_host_says_why() -> None:
    with pytest.raises(BlockedError) as caught:
        best_target(make.vm(), make.cluster((H1, H2, H3)), {"h2": BLOCKED + WARNED})
    assert str(caught.value).splitlines() == [
        "no host can take web:",
        "  h1: the VM is there now",
        "  h2: host h2: the VM needs 8 GiB",
        "  h3: preflight did not look at it",
    ]
    assert caught.value.findings == BLOCKED
    assert caught.value.remedy


@given(st.permutations([H1, H2, H3, make.host("h4")]), st.lists(st.sampled_from(["h2", "h3", "h4"]), max_size=6))
def test_the_choice_does_not_depend_on_the_order_of_hosts(hosts: list[Host], loads: list[str]) -> None:
    vms = [make.vm(uuid=str(number), host=name) for number, name in enumerate(loads)]
    reports = {"h2": (), "h3": (), "h4": ()}
    choice = best_target(make.vm(), make.cluster(hosts, vms), reports)
    assert choice.host == min(("h2", "h3", "h4"), key=lambda name: (loads.count(name), name))
    assert set(choice.rejected) | {choice.host} == {"h1", "h2", "h3", "h4"}
