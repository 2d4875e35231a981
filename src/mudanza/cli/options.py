"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from mudanza.cli.output import Format
from mudanza.model.cluster import Cluster
from mudanza.model.errors import UsageError
from mudanza.model.vm import Vm

Output = Annotated[Format, typer.Option("-o", "--output", metavar="table|json|yaml|name", help="How to print.")]
VmName = Annotated[str, typer.Argument(metavar="VM", help="Its name or UUID (after `--` if it begins with a dash).")]
VmNames = Annotated[
    list[str] | None, typer.Argument(metavar="VM", help="Names or UUIDs (after `--` if one begins with a dash).")
]
Tag = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Every VM with this tag; may be repeated.")]


def parse_map(pairs: Iterable[str] | None, option: str) -> dict[str, str]:
    """Read ``A=B`` options. Raises UsageError for what is not of that form, or names A twice."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        before, equals, after = pair.partition("=")
        if not (before and equals and after):
            raise UsageError(f"{option} {pair!r} is not of the form A=B", remedy=f"write: {option} default=fast")
        if before in found:
            raise UsageError(f"{option} names {before!r} twice")
        found[before] = after
    return found


def choose_vms(
    cluster: Cluster, names: Sequence[str] | None, tags: Sequence[str] | None, *, bound_for: str | None = None
) -> tuple[Vm, ...]:
    """Return the VMs meant, each once. Raises UsageError if nothing is named or found. ``bound_for``: where to."""
    if not names and not tags:
        raise UsageError("name at least one VM, or use --tag", remedy="see them all: mudanza vms")
    chosen = {vm.uuid: vm for vm in (cluster.find(name, bound_for=bound_for) for name in names or ())}
    for tag in tags or ():
        tagged = [vm for vm in cluster.vms if tag in vm.tags]
        if not tagged:
            raise UsageError(f"no VM has the tag {tag!r}", remedy="see them all: mudanza vms")
        chosen.update((uuid, cluster.find(uuid, bound_for=bound_for)) for uuid in {vm.uuid for vm in tagged})
    return tuple(chosen.values())
