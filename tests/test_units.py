"""Reading and writing quantities, and finding a VM by what somebody typed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.units import (
    GIB,
    KIB,
    MIB,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)
from mudanza.model.vm import VmState
from tests import factories as make

SIZE_UNITS = {
    "": 1,
    "B": 1,
    "KiB": KIB,
    "K": KIB,
    "kB": 1000,
    "MiB": MIB,
    "M": MIB,
    "GB": 1000**3,
    "GiB": GIB,
    "T": 1024**4,
}


@given(st.integers(0, 10**6), st.sampled_from(sorted(SIZE_UNITS)), st.sampled_from(["", " "]))
def test_sizes_are_read_in_any_unit(number: int, unit: str, space: str) -> None:
    assert parse_size(f"{number}{space}{unit}") == number * SIZE_UNITS[unit]
    assert parse_size(f" {number}{space}{unit.lower()} ") == number * SIZE_UNITS[unit]


@given(st.integers(0, 1000 * 1024**4))
@example(1024**3 - 1)
@example(1023 * KIB + 999)
@example(MIB - 1)
def test_a_written_size_is_read_back_within_its_last_digit(size: int) -> None:
    text = format_size(size)
    assert parse_size(text) == pytest.approx(size, rel=0.051)
    number = text.split()[0]
    assert len(number) <= 4, text
    assert float(number) < 1024, text


@given(st.integers(0, 9999), st.sampled_from(["KiB", "MiB", "GiB"]))
def test_rates_are_sizes_a_second(number: int, unit: str) -> None:
    assert parse_rate(f"{number}{unit}/s") == parse_rate(f"{number} {unit}ps") == parse_size(f"{number}{unit}")


@given(st.integers(0, 10**6).map(lambda count: count * 8))
def test_bits_are_counted_in_thousands(bits: int) -> None:
    assert parse_rate(f"{bits}bit") * 8 == bits
    assert parse_rate(f"{bits}kbit") * 8 == bits * 1000
    assert parse_rate(f"{bits}Mbit/s") * 8 == bits * 1000**2


def test_one_gigabit() -> None:
    assert parse_rate("1gbit") == 125_000_000
    assert format_rate(117 * MIB) == "117 MiB/s"


@given(st.integers(0, 10**5))
def test_durations(number: int) -> None:
    assert parse_duration(f"{number}ms") == pytest.approx(number / 1000)
    assert parse_duration(f"{number}") == parse_duration(f"{number}s") == number
    assert parse_duration(f"{number}m") == parse_duration(f"{number}min") == number * 60
    assert parse_duration(f"{number}h") * 24 == parse_duration(f"{number}d")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.147, "147 ms"),
        (5.3, "5.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.7, "1 h 0 min"),
        (3780, "1 h 3 min"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 1e7))
@example(0.9996)
@example(59.949999)
@example(3599.5)
def test_no_duration_reads_as_a_full_next_unit(seconds: float) -> None:
    text = format_duration(seconds)
    assert "1000 ms" not in text
    assert "60 s" not in text
    assert "60 min" not in text
    assert not text.startswith("60.0")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (17, "17 B"), (512 * MIB, "512 MiB"), (1.5 * GIB, "1.5 GiB"), (2**40, "1 TiB"), (-MIB, "-1 MiB")],
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert format_size(size) == text


WRONG = ["", "GiB", "-1", "1,5GiB", "1 2", "1GiB extra", "1XiB", "0x10", "1e3", "∞", "１"]


@pytest.mark.parametrize("text", WRONG)
def test_anything_else_is_an_error_with_a_remedy(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert caught.value.remedy


@given(st.text(max_size=20))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        with suppress(UsageError):
            assert parse(text) >= 0


def test_a_vm_is_found_by_name_or_uuid() -> None:
    web, other = make.vm(), make.vm(uuid=make.OTHER_UUID, name="other", host="h2")
    cluster = make.cluster(vms=(web, other))
    assert cluster.find("web") is cluster.find(make.UUID) is web
    assert cluster.find("other") is other


@pytest.mark.parametrize("name", ["a;reboot", "$(id)", "--help", '">', "máquina"])
def test_strange_names_are_found_like_any_other(name: str) -> None:
    vm = make.vm(name=name)
    assert make.cluster(vms=(make.vm(uuid=make.OTHER_UUID), vm)).find(name) is vm


def test_of_two_places_the_one_where_it_runs_is_meant() -> None:
    off, on = make.vm(host="h2", state=VmState.SHUTOFF), make.vm()
    assert make.cluster(vms=(off, on)).find("web") is on


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.SHUTOFF])
def test_a_vm_in_two_equal_places_is_ambiguous(state: VmState) -> None:
    with pytest.raises(UsageError, match="ambiguous") as caught:
        make.cluster(vms=(make.vm(state=state), make.vm(host="h2", state=state))).find("web")
    assert "h1" in str(caught.value)
    assert "h2" in str(caught.value)


def test_two_vms_of_one_name_are_ambiguous_even_if_one_runs() -> None:
    cluster = make.cluster(vms=(make.vm(), make.vm(uuid=make.OTHER_UUID, host="h2", state=VmState.SHUTOFF)))
    with pytest.raises(UsageError, match="ambiguous"):
        cluster.find("web")
    assert cluster.find(make.OTHER_UUID).host == "h2"


def test_of_two_places_the_one_that_is_not_the_target_is_meant() -> None:
    here, there = make.vm(), make.vm(host="h2")
    assert make.cluster(vms=(here, there)).find("web", bound_for="h2") is here
    namesake = make.vm(uuid=make.OTHER_UUID, host="h2")
    assert make.cluster(vms=(namesake, here)).find("web", bound_for="h2") is here
    assert make.cluster(vms=(here,)).find("web", bound_for="h1") is here
    with pytest.raises(UsageError, match="ambiguous"):
        make.cluster(vms=(here, there, make.vm(host="h3"))).find("web", bound_for="h3")


def test_a_name_nobody_lists_says_which_hosts_were_not_seen() -> None:
    cluster = make.cluster((make.host("h1"), make.host("h2", error="timed out")))
    with pytest.raises(BlockedError, match="no host that answers lists a VM 'web'; not seen: h2"):
        cluster.find("web")


@given(st.text() | st.sampled_from(["web", "0", "1"]), st.lists(st.sampled_from(["web", "db", "a;reboot"]), max_size=4))
def test_what_is_found_is_what_was_asked_for(wanted: str, names: list[str]) -> None:
    cluster = make.cluster(vms=[make.vm(uuid=str(number), name=name) for number, name in enumerate(names)])
    with suppress(UsageError):
        found = cluster.find(wanted)
        assert wanted in (found.name, found.uuid)
