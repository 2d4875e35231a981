"""The pages' languages: English stands in the templates, its Spanish in ``spanish``; what hosts say stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mudanza.service.pages.spanish import SPANISH

_TEXTS = {"en": None, "es": SPANISH}


def language_of(accepted: str) -> str:
    """Return which of ours somebody likes best, by what a browser accepts (RFC 9110, 12.5.4); else English."""
    best, most = "en", 0.0
    for each in accepted.split(","):
        name, _, rest = each.strip().partition(";")
        language = name.strip().lower().partition("-")[0]
        weight = _weight(rest)
        if language in _TEXTS and weight > most:
            best, most = language, weight
    return best


def _weight(text: str) -> float:
    name, _, value = text.strip().partition("=")
    try:
        return float(value) if name.strip().lower() == "q" else 1.0
    except ValueError:
        return 0.0


def in_language(language: str) -> Callable[..., str]:
    """Return what writes a text in a language; ``{name}`` in it stands for what is given under that name."""
    texts = _TEXTS[language]

    def written(text: str, **known: Any) -> str:
        found = text if texts is None else texts.get(text, text)
        return found.format(**known) if known else found

    return written
