"""The command line's grammar, which is runc's: Go's flag package with aliases.

A small parser of its own, because what stands between an engine and its container is not worth 10 ms of argparse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from barque.errors import InvalidArgument


class UsageError(InvalidArgument):
    """The command line makes no sense."""


class Flag(msgspec.Struct, frozen=True):
    """``kind``: "bool", "text", "int" or "list" (may be repeated)."""

    kind: str
    aliases: tuple[str, ...] = ()


class Parsed(msgspec.Struct, frozen=True):
    values: dict[str, str | bool | int | list[str]]
    rest: list[str]

    def text(self, name: str) -> str:
        return str(self.values.get(name, ""))

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name, False))

    def number(self, name: str) -> int | None:
        value = self.values.get(name)
        return value if isinstance(value, int) else None

    def texts(self, name: str) -> list[str]:
        value = self.values.get(name)
        return value if isinstance(value, list) else []


def parse(words: Sequence[str], table: Mapping[str, Flag], *, mixed: bool) -> Parsed:
    """Read flags (``-x v``, ``--x v``, ``--x=v``) off ``words``; raises :class:`UsageError`.

    With ``mixed`` they may also stand after other words; otherwise the first other word ends them. ``--`` always does.
    """
    names = {alias: name for name, flag in table.items() for alias in (name, *flag.aliases)}
    values: dict[str, str | bool | int | list[str]] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return Parsed(values, rest + queue)
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not mixed:
                return Parsed(values, rest + queue)
            continue
        if word.startswith("---"):
            raise UsageError(f"bad flag syntax: {word}")
        spelled, equals, value = word.lstrip("-").partition("=")
        if spelled not in names:
            raise UsageError(f"flag provided but not defined: -{spelled}")
        name = names[spelled]
        if table[name].kind != "bool" and not equals:
            if not queue:
                raise UsageError(f"flag needs an argument: -{spelled}")
            value = queue.pop(0)
        _store(values, name, table[name].kind, value if equals or table[name].kind != "bool" else "true")
    return Parsed(values, rest)


def _store(values: dict[str, str | bool | int | list[str]], name: str, kind: str, value: str) -> None:
    if kind == "bool":
        if value not in ("true", "false", "1", "0"):
            raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
        values[name] = value in ("true", "1")
    elif kind == "int":
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise UsageError(f'invalid value "{value}" for flag -{name}: parse error')
        values[name] = int(value)
    elif kind == "list":
        found = values.setdefault(name, [])
        assert isinstance(found, list)
        found.append(value)
    else:
        values[name] = value
