"""Redfish as a fence device: power by TLS that is verified, what it draws, and nothing beyond its own paths."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.availability.behind import machine_behind
from mudanza.availability.fence_agents import Agents
from mudanza.availability.fencing import Command, next_step
from mudanza.availability.measuring import speaks_redfish, watts_of
from mudanza.availability.redfish import Redfish, RedfishError
from mudanza.cli.availability_settings import FencingSettings
from mudanza.model.errors import UsageError
from mudanza.model.fencing import Device, Order, Power, Reply
from tests.redfish_service import Service, serving
from tests.test_tokens import certificate

__all__ = ["certificate"]


@pytest.fixture
def service(certificate: tuple[Path, Path]) -> Iterator[Service]:
    with serving(certificate, Service()) as found:
        yield found


@pytest.fixture
def agents(tmp_path: Path, certificate: tuple[Path, Path]) -> Agents:
    place = tmp_path / "secrets"
    place.mkdir()
    (place / "bmc").write_text("opensesame\n")
    shutil.copy(certificate[0], place / "bmc.pem")
    return Agents(FencingSettings(agents=(str(tmp_path),), secrets=str(place), off=2.0, status=5.0))


def bmc(service: Service, **options: str) -> Device:
    usual = {"ip": "localhost", "ipport": str(service.port), "username": "admin", "ca": "bmc.pem"}
    return Device("bmc", "redfish", 1, {**usual, **options}, {"password": "bmc"})


def test_power_is_told_cut_and_given(agents: Agents, service: Service) -> None:
    device = bmc(service)
    agents.check(device)
    assert agents.tell(device, Order.STATUS).power is Power.ON
    replies: list[Reply] = []
    while isinstance(step := next_step([device], replies), Command):
        replies.append(agents.tell(step.device, step.order))
    assert step.proven
    assert [(method, body) for method, _, body in service.told if method == "POST"] == [
        ("POST", {"ResetType": "ForceOff"})
    ]
    assert agents.tell(device, Order.OFF).done, "off already"
    assert agents.tell(device, Order.ON).done
    assert service.state == "On"


@pytest.mark.parametrize("state", ["PoweringOff", "Paused", "", "off"])
def test_what_is_neither_on_nor_off_proves_nothing(agents: Agents, service: Service, state: str) -> None:
    service.state, service.obeys = state, False
    assert agents.tell(bmc(service), Order.STATUS).power is Power.UNKNOWN
    assert not agents.tell(bmc(service), Order.OFF).done


def test_one_that_does_not_obey_is_not_off(agents: Agents, service: Service) -> None:
    service.obeys = False
    found = agents.tell(bmc(service), Order.OFF)
    assert (found.done, "is not after" in found.said) == (False, True)


def test_a_certificate_that_nobody_vouches_for_ends_it(
    agents: Agents, service: Service, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    without = bmc(service)
    without = Device("bmc", "redfish", 1, {k: v for k, v in without.options.items() if k != "ca"}, without.secrets)
    found = agents.tell(without, Order.STATUS)
    assert found.power is Power.UNKNOWN
    assert "certificate" in found.said.lower()
    assert service.told == [], "it heard no password"
    named = agents.tell(bmc(service, certificate_name="h9.example"), Order.STATUS)
    assert "certificate" in named.said.lower()
    by_address = agents.tell(bmc(service, ip="127.0.0.1", certificate_name="localhost"), Order.STATUS)
    assert by_address.power is Power.ON


def test_a_wrong_password_is_no_answer_and_is_not_told(agents: Agents, service: Service, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "bmc").write_text("wrong-password\n")
    found = agents.tell(bmc(service), Order.STATUS)
    assert (found.power, "401" in found.said, "wrong-password" in found.said) == (Power.UNKNOWN, True, False)


@pytest.mark.parametrize("target", ["https://elsewhere/redfish/v1/x", "//elsewhere/redfish", "/other", "/redfish/../x"])
def test_only_its_own_paths_are_followed(agents: Agents, service: Service, target: str) -> None:
    service.target = target
    found = agents.tell(bmc(service), Order.OFF)
    assert (found.done, "no path within" in found.said) == (False, True)
    assert not [each for each in service.told if each[0] == "POST"]


@pytest.mark.parametrize("garbage", [b"", b"[]", b"no JSON", b"null", b"x" * (1 << 21), b'{"Members": 7}'])
def test_what_is_no_answer_is_none(agents: Agents, service: Service, garbage: bytes) -> None:
    service.garbage = garbage
    assert agents.tell(bmc(service), Order.STATUS).power is Power.UNKNOWN


def test_of_several_systems_one_has_to_be_said(agents: Agents, service: Service) -> None:
    service.systems = ("/redfish/v1/Systems/1", "/redfish/v1/Systems/2")
    assert "say which one" in agents.tell(bmc(service), Order.STATUS).said
    assert agents.tell(bmc(service, system="1"), Order.STATUS).power is Power.ON
    assert agents.tell(bmc(service, system="/redfish/v1/Systems/1"), Order.STATUS).power is Power.ON
    assert "no system 9" in agents.tell(bmc(service, system="9"), Order.STATUS).said


def test_what_a_service_cannot_do_is_not_ordered(agents: Agents, service: Service) -> None:
    service.allowed = ("On", "GracefulShutdown")
    assert "cannot do ForceOff" in agents.tell(bmc(service), Order.OFF).said


@pytest.mark.parametrize("by_metrics", [True, False])
@pytest.mark.parametrize("watts", [137.5, None, 0, -1, True])
def test_what_it_draws(service: Service, certificate: tuple[Path, Path], by_metrics: bool, watts: float | None) -> None:
    service.by_metrics, service.watts = by_metrics, watts
    options = {"ip": "localhost", "ipport": str(service.port), "username": "admin", "password": "opensesame"}
    with Redfish(options, certificate[0]) as found:
        assert found.watts() == (watts if watts == 137.5 else None)


def test_which_machine_it_is(agents: Agents, service: Service) -> None:
    assert machine_behind(agents, bmc(service)).machine.in_words == (
        "UUID 4c4c4544-0051-3510-8052-b4c04f4d3132, serial number S123456"
    )
    service.user = ("admin", "changed")
    assert "401" in machine_behind(agents, bmc(service)).why_not


def test_nobody_there(agents: Agents, service: Service) -> None:
    assert agents.tell(bmc(service, ipport="1"), Order.STATUS).power is Power.UNKNOWN


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        (Device("bmc", "redfish", 1, {"ip": "h"}), "needs 'password'"),
        (Device("bmc", "redfish", 1, {}, {"password": "bmc"}), "needs 'ip'"),
        (Device("bmc", "redfish", 1, {"ip": "h", "insecure": "1"}, {"password": "bmc"}), "knows no 'insecure'"),
        (Device("bmc", "redfish", 1, {"ip": "h", "ca": "../x"}, {"password": "bmc"}), "no name of a file"),
        (Device("bmc", "redfish", 1, {"ip": "h", "ca": "none.pem"}, {"password": "bmc"}), "cannot be reached so"),
        (Device("bmc", "redfish", 1, {"ip": "h", "password": "x"}), "is a secret"),
    ],
)
def test_what_cannot_be_meant_is_refused(agents: Agents, device: Device, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        agents.check(device)


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")
    with pytest.raises(RedfishError):
        Redfish({"ip": "h"}, tmp_path / "ca")


def test_what_a_bmc_measures_is_asked_of_those_that_can(agents: Agents, service: Service) -> None:
    assert watts_of(agents, bmc(service)) == 137.5
    assert speaks_redfish(bmc(service))
    assert speaks_redfish(Device("a", "fence_redfish"))
    assert not speaks_redfish(Device("a", "fence_ipmilan"))
    service.user = ("admin", "changed")
    with pytest.raises(RedfishError, match="401"):
        watts_of(agents, bmc(service))
