"""Which copy of a VM is started after a power cut: the newest one, if it is clear which that is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mudanza.hypervisor.xml.activation import with_epoch
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.host import Host, HostEntry
from mudanza.model.protection import Protection, Standing
from mudanza.model.vm import Vm, VmState
from mudanza.protection.site import copy_to_start
from tests.test_protection import VALUES

DOMAIN = "<domain type='kvm'><name>db</name><uuid>u-db</uuid><memory>1</memory><os><type>hvm</type></os></domain>"


def copy(host: str, epoch: int = 0, state: VmState = VmState.SHUTOFF) -> Vm:
    return parse_vm(with_epoch(DOMAIN, epoch, autostart=False), host=host, state=state)


def hosts(*names: str, unseen: tuple[str, ...] = ()) -> tuple[Host, ...]:
    return tuple(
        Host(HostEntry(name, f"qemu+tls://{name}/system"), error="no answer" if name in unseen else None)
        for name in names
    )


def chosen(*copies: Vm, epoch: int | None = None, **values: Any) -> str:
    cluster = Cluster(hosts("h1", "h2", "h3", unseen=values.pop("unseen", ())), copies)
    protections = {"u-db": protection(epoch)} if epoch is not None else {}
    return copy_to_start("db", cluster, protections, values.pop("left", ()), values.pop("off", ())).host


def protection(epoch: int) -> Protection:
    about: dict[str, Any] = {"id": 1, "rounds": 0, "made_at": 0.0, "tried_at": None, "said": "", "seed": {}}
    about |= {"standing": Standing.FAILED_OVER, "epoch": epoch, "checkpoint": "", "vm_uuid": "u-db", "read_at": 0.0}
    return Protection(**{**VALUES, **about})


def test_one_copy_is_the_vm() -> None:
    assert chosen(copy("h1")) == "h1"
    assert chosen(copy("h1", state=VmState.RUNNING), copy("h2")) == "h1", "what runs is it"


def test_of_two_the_one_of_the_newest_epoch_is_it() -> None:
    assert chosen(copy("h1", 0), copy("h2", 1), epoch=1) == "h2"
    assert chosen(copy("h1", 2), copy("h2", 1), epoch=2) == "h1"
    assert chosen(copy("h1", 0), copy("h2", 1)) == "h2", "also where nobody protects it any more"


def test_one_that_was_left_when_its_host_was_lost_is_not_it() -> None:
    assert chosen(copy("h1"), copy("h2"), left={("u-db", "h1")}) == "h2"


@pytest.mark.parametrize(
    ("copies", "values", "said"),
    [
        ((copy("h1", 0),), {"epoch": 1}, "came up last under epoch 1, and its copies say: h1: 0"),
        ((copy("h1"), copy("h2")), {}, "defined on h1 and h2, and off on each"),
        ((copy("h1"), copy("h2")), {"left": {("u-db", "h1"), ("u-db", "h2")}}, "off on each"),
        ((copy("h1", state=VmState.RUNNING), copy("h2", state=VmState.RUNNING)), {}, "runs on h1 and on h2"),
        ((copy("h1"),), {"unseen": ("h3",)}, "h3 could not be asked, and may run it"),
        ((), {}, "no host lists a VM"),
    ],
)
def test_where_it_is_not_clear_none_is_started(copies: tuple[Vm, ...], values: Any, said: str) -> None:
    with pytest.raises(BlockedError, match=said):
        chosen(*copies, **values)


def test_a_host_that_is_proven_off_stands_in_nobodys_way() -> None:
    assert chosen(copy("h1"), unseen=("h3",), off=("h3",)) == "h1"


@given(
    epochs=some.dictionaries(some.sampled_from(["h1", "h2", "h3"]), some.integers(0, 3), min_size=1),
    known=some.none() | some.integers(0, 4),
)
def test_never_an_old_one(epochs: dict[str, int], known: int | None) -> None:
    try:
        host = chosen(*(copy(each, epoch) for each, epoch in epochs.items()), epoch=known)
    except BlockedError:
        return
    assert epochs[host] == max(epochs.values())
    assert known is None or epochs[host] == known
    assert list(epochs.values()).count(epochs[host]) == 1
