"""What is never written down: passwords in definitions and URIs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "*****"
"""What stands where a password stood; libvirt itself writes this where it is not asked to tell."""

_PASSWORDS = (
    # <graphics passwd='…'>, as an attribute of XML however it is quoted
    re.compile(r"""(\bpasswd\s*=\s*)(['"])(?:(?!\2).)*(\2)""", re.DOTALL),
    # scheme://user:password@host
    re.compile(r"""(\b[a-z][a-z0-9+.-]*://[^\s/@:'"]*:)()[^\s/@'"]*(@)"""),
    # <cookie name='…'>…</cookie> of a disk that is read over HTTP
    re.compile(r"""(<cookie\b[^>]*>)()[^<]*(</cookie>)"""),
    # password=… as a parameter of a URI or an option of a command
    re.compile(r"""((?:^|[?&,\s-])(?:password|passwd)=)()[^\s&,'"<]+()"""),
)


def without_secrets(value: Any) -> Any:
    """Return the same, made of mappings, sequences and texts as JSON has them, with passwords hidden in every text."""
    if isinstance(value, str):
        return _hidden(value)
    if isinstance(value, Mapping):
        return {key: without_secrets(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(each) for each in value]
    return value


def _hidden(text: str) -> str:
    for pattern in _PASSWORDS:
        text = pattern.sub(lambda found: f"{found[1]}{found[2]}{HIDDEN}{found[3]}", text)
    return text
