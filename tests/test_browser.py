"""Every page in a real browser, here without hosts: nothing serious for axe, all of it by the keyboard, in both
languages and both colours; and what the viewer of displays draws and sends."""

from __future__ import annotations

import queue
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mudanza.hypervisor.pictures import PNG
from mudanza.journal.jobs import NewJob
from mudanza.journal.sessions import Sessions
from mudanza.model.access import Scope
from mudanza.model.carrying import RunPolicy
from mudanza.model.errors import BlockedError
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.pages.dashboard import with_pages
from mudanza.service.server import NetworkServer
from tests import factories as make
from tests.browsing import ARGUMENTS, CHROMIUM, assert_accessible, person, press, reach
from tests.test_pages import Hands, desk, hands
from tests.test_plan_pages import PLAN
from tests.test_protection_pages import protected
from tests.test_tokens import certificate
from tests.test_vm_pages import SAMPLES

__all__ = ["certificate", "desk", "hands"]

WEB = f"/vms/{make.UUID}"
DISPLAY = f"{WEB}/display"
REACHABLE = "a[href], button:not(:disabled), input:not([type=hidden]), select, summary, [tabindex='0']"
NAME = "each => [each.localName, each.getAttribute('href') || each.name || '', each.textContent.trim()].join(' ')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM.exists(), f"there is no {CHROMIUM}, which scripts/setup installs"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def site(desk: Desk, hands: Hands, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The pages of a cluster where something of everything is going on."""
    hands.samples, hands.planned = SAMPLES, PLAN
    hands.protected = [protected(70.0, 10.0), protected(500.0, vm_uuid=make.OTHER_UUID, vm_name="late", said="no room")]
    under_way, ended = (NewJob("move", uuid, "web", "h1", "h2", {}, "ana") for uuid in (make.UUID, make.OTHER_UUID))
    desk.jobs.put_down(under_way)
    number = desk.jobs.put_down(ended)
    handle = desk.jobs.claim([number])
    assert handle is not None
    handle.finish(
        "done", "moved", 0, {"total_time": 9.0, "downtime": 0.1, "memory_bytes": 1, "disk_bytes": 0, "tls": True}
    )
    desk.plans.begin(PLAN, RunPolicy(), "ana", kind="apply")
    server = NetworkServer(with_pages(api_of(desk), Sessions(desk.tokens._engine), hands), "127.0.0.1:0", *certificate)
    server.start()
    try:
        yield f"https://127.0.0.1:{server.port}"
    finally:
        server.stop()


@pytest.fixture
def token(desk: Desk) -> str:
    return desk.tokens.make("browser", [Scope.ADMIN], "ana")


PAGES = (
    "/", "/vms", WEB, f"{WEB}/ways", "/hosts/new", "/plans", "/plans/1", "/protection", f"/protection/{make.UUID}",
    "/history", "/jobs/1", "/jobs/2", "/nothing",
)  # fmt: skip


def assert_reached_by_tab(page: Page) -> None:
    """Go round all that can be used on a page by Tab, and see each of it marked."""
    wanted = {each.evaluate(NAME) for each in page.locator(REACHABLE).all() if each.is_visible()}
    page.evaluate("document.activeElement.blur()")
    found: set[str] = set()
    for _ in range(2 * len(wanted) + 5):
        page.keyboard.press("Tab")
        here = page.evaluate_handle("document.activeElement")
        found.add(here.evaluate(NAME))
        if wanted <= found:
            return
    raise AssertionError(f"{page.url}: not reached by Tab: {wanted - found}")


@pytest.mark.parametrize(("language", "colours"), [("en-GB", "light"), ("es-ES", "dark")])
def test_every_page_is_for_everybody(browser: Browser, site: str, token: str, language: str, colours: Any) -> None:
    with person(browser, site, token, language, color_scheme=colours) as page:
        for path in PAGES:
            page.goto(path)
            assert_accessible(page)
            if language == "en-GB":
                assert_reached_by_tab(page)
        page.goto("/plans")
        press(page.get_by_role("button", name="Make a plan" if language == "en-GB" else "Hacer un plan"))
        expect(page.get_by_role("checkbox")).to_have_count(2)
        assert_accessible(page)


class Display:
    """A guest's display: sends what it is told to, and keeps what it hears."""

    def __init__(self) -> None:
        self.sends: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.heard = b""
        self._changed = threading.Condition()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self) -> bytes:
        return self.sends.get()

    def send(self, data: bytes) -> None:
        with self._changed:
            self.heard += data
            self._changed.notify_all()

    def close(self) -> None:
        self.sends.put(b"")

    def await_heard(self, words: bytes) -> None:
        """Wait until somebody has said that; what came before it is forgotten."""
        with self._changed:
            assert self._changed.wait_for(lambda: words in self.heard, 60), (words, self.heard)
            self.heard = self.heard.partition(words)[2]


def rect(x: int, y: int, width: int, height: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack("!HHHHi", x, y, width, height, kind) + data


def update(*rects: bytes) -> bytes:
    return struct.pack("!BxH", 0, len(rects)) + b"".join(rects)


RED, GREEN, BLUE, WHITE = b"\xff\x00\x00\x00", b"\x00\xff\x00\x00", b"\x00\x00\xff\x00", b"\xff\xff\xff\x00"
BEGIN = struct.pack("!HH16xI", 64, 48, 4) + b"QEMU"
DRAWN = update(
    rect(0, 0, 2, 1, 0, RED + GREEN),
    # Two tiles: a ground with two parts in an ink; then the same ground, one part of its own colour.
    rect(16, 16, 32, 16, 5, b"\x0e" + BLUE + WHITE + b"\x02\x00\x00\x11\x10" + b"\x18\x01" + RED + b"\xf0\x00"),
    rect(10, 40, 2, 1, 1, struct.pack("!HH", 0, 0)),
    rect(0, 0, 0, 0, -258),
)  # fmt: skip
ASKED = struct.pack("!BBHHHH", 3, 0, 0, 0, 64, 48)


def picture() -> bytes:
    """A red PNG, as large as the display, and how long it is."""
    rows = b"".join(b"\0" + RED[:3] * 64 for _ in range(48))
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack("!IIBBBBB", 64, 48, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        found += struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))
    return struct.pack("!I", len(found)) + found


def pixel(page: Page, x: int, y: int) -> tuple[int, ...]:
    got = page.evaluate(
        "([x, y]) => [...document.getElementById('display').getContext('2d').getImageData(x, y, 1, 1).data]", [x, y]
    )
    return tuple(got[:3])


def keyed(down: int, symbol: int, place: int) -> bytes:
    return struct.pack("!BxHII", 255, down, symbol, place)


def test_a_display_is_drawn_and_takes_keys_and_pointer(browser: Browser, site: str, token: str, hands: Hands) -> None:
    guest = hands.screen = Display()
    with person(browser, site, token) as page:
        page.goto(DISPLAY)
        guest.await_heard(b"\x01")
        for piece in (BEGIN[:7], BEGIN[7:] + DRAWN[:9], DRAWN[9:60], DRAWN[60:]):
            guest.sends.put(piece)
        guest.await_heard(ASKED)
        page.locator("canvas[data-drawn]").wait_for()
        assert [pixel(page, x, 0) for x in (0, 1)] == [(255, 0, 0), (0, 255, 0)]
        assert [pixel(page, *at) for at in ((16, 16), (17, 17), (18, 16), (18, 17), (31, 31))] == [
            (255, 255, 255), (255, 255, 255), (0, 0, 255), (255, 255, 255), (0, 0, 255),
        ]  # fmt: skip
        assert [pixel(page, *at) for at in ((47, 16), (46, 16))] == [(255, 0, 0), (0, 0, 255)]
        assert [pixel(page, *at) for at in ((10, 40), (11, 40))] == [(255, 0, 0), (0, 255, 0)]
        assert_accessible(page)

        canvas = page.get_by_role("application")
        reach(canvas)
        page.keyboard.press("a")
        guest.await_heard(keyed(1, ord("a"), 0x1E) + keyed(0, ord("a"), 0x1E))
        page.keyboard.press("Tab")
        guest.await_heard(keyed(1, 0xFF09, 0x0F) + keyed(0, 0xFF09, 0x0F))
        page.keyboard.press("ArrowUp")
        guest.await_heard(keyed(1, 0xFF52, 0xC8))
        page.keyboard.down("Shift")
        page.get_by_role("button", name="Ctrl+Alt+Del").focus()
        guest.await_heard(keyed(0, 0xFFE1, 0x2A))  # no key stays down where nobody holds it
        page.keyboard.up("Shift")
        page.keyboard.press("Enter")
        keys = ((0xFFE3, 0x1D), (0xFFE9, 0x38), (0xFFFF, 0xD3))
        guest.await_heard(b"".join(keyed(1, *each) for each in keys) + b"".join(keyed(0, *each) for each in keys[::-1]))
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, button="right")
        guest.await_heard(struct.pack("!BBHH", 5, 4, 32, 24))
        guest.await_heard(struct.pack("!BBHH", 5, 0, 32, 24))

        guest.sends.put(
            b"\x02" + b"\x03\x00\x00\x00" + struct.pack("!I", 3) + b"cut" + update(rect(0, 0, 80, 60, -223))
        )
        guest.await_heard(struct.pack("!BBHHHH", 3, 0, 0, 0, 80, 60))
        assert (canvas.get_attribute("width"), canvas.get_attribute("height")) == ("80", "60")
        page.keyboard.press("Control+]")
        assert page.evaluate("document.activeElement.id") == "leave"


def test_a_display_is_looked_for_anew_where_the_guest_has_gone(
    browser: Browser, site: str, token: str, hands: Hands
) -> None:
    guest = hands.screen = Display()
    guest.sends.put(BEGIN)
    with person(browser, site, token) as page:
        page.goto(DISPLAY)
        guest.await_heard(ASKED)
        moved = hands.screen = Display()
        name = b"pictures: it speaks <b>SPICE</b>"
        moved.sends.put(BEGIN[:20] + struct.pack("!I", len(name)) + name + update(rect(0, 0, 64, 48, PNG, picture())))
        guest.close()
        moved.await_heard(ASKED)
        page.locator("canvas[data-drawn]").wait_for()
        assert pixel(page, 0, 0) == (255, 0, 0)
        expect(page.get_by_text("no pointer: it speaks <b>SPICE</b>")).to_be_visible()
        assert_accessible(page)
        hands.error = BlockedError("VM 'web' is off")
        moved.close()
        expect(page.get_by_role("status").first).to_have_text("VM 'web' is off")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (struct.pack("!HH16xI", 0, 48, 0), "a display of 0 × 48"),
        (struct.pack("!HH16xI", 64, 48, 1 << 30), "sends too much"),
        (BEGIN + b"\x63", "not known here: 99"),
        (BEGIN + update(rect(0, 0, 4, 4, 7)), "not known here: 7"),
        (BEGIN + update(rect(60, 0, 5, 1, 0)), "beyond itself"),
    ],
)
def test_a_display_that_sends_nonsense_is_left(
    browser: Browser, site: str, token: str, hands: Hands, sent: bytes, said: str
) -> None:
    guest = hands.screen = Display()
    guest.sends.put(sent)
    with person(browser, site, token) as page:
        page.goto(DISPLAY)
        expect(page.get_by_role("status").first).to_contain_text(said)
