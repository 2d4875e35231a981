"""Logging in by an OpenID Connect provider: the authorization code flow with state, nonce and PKCE.

The provider says who somebody is and in which groups; the settings say what each group may. What it is asked with stays
in this daemon, and a cookie ties it to the browser that began.
"""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mudanza import clock
from mudanza.model.access import Asker, Provider
from mudanza.model.errors import UsageError
from mudanza.service.problems import NotAllowedError, UnknownAskerError

LASTS = 600.0
"""Seconds that somebody may take to log in at the provider."""
MOST_BEGUN = 1000
"""Log-ins that are remembered; of more the oldest ones go."""
PATIENCE = 10.0
"""Seconds that the provider may take for an answer."""
METADATA_LASTS = 3600.0
"""Seconds for which is remembered what a provider says of itself."""
LEEWAY = 60
"""Seconds by which its clock may differ."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What it may sign with: keys that are its alone."""
MOST_NAME = 100


@dataclass(frozen=True, slots=True)
class Begun:
    """Somebody has been sent to the provider."""

    state: str
    nonce: str
    verifier: str
    back: str
    """Where the provider is to send them back to."""
    where: str
    """What they wanted to see."""
    at: float


@dataclass(frozen=True, slots=True)
class Known:
    """What a provider says of itself."""

    authorize: str
    token: str
    keys: Any
    at: float


@cache
def _trusted() -> ssl.SSLContext:
    """Return whom this machine trusts."""
    return ssl.create_default_context()


@dataclass
class Oidc:
    """The way in by one provider."""

    provider: Provider
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begun: dict[str, Begun] = field(default_factory=dict)
    _known: Known | None = None

    @property
    def name(self) -> str:
        """How people know it."""
        return urlsplit(self.provider.issuer).netloc

    def begin(self, back: str, where: str) -> tuple[str, str]:
        """Return where to send somebody, and what their browser is to bring back. Raises UsageError."""
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        known = self._metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._begun[key] = Begun(state, nonce, verifier, back, where, clock.monotonic())
            while len(self._begun) > MOST_BEGUN:
                del self._begun[next(iter(self._begun))]
        asked = {
            "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        scope = " ".join(("openid", *self.provider.ask))
        uri = prepare_grant_uri(known.authorize, self.provider.client_id, "code", back, scope, state, **asked)
        return str(uri), key

    def finish(self, key: str, answer: Mapping[str, str]) -> tuple[Asker, str, str]:
        """Return who has come back, what they wanted to see, and the provider's own name for them.

        ``key``: what their browser brought; ``answer``: what the provider has sent them back with. It counts once.
        Raises UnknownAskerError where it is no answer to what was asked, NotAllowedError for somebody who may do
        nothing here, UsageError where the provider does not do its part.
        """
        with self._lock:
            begun = self._begun.pop(key, None)
        if begun is None or clock.monotonic() > begun.at + LASTS:
            raise UnknownAskerError("this log-in was not begun here, or too long ago", remedy="begin again")
        if not secrets.compare_digest(begun.state.encode(), answer.get("state", "").encode()):
            raise UnknownAskerError("this is no answer to what the provider was asked", remedy="begin again")
        if "code" not in answer:
            told = answer.get("error_description") or answer.get("error") or "it said nothing"
            raise UnknownAskerError(f"{self.name} let nobody in: {told[:MOST_NAME]}", remedy="begin again")
        claims = self._claims(begun, answer["code"])
        return self._asker(claims), begun.where, str(claims["sub"])

    def _asker(self, claims: Mapping[str, Any]) -> Asker:
        told = claims.get(self.provider.groups_claim, ())
        groups = [told] if isinstance(told, str) else [each for each in told if isinstance(each, str)]
        scopes = frozenset(scope for group in groups for scope in self.provider.scopes.get(group, ()))
        name = str(claims.get(self.provider.name_claim) or claims["sub"])
        shown = "".join(each if each.isprintable() else "?" for each in name)[:MOST_NAME]
        if not scopes:
            raise NotAllowedError(
                f"{shown} is in no group that may do anything here",
                remedy="have one of their groups named in the settings: [oidc.scopes]",
            )
        return Asker(f"oidc {shown}", scopes)

    def _claims(self, begun: Begun, code: str) -> Mapping[str, Any]:
        """Have the provider say who it is, and see that it says so itself, to us, now and to this question."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet
        from joserfc.jws import JWSRegistry

        known = self._metadata()
        told = self._exchange(known, begun, code)
        try:
            registry = JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
            token = jwt.decode(str(told.get("id_token", "")), KeySet.import_key_set(known.keys), registry=registry)
            parties = {"iss": self.provider.issuer, "aud": self.provider.client_id}
            wanted = {name: {"essential": True, "value": value} for name, value in parties.items()}
            about = {
                "nonce": begun.nonce,
                "client_id": self.provider.client_id,
                "access_token": told.get("access_token"),
            }
            claims: Mapping[str, Any] = CodeIDToken(token.claims, token.header, wanted, about)
            claims.validate(leeway=LEEWAY)  # type: ignore[attr-defined]
        except (JoseError, ValueError) as error:
            self._known = None  # its keys may have changed: the next one asks for them anew
            raise UnknownAskerError(
                f"what {self.name} says cannot be believed: {error}", remedy="begin again"
            ) from error
        return claims

    def _exchange(self, known: Known, begun: Begun, code: str) -> Mapping[str, Any]:
        data = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": begun.back,
            "code_verifier": begun.verifier,
        }
        client, secret = self.provider.client_id, self._secret()
        if not secret:
            return self._asked("POST", known.token, data={**data, "client_id": client})
        return self._asked("POST", known.token, data=data, auth=(quote(client, safe=""), quote(secret, safe="")))

    def _secret(self) -> str:
        if not self.provider.client_secret_file:
            return ""
        try:
            return Path(self.provider.client_secret_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"oidc.client_secret_file cannot be read: {error}") from error

    def _metadata(self) -> Known:
        known = self._known
        if known is None or clock.monotonic() > known.at + METADATA_LASTS:
            issuer = self.provider.issuer
            about = self._asked("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if about.get("issuer") != issuer:
                raise UsageError(
                    f"{issuer} says that it is {about.get('issuer')!r}", remedy="write that as oidc.issuer"
                )
            try:
                keys = self._asked("GET", str(about["jwks_uri"]))
                known = Known(
                    str(about["authorization_endpoint"]), str(about["token_endpoint"]), keys, clock.monotonic()
                )
            except KeyError as error:
                raise UsageError(f"{issuer} does not say what its {error} is") from error
            self._known = known
        return known

    def _asked(self, method: str, url: str, **how: Any) -> Mapping[str, Any]:
        import httpx

        try:
            answer = httpx.request(method, url, timeout=PATIENCE, verify=_trusted(), **how)
            told = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise UsageError(f"{self.name} does not answer as it should: {type(error).__name__}: {error}") from error
        if answer.status_code != httpx.codes.OK or not isinstance(told, dict):
            said = told.get("error_description") or told.get("error") if isinstance(told, dict) else ""
            raise UsageError(f"{self.name} answers {answer.status_code} {said or ''}".rstrip())
        return told
