"""Patterns of ``.dockerignore`` and ``--exclude``, matched exactly as docker matches them.

``*`` and ``?`` stay within a name, ``**`` crosses any number of them, ``!`` takes back, the last
pattern that fits wins. A pattern that fits a directory fits all that is in it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable


class BadPattern(ValueError):
    """The text names the pattern."""


class Patterns:
    """``patterns`` are cleaned lines. Raises :class:`BadPattern`."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._compiled: list[tuple[bool, re.Pattern[str]]] = []
        for line in patterns:
            text = line.strip()
            if not text:
                continue
            back = text.startswith("!")
            if back and len(text) == 1:
                raise BadPattern('illegal exclusion pattern: "!"')
            cleaned = posixpath.normpath(text[1:].strip() if back else text)
            self._compiled.append((back, _compile(cleaned)))
        self.takes_back = any(back for back, _ in self._compiled)

    def __bool__(self) -> bool:
        return bool(self._compiled)

    def matches(self, path: str) -> bool:
        """Whether ``path`` (relative, with slashes) is among what the patterns name, itself or through a parent."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
        matched = False
        for back, pattern in self._compiled:
            # An inclusion can only set what is not set, an exclusion only take back what is.
            if back == matched and any(pattern.match(prefix) for prefix in prefixes):
                matched = not back
        return matched


def read_ignore_file(text: str) -> list[str]:
    """The patterns of a ``.dockerignore``: comments and blank lines dropped, leading slashes too."""
    found = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#") or not (pattern := line.strip()):
            continue
        back = pattern.startswith("!")
        pattern = pattern[1:].strip() if back else pattern
        if pattern:
            pattern = posixpath.normpath(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        found.append("!" + pattern if back else pattern)
    return found


def _compile(pattern: str) -> re.Pattern[str]:
    result: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*" and pattern.startswith("*", position):
            position += 1
            if pattern.startswith("/", position):
                position += 1
            result.append("(.*/)?" if position < len(pattern) else ".*")
        elif char == "*":
            result.append("[^/]*")
        elif char == "?":
            result.append("[^/]")
        elif char == "\\":
            if position == len(pattern):
                raise BadPattern(f"syntax error in pattern: {pattern}")
            result.append(re.escape(pattern[position]))
            position += 1
        elif char == "[":
            text, position = _class(pattern, position)
            result.append(text)
        else:
            result.append(re.escape(char))
    return re.compile("".join(result) + r"\Z", re.DOTALL)


def _class(pattern: str, position: int) -> tuple[str, int]:
    """A bracket expression, whose ``[`` has been read; the regular expression and where it ends."""
    start = position
    result = "["
    if pattern.startswith("^", position):
        result, position = "[^", position + 1
    first = True
    while position < len(pattern) and (pattern[position] != "]" or first):
        first = False
        char = pattern[position]
        position += 1
        if char == "\\" and position < len(pattern):
            result += re.escape(pattern[position])
            position += 1
        else:
            result += char if char == "-" else re.escape(char)
    if position == len(pattern):
        raise BadPattern(f"syntax error in pattern: {pattern[:start - 1]}{pattern[start - 1:]}")
    try:
        re.compile(result + "]")
    except re.error:
        raise BadPattern(f"syntax error in pattern: {pattern}") from None
    return result + "]", position + 1


def go_match(pattern: str, *, deep: bool = False) -> re.Pattern[str]:
    """Go's ``filepath.Match``; ``**`` is no more than ``*`` there unless ``deep``. Raises :class:`BadPattern`."""
    return _compile(pattern if deep else re.sub(r"\*\*+", "*", pattern))


def has_wildcards(text: str) -> bool:
    """Whether an unescaped ``*``, ``?`` or ``[`` is in it."""
    return re.search(r"[*?\[]", re.sub(r"\\.", "", text, flags=re.DOTALL)) is not None


def unescaped(text: str) -> str:
    """A source without wildcards as the name that it stands for."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)

