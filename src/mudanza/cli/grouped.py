"""A verb that takes a VM, and has commands in it besides: ``failover VM`` and ``failover plan NAME``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class WithCommands(TyperGroup):
    """A group whose own callback does the usual; a first word that is one of its commands means that one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the first word for a command's name if there is such a command, else all of them for the verb's own."""
        if args and args[0] in self.commands:
            args = ["", *args]  # in the argument's place, which a command has no use for
        else:
            ctx.allow_interspersed_args = True
        return super().parse_args(ctx, args)
