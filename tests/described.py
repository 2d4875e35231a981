"""What the API says of itself, which takes seconds to be put into words: once for all tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from mudanza.service.api import api_of
from mudanza.service.desk import Desk

WORDS = api_of(cast(Desk, SimpleNamespace(version="1.2.3"))).openapi()
