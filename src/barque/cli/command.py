"""What a command is: its place, its flags, how many arguments it takes, what runs it."""

from __future__ import annotations

from barque.cli import flags as flag_parser
from barque.cli.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from barque.cli.app import App
    from barque.cli.flags import Flag, Values

PROGRAM = "barque"
UNLIMITED = -1


class Command:
    """A leaf command. ``path`` and ``usage`` make the usage line; ``run`` gives the exit code."""

    def __init__(self, path: str, usage: str, summary: str, run: Callable[[App, Values], int], *,
                 flags: Callable[[], list[Flag]] | None = None, least: int = 0, most: int = UNLIMITED,
                 interspersed: bool = True, aliases: str = "", examples: str = "", verb_prefix: bool = False) -> None:
        self.path = path
        self.usage = usage
        self.summary = summary
        self.run = run
        self.flags = flags or (list)
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.aliases = aliases
        self.examples = examples
        #: Errors of the engine are printed as docker's run and create do: ``barque: ...`` and a pointer to the help.
        self.verb_prefix = verb_prefix

    def usage_line(self, path: str) -> str:
        return f"{PROGRAM} {path} {self.usage}".rstrip()

    def execute(self, app: App, path: str, words: list[str]) -> int:
        """Parse ``words`` and run; ``path`` is how the command was called (``ps``, ``container ls``)."""
        name = f"{PROGRAM} {path}"
        try:
            values = flag_parser.parse(self.flags(), words, interspersed=self.interspersed)
        except flag_parser.HelpWanted:
            from barque.cli.help import command_help

            app.out(command_help(self, path, app.columns()))
            return 0
        except flag_parser.FlagError as error:
            raise UsageError(error.code, f"{error.message}\n\nUsage:  {self.usage_line(path)}\n\n"
                             f"Run '{name} --help' for more information") from None
        self._check_arguments(len(values.arguments), path, name)
        return self.run(app, values)

    def _check_arguments(self, count: int, path: str, name: str) -> None:
        if count >= self.least and (self.most == UNLIMITED or count <= self.most):
            return
        tail = f"\n\nUsage:  {self.usage_line(path)}\n\n"
        if self.most == 0:
            raise UsageError(1, f"{PROGRAM}: '{name}' accepts no arguments{tail}"
                             f"Run '{name} --help' for more information")
        hint = "See" if self.most == UNLIMITED else "Run"
        if self.most == UNLIMITED:
            need = f"requires at least {_arguments(self.least)}"
        elif self.least == self.most:
            need = f"requires {_arguments(self.least)}"
        elif self.least == 0:
            need = f"requires at most {_arguments(self.most)}"
        else:
            need = f"requires at least {self.least} and at most {_arguments(self.most)}"
        raise UsageError(1, f"{PROGRAM}: '{name}' {need}{tail}{hint} '{name} --help' for more information")


def _arguments(count: int) -> str:
    return f"{count} argument" + ("" if count == 1 else "s")
