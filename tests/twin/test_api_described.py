"""The API keeps to its own description, whatever it is asked: schemathesis thinks of the questions, always the same."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.described import WORDS
from tests.twin.asking import asking
from tests.twin.scene import scene

QUESTIONS = 5
"""To each operation, good ones and as many bad ones."""
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
LISTS = ("/api/v1/vms", "/api/v1/cpus")
"""Where a query may name one thing several times: there a single word is no mistake, though it is called one."""
DESCRIBED = schemathesis.openapi.from_dict(WORDS)
OPERATIONS = [
    (path, method.upper(), mode)
    for path, methods in WORDS["paths"].items()
    for method, about in methods.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or "parameters" in about or "requestBody" in about
]
"""Where nothing can be said, nothing can be said wrongly."""


@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_what_is_answered_is_as_it_is_described(path: str, method: str, mode: GenerationMode, tmp_path: Path) -> None:
    checks = [each for each in CHECKS if each is not negative_data_rejection or path not in LISTS]
    with scene(Random(7).randrange, tmp_path, hosts=2) as the:
        the.make_vm("web", "h1")
        with asking(the, tmp_path) as client:

            @settings(
                max_examples=QUESTIONS,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(DESCRIBED[path][method].as_strategy(mode))
            def ask(case: Case[Any]) -> None:
                words = case.as_transport_kwargs(base_url="http://local")
                content = {"content": words["data"]} if isinstance(words.get("data"), bytes | str) else {}
                about = {name: words[name] for name in ("params", "json", "headers") if name in words}
                answer = client.request(words["method"], words["url"], **about, **content)
                case.validate_response(Response.from_httpx(answer, verify=False), checks=checks)

            ask()
