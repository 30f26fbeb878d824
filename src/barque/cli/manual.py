"""Manual pages in man(7)'s markup, made of what ``--help`` is made of."""

from __future__ import annotations

from barque.cli import table
from barque.cli.command import PROGRAM
from barque.cli.help import default_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from barque.cli.command import Command
    from barque.cli.flags import Flag

_SEE = f".SH SEE ALSO\n.BR {PROGRAM} (1)\n"


def pages() -> Iterator[tuple[str, str]]:
    """(name of the file, its text): one for each command, one for each group, one for the program."""
    yield f"{PROGRAM}.1", _program()
    for group, summary in table.GROUPS.items():
        yield _name(group) + ".1", _group(group, summary)
    for path in table.TABLE:
        if not table.hidden(path):
            yield _name(path) + ".1", _page(path, table.load(path))


def _name(path: str) -> str:
    return "-".join([PROGRAM, *path.split()])


def _escaped(text: str) -> str:
    """As it is: no hyphen turned into a dash, no line taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "\n".join("\\&" + line if line.startswith(".") else line for line in text.split("\n"))


def _head(path: str, summary: str) -> str:
    name = _name(path)
    return (f'.TH {name.upper()} 1 "" "Barque" "Barque Manual"\n.SH NAME\n{_escaped(name)} \\- {_escaped(summary)}\n')


def _page(path: str, command: Command) -> str:
    parts = [_head(path, command.summary), f".SH SYNOPSIS\n.B {_escaped(f'{PROGRAM} {path}')}\n"
             f"{_escaped(command.usage)}\n"]
    if command.aliases:
        shown = ", ".join(f"{PROGRAM} {alias}" for alias in command.aliases.split(", "))
        parts.append(f".SH ALIASES\n{_escaped(shown)}\n")
    visible = sorted((flag for flag in command.flags() if not flag.hidden), key=lambda flag: flag.name)
    if visible:
        parts.append(".SH OPTIONS\n" + "".join(map(_option, visible)))
    if command.examples:
        parts.append(f".SH EXAMPLES\n.nf\n{_escaped(command.examples.strip())}\n.fi\n")
    return "".join([*parts, _SEE])


def _option(flag: Flag) -> str:
    names = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
    kind = f" \\fI{_escaped(flag.kind.name)}\\fR" if flag.kind.name else ""
    return f".TP\n\\fB{_escaped(names)}\\fR{kind}\n{_escaped(flag.help + default_of(flag))}\n"


def _listing(commands: list[tuple[str, str]], prefix: str = "") -> str:
    return "".join(f".TP\n.BR {_escaped(_name(f'{prefix} {name}'))} (1)\n{_escaped(text)}\n" for name, text in commands)


def _group(group: str, summary: str) -> str:
    return (_head(group, summary) + f".SH SYNOPSIS\n.B {_escaped(f'{PROGRAM} {group}')}\nCOMMAND\n.SH COMMANDS\n"
            + _listing(table.members(group), group) + _SEE)


def _program() -> str:
    parts = [_head("", "images, an engine and a registry of containers in one program"),
             f".SH SYNOPSIS\n.B {PROGRAM}\n[OPTIONS] COMMAND\n"]
    parts += [f".SH {_escaped(title.upper())}\n{_listing(commands)}" for title, commands in table.sections()]
    return "".join(parts)
