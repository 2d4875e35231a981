"""A claim: who works on a VM, written into the VM's own metadata, where every controller can read it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Claim:
    """One controller's claim on one VM for one job.

    Fields that a damaged claim does not have are empty: it counts as a claim all the same, of nobody known.
    """

    journal: str
    """The random id of the journal that has the job."""
    job: int
    epoch: int
    controller: str
    """Who asked for it, and where: ``ana@laptop``."""
    kind: str
    """``live``, ``cold`` or ``relocate``."""
    source: str
    target: str
    """Hosts by the names which that controller has for them."""
    since: str
    """When it was taken, by the clock of its holder, which may be wrong."""
    beat: int = 0
    """Counts up while its holder lives: nobody's clock is needed to see that."""
    made: tuple[str, ...] = ()
    """Paths of what the job has made at the target so far."""
    done: tuple[str, ...] = ()
    """The steps of it, by their names in the journal, that whoever goes on with it has to know of."""
    took: str = ""
    """The id of a claim that it took the VM over from, whose holder must stop if it should wake up."""
    record: str = field(default="", repr=False)
    """What was decided, as JSON without any definition: enough to finish the job without its journal."""

    @property
    def name(self) -> str:
        """What it is called in commands and messages."""
        return f"{self.journal[:8] or 'unknown'}-{self.job}"

    @property
    def key(self) -> tuple[str, int]:
        """What tells one job of one journal from all others."""
        return self.journal, self.job

    @property
    def id(self) -> str:
        """What tells it from all others, as one word."""
        return f"{self.journal}-{self.job}"

    @property
    def in_words(self) -> str:
        """Whose it is, for what, and since when."""
        what = f"within {self.source}" if self.source == self.target else f"from {self.source} to {self.target}"
        return (
            f"job {self.job} of {self.controller or 'an unknown controller'} ({self.kind}, {what}) claims it since "
            f"{self.since or 'nobody knows when'} by that controller's clock; claim {self.name}"
        )
