"""Command line flags with the rules and error texts of Go's pflag, on which docker's command line stands.

A flag is declared once as a :class:`Flag`; parsing fills a dict from long names to values. ``interspersed`` False
stops at the first argument that is no flag (``run IMAGE ARG...``).
"""

from __future__ import annotations

from barque.cli.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: Turns (value so far, text) into the new value; raises ValueError with pflag's words.
    Parser = Callable[[Any, str], Any]


class Kind:
    """A type of flag: its name in help texts, its zero value, how a text is read."""

    __slots__ = ("name", "zero", "parse", "shown")

    def __init__(self, name: str, zero: Any, parse: Parser, shown: str = "") -> None:
        self.name = name
        self.zero = zero
        self.parse = parse
        self.shown = shown  # how help spells a zero value that is worth mentioning


def _bool(_: Any, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def integer(text: str, function: str, low: int, high: int) -> int:
    """Go's strconv.ParseInt(text, 0, bits)."""
    body = text.lstrip("+-") if text[:1] in ("+", "-") else text
    base = 8 if len(body) > 1 and body[0] == "0" and body.isdigit() else 0
    try:
        if not body or body[0] in "+-_ " or body != body.strip():
            raise ValueError
        value = int(text, base)
    except ValueError:
        raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax') from None
    if function == "ParseUint" and text[:1] in ("+", "-"):
        raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax')
    if not low <= value <= high:
        raise ValueError(f'strconv.{function}: parsing "{text}": value out of range')
    return value


def _int(_: Any, text: str) -> int:
    return integer(text, "ParseInt", -(1 << 63), (1 << 63) - 1)


def _append(current: Any, text: str) -> list[str]:
    return [*current, text]


def _duration(_: Any, text: str) -> int:
    from barque.cli.format.units import parse_duration

    return parse_duration(text)


def _bytes(_: Any, text: str) -> int:
    from barque.oci.sizes import ram_in_bytes

    return ram_in_bytes(text)


def _swap(_: Any, text: str) -> int:
    return -1 if text == "-1" else _bytes(None, text)


def _map(current: Any, text: str) -> dict[str, str]:
    key, _, value = text.partition("=")
    return {**current, key: value}


def _filter(current: Any, text: str) -> dict[str, list[str]]:
    """``key=value`` collected for the API's filters document."""
    if not text.strip():
        return dict(current)
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"invalid argument \"{text}\": bad format of filter (expected name=value)" if not key
                         else "bad format of filter (expected name=value)")
    key, value = key.strip().lower(), value.strip()
    return {**current, key: [*current.get(key, []), value]}


BOOL = Kind("", False, _bool)
STRING = Kind("string", "", lambda _, text: text)
INT = Kind("int", 0, _int)
UINT = Kind("uint", 0, lambda _, text: integer(text, "ParseUint", 0, (1 << 64) - 1))
UINT16 = Kind("uint16", 0, lambda _, text: integer(text, "ParseUint", 0, 65535), "0")
LIST = Kind("list", (), _append)
STRINGS = Kind("strings", (), lambda current, text: [*current, *text.split(",")])
STRING_ARRAY = Kind("stringArray", (), _append)
MAP = Kind("map", {}, _map, "map[]")
DURATION = Kind("duration", 0, _duration, "0s")
BYTES = Kind("bytes", 0, _bytes)
SWAP = Kind("bytes", 0, _swap)
FILTER = Kind("filter", {}, _filter)


class Flag:
    """One flag. ``default`` None means the kind's zero; ``check`` validates and may rewrite each text."""

    __slots__ = ("name", "short", "kind", "default", "help", "check", "hidden")

    def __init__(self, name: str, short: str, kind: Kind, help: str, default: Any = None,
                 check: Callable[[str], str] | None = None, hidden: bool = False) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.default = kind.zero if default is None else default
        self.help = help
        self.check = check
        self.hidden = hidden

    @property
    def label(self) -> str:
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class Values:
    """What a command line said: flag values by long name, which of them were given, the arguments."""

    __slots__ = ("_values", "changed", "arguments")

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.changed: set[str] = set()
        self.arguments: list[str] = []

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)


class HelpWanted(Exception):
    """``--help`` stands on the command line."""


class FlagError(UsageError):
    """A flag that cannot be parsed; 125, docker's code for all of them."""

    def __init__(self, message: str) -> None:
        super().__init__(125, message)


def parse(flags: list[Flag], arguments: list[str], *, interspersed: bool = True, short_help: bool = True) -> Values:
    """Parse; raises :class:`FlagError`, :class:`HelpWanted`. ``short_help``: ``-h`` asks for help."""
    return _Parser(flags, interspersed, short_help).run(arguments)


class _Parser:
    def __init__(self, flags: list[Flag], interspersed: bool, short_help: bool) -> None:
        self._long = {flag.name: flag for flag in flags}
        self._short = {flag.short: flag for flag in flags if flag.short}
        self._interspersed = interspersed
        self._short_help = short_help and "h" not in self._short
        self._values = {flag.name: flag.default for flag in flags}
        self.result = Values(self._values)

    def run(self, arguments: list[str]) -> Values:
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if len(word) < 2 or word[0] != "-":
                self.result.arguments.append(word)
                if not self._interspersed:
                    self.result.arguments += rest
                    break
            elif word == "--":
                self.result.arguments += rest
                break
            elif word.startswith("--"):
                self._long_flag(word, rest)
            else:
                self._short_flags(word, rest)
        return self.result

    def _long_flag(self, word: str, rest: list[str]) -> None:
        name, equals, text = word[2:].partition("=")
        if not name or name[0] == "-":
            raise FlagError(f"bad flag syntax: {word}")
        flag = self._long.get(name)
        if flag is None:
            if name == "help":
                raise HelpWanted
            raise FlagError(f"unknown flag: --{name}")
        if not equals:
            if flag.kind is BOOL:
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise FlagError(f"flag needs an argument: --{name}")
        self._set(flag, text)

    def _short_flags(self, word: str, rest: list[str]) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._short.get(letter)
            if flag is None:
                if letter == "h" and self._short_help:
                    raise HelpWanted
                raise FlagError(f"unknown shorthand flag: '{letter}' in {word}")
            if letters[:1] == "=" and len(letters) > 1:
                text, letters = letters[1:], ""
            elif flag.kind is BOOL:
                text = "true"
            elif letters:
                text, letters = letters, ""
            elif rest:
                text = rest.pop(0)
            else:
                raise FlagError(f"flag needs an argument: '{letter}' in {word}")
            self._set(flag, text)

    def _set(self, flag: Flag, text: str) -> None:
        if flag.name == "help":
            raise HelpWanted
        try:
            checked = flag.check(text) if flag.check is not None else text
            self._values[flag.name] = flag.kind.parse(self._values[flag.name], checked)
        except ValueError as error:
            raise FlagError(f'invalid argument "{text}" for "{flag.label}" flag: {error}') from None
        self.result.changed.add(flag.name)
