"""Command groups with a default command."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperGroup

__all__ = ["DefaultCommandGroup"]


class DefaultCommandGroup(TyperGroup):
    """A group of commands, the first word of whose arguments may be that of its `default_command` command.

    Attributes:
        default_command: The name of the command that is meant where the first word is none of a command.
    """

    default_command: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts in the name that was left out."""
        takes_words = any(
            one.param_type_name == "argument" for one in self.commands[self.default_command].params
        )
        is_word = bool(args) and not args[0].startswith("-")
        if args and args[0] not in self.commands and args[0] != "--help" and (takes_words or not is_word):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)
