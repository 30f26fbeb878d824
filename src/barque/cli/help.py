"""Help texts: usage, aliases, examples and flags, wrapped to the terminal as pflag does."""

from __future__ import annotations

from barque.cli.command import PROGRAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.command import Command
    from barque.cli.flags import Flag

_MIN_TEXT = 24


def command_help(command: Command, path: str, columns: int) -> str:
    parts = [f"Usage:  {command.usage_line(path)}", command.summary]
    if command.aliases:
        parts.append("Aliases:\n  " + ", ".join(f"{PROGRAM} {alias}" for alias in command.aliases.split(", ")))
    if command.examples:
        lines = (f"  {line}".rstrip() for line in command.examples.strip("\n").split("\n"))
        parts.append("Examples:\n" + "\n".join(lines))
    visible = [flag for flag in command.flags() if not flag.hidden]
    if visible:
        parts.append("Options:\n" + flag_usages(visible, columns).rstrip("\n"))
    return "\n\n".join(parts) + "\n"


def flag_usages(flags: list[Flag], columns: int) -> str:
    """One entry per flag, sorted by name, the texts in a column of their own."""
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        head = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        if flag.kind.name:
            head += f" {flag.kind.name}"
        rows.append((head, flag.help + default_of(flag)))
    left = max(len(head) for head, _ in rows) + 3
    lines = []
    for head, text in rows:
        wrapped = _wrap(text, max(columns - left, _MIN_TEXT))
        lines.append(head.ljust(left) + f"\n{' ' * left}".join(wrapped))
    return "\n".join(lines) + "\n"


def default_of(flag: Flag) -> str:
    """What stands behind the help of a flag that has a value without being given."""
    value = flag.default
    if not value and value != 0:
        return f" (default {flag.kind.shown})" if flag.kind.shown else ""
    if value == flag.kind.zero:
        return f" (default {flag.kind.shown})" if flag.kind.shown else ""
    if isinstance(value, bool):
        return f" (default {str(value).lower()})"
    if isinstance(value, str):
        return f' (default "{value}")'
    return f" (default {value})"


def _wrap(text: str, limit: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + 1 + len(word) > limit:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def group_help(name: str, summary: str, commands: list[tuple[str, str]]) -> str:
    width = max(len(command) for command, _ in commands)
    listing = "\n".join(f"  {command.ljust(width)}  {text}" for command, text in commands)
    return (f"Usage:  {PROGRAM} {name} COMMAND\n\n{summary}\n\nCommands:\n{listing}\n\n"
            f"Run '{PROGRAM} {name} COMMAND --help' for more information on a command.\n")


def top_help(sections: list[tuple[str, list[tuple[str, str]]]], options: str) -> str:
    width = max(len(command) for _, commands in sections for command, _ in commands)
    parts = [f"Usage:  {PROGRAM} [OPTIONS] COMMAND", "Containers: images, an engine and a registry in one program"]
    for title, commands in sections:
        listing = "\n".join(f"  {command.ljust(width)}  {text}" for command, text in commands)
        parts.append(f"{title}:\n{listing}")
    parts.append(f"Global Options:\n{options.rstrip()}")
    parts.append(f"Run '{PROGRAM} COMMAND --help' for more information on a command.")
    return "\n\n".join(parts) + "\n"
