"""Go's quoting of strings."""

from __future__ import annotations


def quoted(text: str) -> str:
    """Go's strconv.Quote."""
    out = ['"']
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f",
             "\v": "\\v"}
    for character in text:
        if character in short:
            out.append(short[character])
        elif character.isprintable():
            out.append(character)
        else:
            code = ord(character)
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(out) + '"'
