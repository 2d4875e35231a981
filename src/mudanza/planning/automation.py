"""How far balance goes with each VM, and whom it leaves where they are: by the rules and by VMs' own wishes."""

from __future__ import annotations

from mudanza.model.automation import Automation
from mudanza.model.cluster import Cluster
from mudanza.model.rules import Rules
from mudanza.model.times import is_within
from mudanza.model.vm import Vm


def level_of(vm: Vm, rules: Rules) -> Automation:
    """Return how far balance goes with a VM: as it wishes itself, else as far as in the whole cluster. One whose wish
    nobody understands is left alone."""
    if vm.wishes is None:
        return rules.automation
    if "balance" in vm.wishes.faults:
        return Automation.NEVER
    return vm.wishes.balance or rules.automation


def never_moved(vm: Vm) -> str:
    """Return why no plan of the operator's wish moves a VM; empty: one may."""
    if vm.wishes is None:
        return ""
    if "balance" in vm.wishes.faults:
        return f"nobody understands its wish for balance: {vm.wishes.faults['balance']}"
    return "it wishes itself that balance never moves it" if vm.wishes.balance is Automation.NEVER else ""


def at_rest(cluster: Cluster, rules: Rules, upto: Automation, at: float | None) -> dict[str, str]:
    """Return whom a plan leaves alone that is carried out as far as ``upto`` says, by UUID, with the reason: VMs with
    which balance is more cautious, and those whose own windows do not include ``at`` (seconds since the epoch; None:
    windows are not looked at)."""
    found = {}
    for vm in cluster.vms:
        level = level_of(vm, rules)
        if level.caution > upto.caution:
            found[vm.uuid] = f"balance is set to {level} for it"
        elif at is not None and (why := _outside(vm, at)):
            found[vm.uuid] = why
    return found


def _outside(vm: Vm, at: float) -> str:
    if vm.wishes is None:
        return ""
    if "balance-window" in vm.wishes.faults:
        return f"nobody understands its window for balance: {vm.wishes.faults['balance-window']}"
    windows = vm.wishes.balance_window
    if not windows or any(is_within(window, at) for window in windows):
        return ""
    return f"it wishes to be moved for balance between {' and '.join(windows)} only"
