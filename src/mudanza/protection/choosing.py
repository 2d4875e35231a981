"""Which of its replicas a VM comes up from, where it has several: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mudanza.journal.protections import the_one_at
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.protection import Protection, Readdressed, Standing
from mudanza.model.units import format_duration

_NOWHERE: Mapping[str, str] = {}


def unusable(protection: Protection) -> str:
    """Return why a VM is not to come up from a replica unless a person says so; empty: it may."""
    if protection.standing is not Standing.ON:
        return f"it is {protection.standing}"
    if protection.newest is None:
        return "it has no restore point"
    if protection.is_stale:
        return "it is of before the VM came up elsewhere, and has nothing of what was written since"
    return ""


def freshest(replicas: Sequence[Protection], away: Mapping[str, str] = _NOWHERE) -> Protection:
    """Return the replica with the newest restore point of those that a VM may come up from.

    ``away``: hosts at which it cannot come up now → why. Raises BlockedError where there is none.
    """
    why = {each.target: unusable(each) or away.get(each.target, "") for each in replicas}
    found = [each for each in replicas if not why[each.target]]
    if not found:
        name = replicas[0].vm_name
        told = "; ".join(f"{host}: {reason}" for host, reason in why.items())
        raise BlockedError(
            f"VM {name!r} has no replica that it could come up from ({told})",
            remedy="if one is to be taken all the same, say which: --from HOST",
        )
    return max(found, key=lambda each: each.newest.taken_at if each.newest is not None else 0.0)


def meant(replicas: Sequence[Protection], away: Mapping[str, str] = _NOWHERE) -> Protection:
    """Return the replica that a person means who has not said which: the only one, whatever it is like, or the
    freshest.

    Raises BlockedError where there is none, or the freshest one's host is ``away`` (host → why): what is lost more by
    taking an older one is the person's to decide.
    """
    if len(replicas) == 1:
        return replicas[0]
    chosen = freshest(replicas)
    if chosen.target in away:
        others = [each for each in replicas if not unusable(each) and each.target not in away]
        ages = ", ".join(f"{each.target}: {format_duration(each.lag or 0.0)} old" for each in others)
        raise BlockedError(
            f"the freshest replica of VM {chosen.vm_name!r}, {format_duration(chosen.lag or 0.0)} old, is at "
            f"{chosen.target}: {away[chosen.target]}",
            remedy=f"take another one, and lose more: --from HOST ({ages})" if others else "see: mudanza hosts",
        )
    return chosen


def planned_for(
    replicas: Sequence[Protection], host: str, away: Mapping[str, str], runs: Callable[[Protection], bool]
) -> Protection:
    """Return the replica that a plan brings a VM up from, or has brought it up from: then it is ``FAILED_OVER``.

    ``host``: where the plan wants it; empty: wherever the freshest one is; ``away``, ``runs``: as of ``freshest`` and
    ``up_at``. Raises UsageError where it has no replica there, BlockedError where there is none to come up from.
    """
    if (up := up_at(replicas, runs)) is not None:
        return up
    if host:
        return the_one_at(replicas, host)
    return replicas[0] if len(replicas) == 1 else freshest(replicas, away)


def unseen(cluster: Cluster) -> Mapping[str, str]:
    """Return the hosts that were not seen, and why."""
    return {host.name: f"it was not seen: {host.error}" for host in cluster.hosts if not host.seen}


def place_of(replicas: Sequence[Protection]) -> Protection:
    """Return the replica at whose host a VM is, where it has come up at one; else any."""
    return next((each for each in replicas if each.standing is Standing.FAILED_OVER), replicas[0])


def up_at(replicas: Sequence[Protection], runs: Callable[[Protection], bool]) -> Protection | None:
    """Return the replica at whose host a VM is up; None: it is to come up from one of the others.

    ``runs``: whether it runs at a replica's host, asked only where it could come up elsewhere as well.
    """
    at = place_of(replicas)
    if at.standing is not Standing.FAILED_OVER:
        return None
    others = any(not unusable(each) for each in replicas)
    return at if not others or runs(at) else None


def home_of(replicas: Sequence[Protection], to: str | None = None) -> Protection:
    """Return the replica where a VM goes home to: that at a host, or the only one; of several the only one that begins
    with what it ran on there before. Where none does, and it runs where one of them was, that one, which is to be
    turned about first. Raises UsageError where it is not clear."""
    if to is not None:
        return the_one_at(replicas, to, "--to")
    kept = [each for each in replicas if each.standing is Standing.ON]
    seeded = [each for each in kept if each.seed]
    for found in (replicas, seeded):
        if len(found) == 1:
            return found[0]
    at = place_of(replicas)
    return at if at.standing is Standing.FAILED_OVER else the_one_at(seeded or kept or replicas, None, "--to")


def given_addresses(replicas: Sequence[Protection]) -> Readdressed | None:
    """Return which other addresses a VM's guest was given last, wherever; None: it has its own ones."""
    return next((each.readdressed for each in replicas if each.readdressed is not None), None)


def given_elsewhere(replicas: Sequence[Protection]) -> Readdressed | None:
    """Return which addresses a VM's guest still has that are for another host than the one where it has come up; None:
    it has none such."""
    given, at = given_addresses(replicas), place_of(replicas)
    is_elsewhere = given is not None and at.standing is Standing.FAILED_OVER and at.target != given.at
    return given if is_elsewhere else None


def home_with_others(replicas: Sequence[Protection], *, home: bool = False) -> str:
    """Return the host at which a VM is at home while its guest has the addresses of elsewhere still; empty: it is not.

    ``home``: somebody has said that it is at home where it has come up. Else it is where it has been before, for its
    replica there begins with disks that it ran on, and where it was to have its own ones already.
    """
    given, at = given_addresses(replicas), place_of(replicas)
    if given is None:
        return ""
    if at.standing is not Standing.FAILED_OVER:  # protected the other way since
        return given.owed_at
    is_home = at.target != given.at and (home or bool(at.seed) or given.owed_at == at.target)
    return at.target if is_home else ""
