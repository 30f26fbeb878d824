"""Splits a template into text and actions, and an action into tokens."""

from __future__ import annotations

from barque.gotemplate.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: (kind, text, offset in the action): field, chain (a field right behind a value), variable, name, literal,
    #: pipe, paren, assign, comma, dot
    Token = tuple[str, Any, int]

_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"', "'": "'"}


def pieces(text: str) -> list[tuple[bool, str, int]]:
    """``[(is_action, text, offset)]`` with the trim markers ``{{-`` and ``-}}`` applied and comments gone."""
    out: list[tuple[bool, str, int]] = []
    position, trim_next = 0, False
    while True:
        start = text.find("{{", position)
        plain = text[position:] if start < 0 else text[position:start]
        if trim_next:
            plain = plain.lstrip(_SPACE)
        if start < 0:
            out.append((False, plain, position))
            return out
        inner = start + 2
        if text[inner : inner + 1] == "-" and text[inner + 1 : inner + 2] in (" ", "\t", "\r", "\n"):
            plain = plain.rstrip(_SPACE)
            inner += 2
        out.append((False, plain, position))
        end = _action_end(text, inner)
        action = text[inner:end].strip(_SPACE)
        trim_next = text[end - 1] == "-" and text[end - 2] in _SPACE
        if trim_next:
            action = action[:-1].rstrip(_SPACE)
        if not action.startswith("/*"):
            out.append((True, action, text.index(action, inner) if action else inner))
        position = end + 2


def _action_end(text: str, position: int) -> int:
    """Where the closing ``}}`` is, looking past strings."""
    if text[position:].lstrip(_SPACE).startswith("/*"):
        close = text.find("*/", position)
        if close < 0:
            raise TemplateError("template: :1: unclosed comment")
        position = close + 2
    quote = ""
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\" and quote != "`":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "\"'`":
            quote = character
        elif text.startswith("}}", position):
            return position
        position += 1
    raise TemplateError("template: :1: unterminated quoted string" if quote else "template: :1: unclosed action")


def tokens(text: str) -> list[Token]:
    out: list[Token] = []
    position = 0
    while position < len(text):
        character = text[position]
        if character in _SPACE:
            position += 1
            continue
        start = position
        adjacent = position > 0 and text[position - 1] not in _SPACE + "(|,"
        if character in "\"'`":
            value, position = _string(text, position)
            out.append(("literal", value, start))
        elif character in "()":
            out.append(("paren", character, start))
            position += 1
        elif character == "|":
            out.append(("pipe", character, start))
            position += 1
        elif character == ",":
            out.append(("comma", character, start))
            position += 1
        elif text.startswith(":=", position) or character == "=":
            operator = ":=" if character == ":" else "="
            out.append(("assign", operator, start))
            position += len(operator)
        elif character.isdigit() or (character in "+-" and text[position + 1 : position + 2].isdigit()):
            word, position = _word(text, position + 1)
            out.append(("literal", _number(character + word), start))
        elif character == ".":
            word, position = _word(text, position)
            out.append(("dot" if word == "." else "chain" if adjacent else "field", word, start))
        elif character == "$" or character.isalpha() or character == "_":
            word, position = _word(text, position)
            head, dot, tail = word.partition(".")
            out.append(("variable" if character == "$" else "name", head, start))
            if dot:
                out.append(("chain", "." + tail, start + len(head)))
        else:
            raise TemplateError(f"template: :1: unexpected {character!r} in command")
    return out


def _word(text: str, position: int) -> tuple[str, int]:
    start = position
    while position < len(text) and (text[position].isalnum() or text[position] in "_.$"):
        position += 1
    return text[start:position], position


def _number(word: str) -> int | float:
    try:
        return int(word, 0)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        raise TemplateError(f"template: :1: bad number syntax: {word!r}") from None


def _string(text: str, position: int) -> tuple[Any, int]:
    quote, out = text[position], ""
    position += 1
    while text[position] != quote:
        character = text[position]
        if character == "\\" and quote != "`":
            position += 1
            escape = text[position]
            if escape in _ESCAPES:
                character = _ESCAPES[escape]
            elif escape in "xuU":
                digits = {"x": 2, "u": 4, "U": 8}[escape]
                code = text[position + 1 : position + 1 + digits]
                try:
                    character = chr(int(code, 16))
                except ValueError:
                    raise TemplateError("template: :1: invalid syntax in string") from None
                position += digits
            else:
                raise TemplateError("template: :1: invalid syntax in string")
        out += character
        position += 1
    return (ord(out) if quote == "'" and len(out) == 1 else out), position + 1
