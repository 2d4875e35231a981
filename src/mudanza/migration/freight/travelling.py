"""Which files of a VM travel, and which of them the target sees anyway."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from mudanza.migration.prepare import Prepared
from mudanza.model.migration import Answer, Probe
from mudanza.preflight.cargo import CargoFile, cargo_of


def travelling(prepared: Prepared, *, live: bool = False) -> tuple[CargoFile, ...]:
    """Return the files that travel, or of a running VM (``live``) those that are sent ahead."""
    chosen = prepared.chosen
    cargo = cargo_of(prepared.vm, prepared.source, chosen.target, prepared.options, chosen.resolution, live=live)
    return tuple(replace(file, seen_by_both=_seen_by_both(file, prepared)) for file in cargo.files)


def _seen_by_both(file: CargoFile, prepared: Prepared) -> bool:
    """Whether a file of the source is, or may be, one that the target sees too.

    Images below disks were not tried: they are the source's own if a disk beside them is.
    """
    shared = prepared.chosen.facts.shared
    beside = (disk for disk in prepared.vm.disks if _directory(disk.source) == _directory(file.source))
    return all(shared.get(disk.target, Probe()).answer is not Answer.NO for disk in beside)


def _directory(path: str | None) -> str:
    return posixpath.dirname(path or "")
