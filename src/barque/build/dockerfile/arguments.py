"""What follows an instruction's name: flags, words, ``key=value`` pairs, JSON arrays."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from barque.build.dockerfile.errors import SyntaxProblem
from barque.build.dockerfile.expand import go_quote

SPACE = re.compile(r"[\t\v\f\r ]+")
_NOT_STRINGS = "when using JSON array syntax, arrays must be comprised of strings only"


@dataclass(frozen=True)
class Pair:
    """``key=value`` as written, quotes included; ``legacy`` is the form with a blank instead of the equals sign."""

    key: str
    value: str
    legacy: bool = False


def json_array(text: str) -> list[str] | None:
    """The strings of a JSON array, or None where the text is none. Raises SyntaxProblem for other members."""
    text = text.lstrip()
    if not text.startswith("["):
        return None
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, list):
        return None
    if any(not isinstance(member, str) for member in members):
        raise SyntaxProblem(_NOT_STRINGS)
    return members


def is_json(text: str) -> bool:
    try:
        return json_array(text) is not None
    except SyntaxProblem:
        return True


def words(text: str) -> list[str]:
    """Split at blanks, as FROM, EXPOSE, COPY do: quotes mean nothing."""
    return SPACE.split(text) if text else []


def quoted_words(text: str, escape: str) -> list[str]:
    """Split at blanks outside of quotes; quotes and escapes stay in the words."""
    found: list[str] = []
    word, quote, begun = "", "", False
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if not quote and char.isspace():
            if word or begun:
                found.append(word)
            word, begun = "", False
            continue
        if char == escape and quote != "'":
            if position == len(text):
                break
            word += char + text[position]
            position += 1
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote, begun = char, True
        word += char
    return [*found, word] if word or begun else found


def pairs(text: str, name: str, escape: str) -> list[Pair]:
    """The pairs of ENV and LABEL; raises SyntaxProblem."""
    found = quoted_words(text, escape)
    if not found:
        raise SyntaxProblem(f"{name} requires at least one argument")
    if "=" not in found[0]:
        parts = SPACE.split(text, maxsplit=1)
        if len(parts) < 2:
            raise SyntaxProblem(f"{name} must have two arguments")
        return [Pair(parts[0], parts[1], legacy=True)]
    result = []
    for word in found:
        key, equals, value = word.partition("=")
        if not equals:
            raise SyntaxProblem(f"Syntax error - can't find = in {go_quote(word)}. Must be of the form: name=value")
        if not key:
            raise SyntaxProblem(f"{name} names can not be blank")
        result.append(Pair(key, value))
    return result


def split_flags(text: str, escape: str) -> tuple[list[str], str]:
    """The leading words that begin with ``--``, without their quotes, and what follows them."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if not text.startswith("--", position):
            return flags, text[position:].strip()
        word, position = _flag(text, position, escape)
        if word == "--":
            return flags, text[position:].strip()
        flags.append(word)


def _flag(text: str, position: int, escape: str) -> tuple[str, int]:
    word, quote = "", ""
    while position < len(text):
        char = text[position]
        if not quote and char.isspace():
            break
        position += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == escape:
            word += text[position:position + 1]
            position += 1
        else:
            word += char
    return word, position
