"""Somebody at Debian's Chromium, for the tests of the pages: what axe finds, and all of it by the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
ENOUGH = 90_000.0
"""Milliseconds that anything may take here."""
MOST_TABS = 120
"""Presses of Tab within which anything on a page is to be reached."""


@contextmanager
def person(browser: Browser, site: str, token: str, language: str = "en-GB", **how: Any) -> Iterator[Page]:
    """Somebody who has logged in, by the keyboard."""
    context = browser.new_context(
        base_url=site, locale=language, ignore_https_errors=True, viewport={"width": 1240, "height": 800}, **how
    )
    context.set_default_timeout(ENOUGH)
    expect.set_options(timeout=ENOUGH)
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda said: troubles.append(said.text) if "Content Security" in said.text else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto("/")
    assert_accessible(page)
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site}/")
    yield page
    assert troubles == []
    context.close()


def assert_accessible(page: Page) -> None:
    """Have axe find nothing serious."""
    found = Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    told = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in serious]
    assert told == [], page.url


def reach(what: Locator) -> None:
    """Go to something by Tab alone."""
    expect(what).to_be_visible()
    for _ in range(MOST_TABS):
        if what.evaluate("each => each === document.activeElement"):
            return
        what.page.keyboard.press("Tab")
    raise AssertionError(f"{what} is not reached by Tab")


def press(what: Locator, key: str = "Enter") -> None:
    """Go to something by Tab alone, and press a key there."""
    reach(what)
    what.page.keyboard.press(key)


def fill(what: Locator, text: str) -> None:
    """Type something into a field."""
    reach(what)
    what.page.keyboard.type(text)
    expect(what).to_have_value(text)


def choose(what: Locator, label: str) -> None:
    """Choose one of a list by its first letters, as browsers have it."""
    reach(what)
    what.page.keyboard.type(label)
    chosen = what.evaluate("each => each.selectedOptions[0].textContent")
    assert chosen == label, f"{chosen!r} is chosen in place of {label!r}"
