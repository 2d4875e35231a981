"""What becomes of several things that were to be done, in one exit code."""

from __future__ import annotations

from collections.abc import Sequence

PARTLY = 7
"""Some went, and some did not."""
GRAVITY = (5, 6, 1, 4, 3, 2)
"""The gravest first: a person must look, a VM is down, nobody knows, as before, nothing touched, wrong usage."""


def of_several(codes: Sequence[int]) -> int:
    """Return 0 if all went well, PARTLY if some did, and if none did the gravest of their codes."""
    failures = [code for code in codes if code]
    if not failures:
        return 0
    return PARTLY if len(failures) < len(codes) else min(failures, key=GRAVITY.index)
