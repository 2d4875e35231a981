"""libvirt overlooks that QEMU has cancelled a migration, and would wait for ever: the twin's, as the real one did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from mudanza.hypervisor.twin.host import TwinHost
from tests.twin.scene import Attempt, Scene, scene


def cancelled_at_the_switchover(
    the: Scene, vm: str, source: TwinHost, *, besides: Callable[[], object] = lambda: None
) -> Attempt:
    """Move a VM, cancel that at the switchover, and have the source's libvirt overlook it."""
    source.overlooks_cancelling = True

    def cancel(note: str) -> None:
        migration = source.domains[vm].migration
        if note.startswith("phase STOPPED") and migration is not None:
            migration.abort()
            besides()

    the.twin.on_note = cancel
    return the.finish(the.migrate(vm, "h2"))


def test_a_cancelling_that_libvirt_has_overlooked_ends_the_move_all_the_same(tmp_path: Path) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        vm, source = the.make_vm("web", "h1"), the.twin.hosts["h1"]
        attempt = cancelled_at_the_switchover(the, vm, source)
        assert attempt.exit_code == 4, attempt.error
        assert "came no nearer" in str(attempt.error)
        assert the.twin.oracle.runs_on(vm) == ["h1"]
        assert source.domains[vm].migration is None
        assert the.twin.oracle.violations == []


def test_one_that_was_let_run_again_to_end_a_cancelled_migration_was_never_handed_over(tmp_path: Path) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        vm, target = the.make_vm("web", "h1"), the.twin.hosts["h2"]

        def lose_the_target() -> None:
            the.twin.scheduler.after(2.0, target.power_off)

        attempt = cancelled_at_the_switchover(the, vm, the.twin.hosts["h1"], besides=lose_the_target)
        assert attempt.exit_code == 4, attempt.error
        assert the.twin.oracle.runs_on(vm) == ["h1"]
        assert the.twin.oracle.violations == []
