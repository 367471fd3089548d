"""Command groups with a default command."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from typer.core import TyperGroup

__all__ = ["HELP_OPTIONS", "DefaultCommandGroup"]

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
"""Settings of the command line under which -h is --help, of every command."""


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
        asks_help = bool(args) and args[0] in ctx.help_option_names
        if args and args[0] not in self.commands and not asks_help and (takes_words or not is_word):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Shows the default command's arguments and options, and the other commands below."""
        default = self.commands[self.default_command]
        shown = copy.copy(self)
        shown.params = default.params
        shown.help = default.help
        shown.commands = {name: one for name, one in self.commands.items() if one is not default}
        shown.subcommand_metavar = "| COMMAND ..."
        super(DefaultCommandGroup, shown).format_help(ctx, formatter)
