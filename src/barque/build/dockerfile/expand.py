"""Quotes and variables in the words of a Dockerfile: ``$name``, ``${name}`` with all of the modifiers, ``\\``.

The rules are those of docker's shell lexer, which are nearly, but not quite, those of sh: an unset variable is empty,
a name is made of letters, digits and ``_`` or is one special character, and patterns know ``*`` and ``?`` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from barque.build.dockerfile.errors import ExpansionError

_SPECIAL = "@*#?-$!0"
_END = ""
_PATTERNS = frozenset("#%")
_MODIFIERS = frozenset("+-?#%")


@dataclass
class Style:
    """How a word is read. ``raw_quotes`` and ``raw_escapes`` keep those characters in the result, ``keep_unset``
    leaves variables without a value as they are, ``plain_quotes`` gives quotes no meaning at all.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    keep_unset: bool = False
    plain_quotes: bool = False


@dataclass
class Expanded:
    """``text`` is the whole, ``words`` the same split at unquoted space; ``used`` and ``missing`` are names."""

    text: str
    words: list[str]
    used: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)


def expand(text: str, env: Mapping[str, str], style: Style | None = None) -> Expanded:
    """Raises :class:`ExpansionError`."""
    reader = _Reader(text, env, style or Style())
    try:
        whole, words = reader.until(_END, reader.style.raw_escapes)
    except ExpansionError as error:
        raise ExpansionError(f"failed to process {go_quote(text)}: {error}") from None
    return Expanded(whole, words, reader.used, reader.missing)


def go_quote(text: str) -> str:
    """As Go's ``%q`` writes a string."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b",
               "\f": "\\f", "\v": "\\v"}
    shown = "".join(escapes.get(char, char if char.isprintable() else _hex(char)) for char in text)
    return f'"{shown}"'


def _hex(char: str) -> str:
    number = ord(char)
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class _Words:
    def __init__(self) -> None:
        self.done: list[str] = []
        self._word = ""

    def char(self, char: str) -> None:
        if not char.isspace():
            self._word += char
        elif self._word:
            self.done.append(self._word)
            self._word = ""

    def raw(self, text: str) -> None:
        self._word += text

    def finish(self) -> list[str]:
        if self._word:
            self.done.append(self._word)
            self._word = ""
        return self.done


class _Reader:
    def __init__(self, text: str, env: Mapping[str, str], style: Style) -> None:
        self.text = text
        self.position = 0
        self.env = env
        self.style = style
        self.raw_escapes = style.raw_escapes
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def peek(self) -> str:
        return self.text[self.position] if self.position < len(self.text) else _END

    def next(self) -> str:
        char = self.peek()
        self.position += 1 if char else 0
        return char

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Read up to and over ``stop``; the text and its words."""
        outer, self.raw_escapes = self.raw_escapes, raw_escapes
        try:
            return self._until(stop)
        finally:
            self.raw_escapes = outer

    def _until(self, stop: str) -> tuple[str, list[str]]:
        result: list[str] = []
        words = _Words()
        while char := self.peek():
            if stop and char == stop:
                self.next()
                return "".join(result), words.finish()
            if char == "$":
                value = self._dollar()
                for part in value:
                    words.char(part)
            elif char in "'\"" and not self.style.plain_quotes:
                value = self._single() if char == "'" else self._double()
                words.raw(value)
            elif char == "<":
                value = self._angle()
                words.raw(value)
            elif char == self.style.escape:
                value = self._escaped()
                words.raw(value)
            else:
                value = self.next()
                words.char(value)
            result.append(value)
        if stop:
            raise ExpansionError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result), words.finish()

    def _escaped(self) -> str:
        kept = self.next() if self.raw_escapes else self.next()[:0]
        return kept + self.next()

    def _angle(self) -> str:
        """``<<`` with the blanks behind it belongs to one word, since a here-document may be written so."""
        value = self.next()
        if self.peek() != "<":
            return value
        value += self.next()
        while self.peek() and self.peek() in " \t\r\n":
            value += self.next()
        return value

    def _single(self) -> str:
        opening = self.next()
        end = self.text.find("'", self.position)
        if end < 0:
            raise ExpansionError("unexpected end of statement while looking for matching single-quote")
        inner = self.text[self.position:end]
        self.position = end + 1
        return f"{opening}{inner}'" if self.style.raw_quotes else inner

    def _double(self) -> str:
        result = self.next() if self.style.raw_quotes else self.next()[:0]
        while char := self.peek():
            if char == '"':
                self.next()
                return result + '"' if self.style.raw_quotes else result
            if char == "$":
                result += self._dollar()
                continue
            char = self.next()
            if char == self.style.escape:
                result += char if self.raw_escapes else ""
                following = self.peek()
                if not following:
                    continue
                if following in ('"', "$", self.style.escape):
                    char = self.next()
            result += char
        raise ExpansionError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self.next()
        if self.peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return f"${name}" if value is None and self.style.keep_unset else value or ""
        self.next()
        if not self.peek():
            raise ExpansionError("syntax error: missing '}'")
        if self.peek() in "{}:":
            raise ExpansionError("syntax error: bad substitution")
        return self._braced(self._name())

    def _braced(self, name: str) -> str:
        modifier = self.next()
        if modifier == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self.style.keep_unset else value or ""
        if modifier == "/":
            return self._replace(name)
        colon = modifier == ":"
        if colon:
            modifier = self.next()
        shown = ":" * colon + modifier
        if modifier in _PATTERNS if colon else modifier not in _MODIFIERS:
            raise ExpansionError(f"unsupported modifier ({shown}) in substitution")
        word = self._operand("}", modifier in _PATTERNS)
        if modifier not in _MODIFIERS:
            raise ExpansionError(f"unsupported modifier ({shown}) in substitution")
        value = self._value(name)
        if value is None and self.style.keep_unset:
            return f"${{{name}{shown}{word}}}"
        return _modified(name, value, colon, modifier, word)

    def _operand(self, stop: str, raw_escapes: bool, missing: str = "missing '}'") -> str:
        try:
            return self.until(stop, raw_escapes)[0]
        except ExpansionError:
            if not self.peek():
                raise ExpansionError(f"syntax error: {missing}") from None
            raise

    def _replace(self, name: str) -> str:
        every = self.peek() == "/"
        if every:
            self.next()
        pattern = self._operand("/", True, "missing '/' in ${}")
        replacement = self._operand("}", True)
        value = self._value(name)
        if value is None and self.style.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        compiled = _pattern(pattern, True)
        return compiled.sub(lambda _: replacement, value or "", count=0 if every else 1)

    def _value(self, name: str) -> str | None:
        value = self.env.get(name)
        (self.missing if value is None else self.used).add(name)
        return value

    def _name(self) -> str:
        start = self.position
        first = self.peek()
        if first and first.isdigit():
            while self.peek() and self.peek().isdigit():
                self.next()
        elif first and first in _SPECIAL:
            self.next()
        else:
            while (char := self.peek()) and (char.isalpha() or char.isdigit() or char == "_"):
                self.next()
        return self.text[start:self.position]


def _modified(name: str, value: str | None, colon: bool, modifier: str, word: str) -> str:
    absent = value is None or (colon and value == "")
    if modifier == "-":
        return word if absent else value or ""
    if modifier == "+":
        return "" if absent else word
    if modifier == "?":
        if absent:
            state = "unset" if value is None else "empty"
            raise ExpansionError(f"{name}: {word or f'is not allowed to be {state}'}")
        return value or ""
    greedy = word.startswith(modifier)
    pattern = _pattern(word[1:] if greedy else word, greedy)
    return _strip_start(pattern, value or "") if modifier == "#" else _strip_end(pattern, value or "", greedy)


def _strip_start(pattern: re.Pattern[str], value: str) -> str:
    found = pattern.match(value)
    return value[found.end():] if found else value


def _strip_end(pattern: re.Pattern[str], value: str, greedy: bool) -> str:
    starts = range(len(value) + 1) if greedy else range(len(value), -1, -1)
    for start in starts:
        if pattern.fullmatch(value, start):
            return value[:start]
    return value


def _pattern(text: str, greedy: bool) -> re.Pattern[str]:
    """A shell pattern of ``*``, ``?`` and escapes as a regular expression."""
    result = []
    characters = iter(text)
    for char in characters:
        if char == "\\":
            escaped = next(characters, "")
            if escaped not in ("*", "?", "\\", "}", "/"):
                raise ExpansionError(f"invalid pattern ({text}) in substitution: invalid escape '\\{escaped}'")
            result.append(re.escape(escaped))
        elif char == "*":
            result.append(".*" if greedy else ".*?")
        else:
            result.append("." if char == "?" else re.escape(char))
    return re.compile("".join(result))
