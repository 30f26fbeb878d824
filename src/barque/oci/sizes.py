"""Sizes as people write them, in the words of Go's units package, which docker and runc take them from."""

from __future__ import annotations

_EXPONENTS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def ram_in_bytes(text: str) -> int:
    """``512m``, ``1.5g``, ``64KiB`` -> bytes, powers of 1024; raises ValueError in go-units' words."""
    digits = len(text)
    while digits and not (text[digits - 1].isdigit() or text[digits - 1] == "."):
        digits -= 1
    number, suffix = text[:digits], text[digits:].lower().removeprefix(" ")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None
    if value < 0 or not number.strip("-+").replace(".", "", 1).isdigit():
        raise ValueError(f"invalid size: '{text}'")
    if suffix == "b" or not suffix:
        return int(value)
    if suffix[0] not in _EXPONENTS or suffix[1:] not in ("", "b", "ib"):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(value * 1024 ** _EXPONENTS[suffix[0]])
