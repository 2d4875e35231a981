"""Logging in by an OpenID Connect provider: one that does its part, and ones that do not."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey

from mudanza.cli.settings import OidcSettings
from mudanza.journal.sessions import Sessions
from mudanza.model.access import Provider, Scope
from mudanza.model.errors import UsageError
from mudanza.service.access import MOST_FAILURES
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.pages import oidc
from mudanza.service.pages.dashboard import with_pages
from mudanza.service.pages.entrance import BEGUN
from mudanza.service.pages.oidc import Oidc
from mudanza.service.pages.session import COOKIE
from tests.test_pages import SITE, Hands, desk, hands, sound, words

__all__ = ["desk", "hands"]

SECRET = "what we show: it, and %"
KEY = ECKey.generate_key("P-256", {"kid": "k1"})
OTHER_KEY = ECKey.generate_key("P-256", {"kid": "k1"})


@dataclass
class Issuer:
    """A provider at a port of this machine, at which Ana is logged in already. What it says can be changed."""

    claims: dict[str, Any] = field(default_factory=dict)
    """Said instead of, or besides, what is right; None: not said."""
    key: Any = field(default_factory=lambda: KEY)
    header: dict[str, Any] = field(default_factory=lambda: {"alg": "ES256", "kid": "k1"})
    secret: str = SECRET
    metadata: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    """By code, what somebody was sent here with."""
    refused: list[str] = field(default_factory=list)
    """Why no token was given."""

    def about(self) -> dict[str, Any]:
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return {"issuer": self.url, **{name: f"{self.url}/{path}" for name, path in places.items()}, **self.metadata}

    def authorize(self, asked: dict[str, str]) -> str:
        """Return where to send somebody back to."""
        code = f"code-{len(self.asked)}"
        self.asked[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, form: dict[str, str], shown: str) -> dict[str, Any]:
        """Return a token for a code that was not used yet; nothing: it is refused."""
        asked = self.asked.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if asked is None:
            return self._refuse("no such code")
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != asked["code_challenge"]:
            return self._refuse("the verifier is another one")
        if form.get("redirect_uri") != asked["redirect_uri"]:
            return self._refuse("it was to go elsewhere")
        if shown != (f"mudanza:{_quoted(self.secret)}" if self.secret else ""):
            return self._refuse(f"the client shows {shown!r}")
        said = {
            "iss": self.url, "sub": "u-1", "aud": "mudanza", "iat": int(time.time()), "exp": int(time.time()) + 60,
            "nonce": asked["nonce"], "preferred_username": "ana", "groups": ["ops", "all"], **self.claims,
        }  # fmt: skip
        told = {name: value for name, value in said.items() if value is not None}
        algorithms = [self.header["alg"]]
        return {"access_token": "a", "id_token": jwt.encode(self.header, told, self.key, algorithms=algorithms)}

    def _refuse(self, why: str) -> dict[str, Any]:
        self.refused.append(why)
        return {}


def _quoted(text: str) -> str:
    return str(httpx.QueryParams({"x": text})).removeprefix("x=").replace("+", "%20")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, urlsplit(self.path).query
            if path == "/authorize":
                self.send_response(302)
                self.send_header("Location", made.authorize({name: each[0] for name, each in parse_qs(query).items()}))
                self.end_headers()
            elif path == "/keys":
                self._tell(200, KeySet([KEY]).as_dict(private=False))
            elif path == "/.well-known/openid-configuration":
                self._tell(200, made.about())
            else:
                self._tell(404, {})

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            kind, _, packed = self.headers.get("Authorization", "").partition(" ")
            shown = base64.b64decode(packed).decode() if kind == "Basic" else ""
            told = made.token({name: found[0] for name, found in form.items()}, shown)
            self._tell(200 if told else 400, told or {"error": "invalid_grant"})

        def _tell(self, status: int, what: Any) -> None:
            body = json.dumps(what).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


SCOPES = {"ops": frozenset({Scope.MIGRATE}), "planners": frozenset({Scope.PLAN}), "chiefs": frozenset({Scope.ADMIN})}


@pytest.fixture
def browser(issuer: Issuer, desk: Desk, hands: Hands, tmp_path: Path) -> TestClient:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    provider = Provider(issuer.url, "mudanza", SCOPES, str(secret), ask=("profile", "groups"))
    return browser_of(desk, hands, provider)


def browser_of(desk: Desk, hands: Hands, provider: Provider) -> TestClient:
    front = with_pages(api_of(desk), Sessions(desk.tokens._engine), hands, Oidc(provider))
    return TestClient(front, base_url=SITE, headers={"accept-language": "en"}, follow_redirects=False)


def sent_to_the_provider(browser: TestClient, where: str = "/vms") -> dict[str, str]:
    """Return what somebody is sent there with."""
    answer = browser.get("/oidc/begin", params={"next": where})
    assert answer.status_code == 303
    found = parse_qs(urlsplit(answer.headers["location"]).query)
    return {name: each[0] for name, each in found.items()} | {"": answer.headers["location"]}


def sent_back(asked: dict[str, str]) -> str:
    """Return where the provider sends them back to."""
    there = httpx.get(asked[""]).headers["location"]
    assert there.startswith(f"{SITE}/oidc/back?")
    return str(there)


def logged_in(browser: TestClient) -> httpx.Response:
    answer: httpx.Response = browser.get(sent_back(sent_to_the_provider(browser)))
    return answer


def test_one_logs_in_and_may_what_ones_groups_may(browser: TestClient, desk: Desk) -> None:
    assert "127.0.0.1" in words(sound(browser.get("/login?next=/vms")))
    answer = logged_in(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/vms")
    cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith(COOKIE))
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    tree = sound(browser.get("/"))
    assert "oidc ana" in words(tree)
    assert tree.xpath("//form[@action='/logout']/button")
    assert browser.get("/hosts/new").status_code == 403, "ops may migrate, and no more"
    asked = desk.audit.since(None)[-1]
    assert (asked.command[0], asked.command[2], asked.who["user"]) == ("login", "u-1", "oidc ana")
    browser.post("/logout", headers={"origin": SITE})
    assert browser.get("/").status_code == 303


def test_what_it_is_asked_is_bound_to_one_question(browser: TestClient) -> None:
    first, second = sent_to_the_provider(browser), sent_to_the_provider(browser)
    assert first["response_type"] == "code"
    assert first["scope"] == "openid profile groups"
    assert first["code_challenge_method"] == "S256"
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name]) >= 32
        assert first[name] != second[name]


@pytest.mark.parametrize(
    ("groups", "scopes"),
    [
        (["ops", "planners"], {Scope.MIGRATE, Scope.PLAN}),
        ("chiefs", {Scope.ADMIN}),
        (["ops", 7, None], {Scope.MIGRATE}),
    ],
)
def test_groups_add_up(issuer: Issuer, browser: TestClient, desk: Desk, groups: Any, scopes: set[Scope]) -> None:
    issuer.claims["groups"] = groups
    assert logged_in(browser).status_code == 303
    found = Sessions(desk.tokens._engine).whose(browser.cookies[COOKIE])
    assert found is not None
    assert found.scopes == scopes


@pytest.mark.parametrize("groups", [["others"], [], None])
def test_who_is_in_none_of_them_is_not_let_in(issuer: Issuer, browser: TestClient, groups: Any) -> None:
    issuer.claims["groups"] = groups
    assert "no group" in words(sound(logged_in(browser), 403))
    assert COOKIE not in browser.cookies


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "somebody-else"},
        {"aud": None},
        {"aud": ["mudanza", "somebody-else"], "azp": "somebody-else"},
        {"iss": "http://127.0.0.1:1"},
        {"iss": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"sub": None},
    ],
)
def test_a_word_that_is_not_for_us_and_now_is_not_believed(
    issuer: Issuer, browser: TestClient, claims: dict[str, Any]
) -> None:
    issuer.claims = claims
    assert "cannot be believed" in words(sound(logged_in(browser), 401))
    assert COOKIE not in browser.cookies


@pytest.mark.parametrize(
    ("key", "header"),
    [
        (OTHER_KEY, {"alg": "ES256", "kid": "k1"}),
        (OctKey.import_key(json.dumps(KEY.as_dict(private=False))), {"alg": "HS256", "kid": "k1"}),
        (OctKey.import_key("none"), {"alg": "none"}),
    ],
    ids=["another key", "its public key as a secret", "no signature"],
)
def test_a_word_that_it_has_not_signed_is_not_believed(
    issuer: Issuer, browser: TestClient, key: Any, header: dict[str, Any]
) -> None:
    issuer.key, issuer.header = key, header
    assert "cannot be believed" in words(sound(logged_in(browser), 401))
    assert COOKIE not in browser.cookies


def test_another_browser_cannot_bring_the_answer(browser: TestClient, desk: Desk) -> None:
    back = sent_back(sent_to_the_provider(browser))
    del browser.cookies[BEGUN]
    assert browser.get(back).status_code == 401
    sent_to_the_provider(browser)  # who has begun a log-in of their own
    assert "no answer to what" in words(sound(browser.get(back), 401))
    assert COOKIE not in browser.cookies


def test_an_answer_counts_once(browser: TestClient) -> None:
    back = sent_back(sent_to_the_provider(browser))
    begun = browser.cookies[BEGUN]
    assert browser.get(back).status_code == 303
    again = browser.get(back, headers={"cookie": f"{BEGUN}={begun}"})
    assert again.status_code == 401


def test_an_answer_that_comes_too_late_does_not_count(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    back = sent_back(sent_to_the_provider(browser))
    monkeypatch.setattr(oidc, "LASTS", -1.0)
    assert "too long ago" in words(sound(browser.get(back), 401))


def test_a_code_of_somebody_elses_browser_is_refused_by_the_provider(issuer: Issuer, browser: TestClient) -> None:
    stolen = parse_qs(urlsplit(sent_back(sent_to_the_provider(browser))).query)["code"][0]
    mine = sent_to_the_provider(browser)
    answer = browser.get("/oidc/back", params={"code": stolen, "state": mine["state"]})
    assert answer.status_code == 400
    assert issuer.refused == ["the verifier is another one"]


def test_a_wrong_secret_lets_nobody_in(issuer: Issuer, browser: TestClient) -> None:
    issuer.secret = "another"
    assert "invalid_grant" in words(sound(logged_in(browser), 400))
    assert issuer.refused


def test_without_a_secret_it_goes_by_pkce_alone(issuer: Issuer, desk: Desk, hands: Hands) -> None:
    issuer.secret = ""
    assert logged_in(browser_of(desk, hands, Provider(issuer.url, "mudanza", SCOPES))).status_code == 303


def test_what_the_provider_says_against_it_is_told(browser: TestClient) -> None:
    asked = sent_to_the_provider(browser)
    told = {"error": "access_denied", "error_description": "<b>no</b>", "state": asked["state"]}
    answer = browser.get("/oidc/back", params=told)
    assert "let nobody in: <b>no</b>" in words(sound(answer, 401))


def test_a_provider_that_is_another_one_or_away_is_told(issuer: Issuer, browser: TestClient, desk: Desk) -> None:
    issuer.metadata = {"issuer": "https://evil.example"}
    assert "says that it is" in words(sound(browser.get("/oidc/begin"), 400))
    issuer.metadata = {"jwks_uri": "http://127.0.0.1:1/keys"}
    assert "does not answer" in words(sound(browser.get("/oidc/begin"), 400))
    issuer.metadata = {}
    assert logged_in(browser).status_code == 303, "it is asked again"


def test_nobody_is_sent_elsewhere_afterwards(browser: TestClient) -> None:
    back = sent_back(sent_to_the_provider(browser, "//evil.example"))
    assert browser.get(back).headers["location"] == "/"


def test_who_tries_too_often_has_to_wait(browser: TestClient) -> None:
    back = sent_back(sent_to_the_provider(browser))
    for _ in range(MOST_FAILURES):
        assert browser.get("/oidc/back?state=x&code=y", headers={"cookie": f"{BEGUN}=z"}).status_code == 401
    assert browser.get(back).status_code == 429


def test_where_no_provider_is_named_there_is_none(desk: Desk, hands: Hands) -> None:
    front = with_pages(api_of(desk), Sessions(desk.tokens._engine), hands)
    client = TestClient(front, base_url=SITE, follow_redirects=False)
    assert client.get("/oidc/begin").status_code == 404
    assert client.get("/oidc/back").status_code == 404
    assert not sound(client.get("/login")).xpath("//a[contains(@href, 'oidc')]")


# Settings.


def test_half_a_provider_is_an_error() -> None:
    assert OidcSettings().as_provider() is None
    whole = OidcSettings(issuer="https://id.lan/r", client_id="m", scopes={"ops": [Scope.MIGRATE]})
    assert whole.as_provider() == Provider("https://id.lan/r", "m", {"ops": frozenset({Scope.MIGRATE})})
    halves: list[dict[str, Any]] = [{"client_id": ""}, {"scopes": {}}]
    for half in halves:
        with pytest.raises(UsageError, match="oidc"):
            whole.model_copy(update=half).as_provider()


@pytest.mark.parametrize(
    "issuer", ["http://id.lan", "https://me:secret@id.lan", "ftp://id.lan", "http://127.0.0.1.evil.example"]
)
def test_an_issuer_that_is_not_safe_is_an_error(issuer: str) -> None:
    with pytest.raises(ValueError, match="issuer"):
        OidcSettings(issuer=issuer)
