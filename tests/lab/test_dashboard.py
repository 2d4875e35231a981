"""A person at a browser, with nothing but a keyboard: logs in, adds hosts by ssh and TLS, switches a guest off and on,
types at a console and at a display, watches a move and cancels it, makes one more, applies a plan without one of its
moves, looks at a replica, logs out; in English and, in the dark, in Spanish.

The daemon and the browser are in the controller's seat, as on a machine that has nothing but the network.

With $MUDANZA_SCREENSHOTS set to a directory it leaves pictures of the pages there, for the documentation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from mudanza.lab.guest import Guest
from mudanza.lab.lab import Lab, Via
from mudanza.lab.layout import CONTROLLER
from mudanza.model.units import MIB
from mudanza.service.pages.spanish import SPANISH
from tests.browsing import ARGUMENTS, CHROMIUM, assert_accessible, choose, fill, person, press
from tests.lab.command import SeatedMudanza
from tests.lab.conftest import await_true
from tests.lab.test_displays import LISTEN, bios
from tests.lab.test_migrate import MakeGuest, make_guest, slow
from tests.test_tokens import certificate

__all__ = ["certificate", "make_guest"]
pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

END_LIMIT = 90.0
"""Seconds that a daemon may take to come and to go, and a guest to."""
EAGER = {
    "level": 5, "memory_weight": 0.0, "disk_weight": 0.0, "network_weight": 0.0, "minimum_gain": 0.0, "vm_rest": 0.0,
    "host_rest": 0.0,
}  # fmt: skip
"""Rules by which vCPUs alone count, and any gain is welcome."""


@pytest.fixture
def own(lab: Lab, certificate: tuple[Path, Path], tmp_path: Path) -> SeatedMudanza:
    """The command in the controller's seat, with a database of its own, which knows no host, and finds the least
    imbalance worth a move."""
    told = {
        "listen": "127.0.0.1:0",
        "certificate": certificate[0],
        "key": certificate[1],
        "socket": tmp_path / "socket",
    }
    lines = "".join(f'{name} = "{value}"\n' for name, value in told.items())
    config = tmp_path / "mudanza.toml"
    limits = "[limits]\nconnect = 60\nread = 120\n"
    config.write_text(f'database = "{tmp_path}/own.db"\n{limits}[service]\nrefresh = 1.0\n{lines}')
    found, rules = SeatedMudanza(lab, config), tmp_path / "rules.toml"
    rules.write_text("[planning]\n" + "".join(f"{name} = {value}\n" for name, value in EAGER.items()))
    found("import", str(rules))
    return found


@pytest.fixture
def site(own: SeatedMudanza, tmp_path: Path) -> Iterator[str]:
    """A daemon that listens in the seat, and its address there."""
    said = tmp_path / "said"
    with said.open("w") as errors:
        daemon = own.popen(own.argv("serve", "--no-balance"), stderr=errors)
    try:
        await_true(
            lambda: "https://127.0.0.1:" in said.read_text() or daemon.poll() is not None, "it listens", END_LIMIT
        )
        found = re.search(r"https://127\.0\.0\.1:\d+", said.read_text())
        assert found, said.read_text()
        yield found[0]
    finally:
        daemon.terminate()
        try:
            daemon.wait(END_LIMIT)
        finally:
            daemon.kill()
            daemon.wait()


@pytest.fixture(scope="module")
def browser(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's Chromium, on the network of the controller's seat."""
    assert CHROMIUM.exists(), f"there is no {CHROMIUM}, which scripts/setup installs"
    program = tmp_path_factory.mktemp("browser") / "chromium of the seat"
    program.write_text(f'#!/bin/sh\nexec nsenter --target {lab.cell(CONTROLLER).pid} --net -- {CHROMIUM} "$@"\n')
    program.chmod(0o755)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(program), args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def token(own: SeatedMudanza) -> str:
    return own("token", "make", "browser", "--scope", "admin").out.strip().splitlines()[-1]


def picture(page: Page, name: str) -> None:
    """Keep a picture of a page, if somebody wants it."""
    if place := os.environ.get("MUDANZA_SCREENSHOTS"):
        page.screenshot(path=Path(place) / f"{name}.png", animations="disabled")


LIT = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let at = 0; at < pixels.length; at += 4) if (pixels[at] || pixels[at + 1] || pixels[at + 2]) count++;
  return count;
}"""
ENGLISH = ("en-GB", "light")
SPANISH_IN_THE_DARK = ("es-ES", "dark")


class Visit:
    """What somebody does at the pages, by what is written there in their language."""

    def __init__(self, lab: Lab, page: Page, language: str) -> None:
        self.lab = lab
        self.page = page
        self.suffix = "" if language == ENGLISH[0] else "-es"
        self._words = {} if language == ENGLISH[0] else SPANISH

    def t(self, text: str) -> str:
        """Return a text of the pages as it stands there."""
        return self._words[text] if self._words else text

    def button(self, text: str) -> Locator:
        return self.page.get_by_role("button", name=self.t(text), exact=True)

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name, exact=True)

    def block(self, guest: str, state: str = "running") -> Locator:
        """The VM as it is drawn."""
        return self.page.get_by_role("link", name=re.compile(f"^{guest}, {self.t(state)}"))

    def looked_at(self, name: str) -> None:
        """Have nothing serious be found on a page, and keep its picture if somebody wants that."""
        assert_accessible(self.page)
        picture(self.page, name + self.suffix)

    def add_host(self, name: str, via: Via) -> None:
        press(self.link(self.t("Add a host")).first)
        fill(self.page.get_by_label(self.t("Name")), name)
        fill(self.page.get_by_label(self.t("How it is reached (a libvirt URI)")), self.lab.uri(name, via))
        press(self.button("Add it"))
        expect(self.page.locator("text.name", has_text=name)).to_be_visible()

    def power(self, guest: Guest, order: str, then: str) -> None:
        """Press a button of a VM's page, and look again and again until another one is there."""

        def is_so() -> bool:
            self.page.goto(f"/vms/{guest.uuid}")
            return self.button(then).count() == 1

        press(self.button(order))
        expect(self.page.get_by_role("status").first).to_be_visible()
        await_true(is_so, f"after {order!r} there is {then!r}", END_LIMIT)

    def type_into(self, guest: str) -> None:
        press(self.block(guest))
        press(self.link(self.t("Console")))
        expect(self.page.get_by_role("status").first).to_contain_text(self.t("Connected.").rstrip("."))
        self.page.keyboard.type("hello there")
        expect(self.page.get_by_role("application")).to_contain_text("hello there")
        self.looked_at("console")
        self.page.keyboard.press("Control+]")
        self.page.keyboard.press("Enter")

    def look_at_display(self, guest: str) -> None:
        """See that what a key does is shown."""
        self.page.goto("/")
        press(self.block(guest))
        press(self.link(self.t("Display")))
        expect(self.page.get_by_role("status").first).to_contain_text(self.t("Connected.").rstrip("."))
        await_true(lambda: self.lit() > 100, "something is shown", END_LIMIT)
        before = self.lit()
        self.page.keyboard.press("Escape")
        await_true(lambda: self.lit() > before + 100, "the boot menu is shown", END_LIMIT)
        self.looked_at("display")
        self.page.keyboard.press("Control+]")
        self.page.keyboard.press("Enter")

    def lit(self) -> int:
        """How many pixels of the display are not black."""
        return int(self.page.locator("canvas").evaluate(LIT))

    def migrate(self, to: str, probe: str = "") -> None:
        choose(self.page.get_by_label(self.t("Where to")), to)
        if probe:
            fill(self.page.get_by_label(re.compile(r"tcp:")), probe)
        press(self.button("Migrate"))

    def watch_and_cancel(self, to: str) -> None:
        self.migrate(to)
        expect(self.page.locator("path.rate")).to_be_visible()
        self.looked_at("move")
        under_way = self.page.url
        press(self.link(self.t("Cluster")))
        expect(self.page.locator("g.arrow text")).to_contain_text("%")
        picture(self.page, "moving" + self.suffix)
        self.page.goto(under_way)
        press(self.button("Cancel the move"))
        self.await_end()
        expect(self.page.locator("main")).to_contain_text("cancelled")

    def migrate_and_watch(self, guest: Guest, to: str) -> None:
        self.page.goto(f"/vms/{guest.uuid}")
        self.migrate(to, f"ping:{guest.address}")
        self.await_end()
        for told in ("in all", "vCPUs stopped", "nobody answered"):
            expect(self.page.get_by_text(self.t(told))).to_be_visible()
        self.looked_at("moved")

    def balance(self) -> str:
        """Apply a plan of two moves but for one of them; return the VM that stays."""
        press(self.link(self.t("Plans")))
        choose(self.page.get_by_label(self.t("What for")), self.t("balance"))
        press(self.button("Make a plan"))
        expect(self.page.get_by_role("heading", name=f"{self.t('Plan')}: {self.t('balance')}")).to_be_visible()
        for picture in ("Before and after", "When"):
            expect(self.page.get_by_role("heading", name=self.t(picture), exact=True)).to_be_visible()
        moves = self.page.locator("tbody tr")
        expect(moves).to_have_count(2)
        stays = str(moves.first.locator("td").nth(1).text_content())
        press(moves.first.get_by_role("checkbox"), "Space")
        expect(moves.first.get_by_role("checkbox")).not_to_be_checked()
        self.looked_at("plan")
        press(self.button("Apply what is ticked"))
        self.await_end()
        expect(self.page.locator("tbody tr").get_by_text(self.t("done"))).to_have_count(1)
        assert_accessible(self.page)
        return stays

    def await_end(self) -> None:
        """Wait until what is followed has ended."""
        expect(self.page.locator("[data-live]")).to_have_count(0)

    def protection(self, guest: Guest) -> None:
        press(self.link(self.t("Protection")))
        press(self.link(guest.name))
        expect(self.page.get_by_role("heading", name=self.t("Failover"), exact=True)).to_be_visible()
        self.looked_at("protection")

    def moved_from_where_it_may_go(self, guest: Guest, to: str) -> None:
        self.page.goto(f"/vms/{guest.uuid}")
        press(self.link(self.t("Where may it go?")))
        expect(
            self.page.get_by_role("heading", name=self.t("Where may {vm} go?").format(vm=guest.name))
        ).to_be_visible()
        self.looked_at("ways")
        press(self.page.get_by_role("button", name=f"{self.t('Migrate')} → {to}"))
        self.await_end()
        expect(self.page.get_by_text(self.t("in all"))).to_be_visible()
        self.looked_at("moved")

    def leave(self) -> None:
        press(self.button("Log out"))
        expect(self.page.get_by_role("heading", name=self.t("Log in"))).to_be_visible()


@pytest.mark.parametrize(
    ("language", "colours"),
    [
        pytest.param(*ENGLISH, id="in English"),
        pytest.param(*SPANISH_IN_THE_DARK, id="in Spanish, in the dark", marks=pytest.mark.soak),
    ],
)
def test_a_person_does_all_of_it_at_the_pages(
    lab: Lab,
    own: SeatedMudanza,
    browser: Browser,
    site: str,
    token: str,
    make_guest: MakeGuest,
    language: str,
    colours: Any,
) -> None:
    shop, mail = make_guest("shop", memory=256 * MIB, working_set=96 * MIB), make_guest("mail")
    guests = {guest.name: guest for guest in (shop, mail)}
    with person(browser, site, token, language, color_scheme=colours) as page:
        visit = Visit(lab, page, language)
        for host, via in (("h1", Via.SSH), ("h2", Via.SSH), ("h3", Via.TLS)):
            visit.add_host(host, via)
        expect(visit.block("mail")).to_be_visible()
        visit.looked_at("cluster")
        press(visit.block("mail"))
        visit.power(mail, "Shut down", then="Start")
        assert mail.states() == {"h1": "shut off"}
        visit.power(mail, "Start", then="Shut down")

        page.goto("/")
        visit.type_into("shop")
        with slow(lab, "h1", 2 * MIB):
            visit.watch_and_cancel(to="h3")
        assert shop.states() == {"h1": "running"}
        with bios(lab, LISTEN.format("", "127.0.0.1"), name="till"):
            visit.look_at_display("till")
            stays = visit.balance()
        assert [guest.states() for name, guest in guests.items() if name == stays] in ([], [{"h1": "running"}])
        stayed = next(guest for guest in (mail, shop) if guest.states() == {"h1": "running"})

        own("protect", stayed.uuid, "--to", "h2", "--every", "1h")
        visit.protection(stayed)
        own("unprotect", stayed.uuid)
        if language != ENGLISH[0]:
            visit.moved_from_where_it_may_go(stayed, "h3")
        else:
            visit.migrate_and_watch(stayed, "h3")
        assert stayed.states() == {"h3": "running"}
        page.goto("/")
        visit.leave()
