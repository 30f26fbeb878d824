"""``--chmod``: octal or symbolic modes as chmod(1) has them."""

from __future__ import annotations

import re

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)\Z")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0}


class BadMode(ValueError):
    """The text names the mode."""


def check(text: str) -> None:
    """Raises :class:`BadMode`."""
    apply(text, 0, False)


def apply(text: str, mode: int, directory: bool) -> int:
    """The permission bits after ``chmod text`` on something with ``mode``."""
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        return int(text, 8)
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if not match:
            raise BadMode(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
        who = "ugo" if not match[1] or "a" in match[1] else match[1]
        for operator, permissions in _ACTION.findall(match[2]):
            mode = _act(mode, who, operator, permissions, directory)
    return mode


def _act(mode: int, who: str, operator: str, permissions: str, directory: bool) -> int:
    bits, mask = 0, 0
    for kind in who:
        shift = _SHIFTS[kind]
        if permissions in _SHIFTS:
            value = (mode >> _SHIFTS[permissions]) & 7
        else:
            value = sum(_BITS[letter] for letter in set(permissions) if letter in _BITS)
            if "X" in permissions and (directory or mode & 0o111):
                value |= 1
        bits |= value << shift
        mask |= 7 << shift
        if "s" in permissions:
            bits |= _SPECIAL[kind]
        mask |= _SPECIAL[kind] if operator == "=" and not directory else 0
    if "t" in permissions:
        bits |= 0o1000
    if operator == "+":
        return mode | bits
    return mode & ~bits if operator == "-" else (mode & ~mask) | bits
