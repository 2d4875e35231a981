"""A server of metrics: where it is, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Server:
    """A Prometheus server."""

    url: str
    """Without its path ``/api/v1``."""
    queries: Mapping[str, str]
    """``vm_cpus``, ``host_memory``… → PromQL, in which ``$range`` stands for the span that rates are over."""
    labels: Mapping[str, str]
    """``vm``, ``host`` → the label that says which one."""
    timeout: float
    """Seconds that all queries together may take."""
    token_file: str = ""
    """A file with a bearer token; empty: none."""
