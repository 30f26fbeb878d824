"""The ``created_by`` of each step, as docker's builder writes it into the history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from barque.build.dockerfile.expand import go_quote
from barque.oci.image import Healthcheck

_UNITS = ((3600 * 10**9, "h"), (60 * 10**9, "m"))


def nop(shell: Sequence[str], comment: str) -> str:
    """Of a step that only changes the configuration."""
    return " ".join([*shell, "#(nop) ", comment])


def nop_files(shell: Sequence[str], comment: str) -> str:
    """Of COPY, ADD and WORKDIR, for which docker writes one blank less."""
    return " ".join([*shell, f"#(nop) {comment}"])


def run(command: Sequence[str], arguments: Sequence[str]) -> str:
    """Of RUN, with the build arguments that it saw."""
    prefix = [f"|{len(arguments)}", *arguments] if arguments else []
    return " ".join([*prefix, *command])


def quoted(words: Iterable[str]) -> str:
    """Go's ``%q`` of a list of strings."""
    return "[" + " ".join(go_quote(word) for word in words) + "]"


def plain(words: Iterable[str]) -> str:
    """Go's ``%v`` of a list of strings."""
    return "[" + " ".join(words) + "]"


def healthcheck(health: Healthcheck) -> str:
    times = " ".join(f'"{duration(time)}"' for time in (health.interval, health.timeout, health.start_period))
    return f"HEALTHCHECK &{{{quoted(health.test or ())} {times} {_rune(health.retries)}}}"


def duration(nanoseconds: int) -> str:
    """As Go writes a duration: ``1m30s``, ``1.5s``, ``5ms``."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 10**9:
        for size, unit in ((10**6, "ms"), (10**3, "µs"), (1, "ns")):
            if nanoseconds >= size:
                return _decimal(nanoseconds, size) + unit
    result = ""
    for size, unit in _UNITS:
        if nanoseconds >= size or result:
            result += f"{nanoseconds // size}{unit}"
            nanoseconds %= size
    return result + _decimal(nanoseconds, 10**9) + "s"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def _rune(number: int) -> str:
    """Go's ``%q`` of a number: the character that it stands for."""
    if 0x20 <= number < 0x7F:
        char = chr(number)
        return "'\\" + char + "'" if char in "'\\" else f"'{char}'"
    escapes = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
    plain_escape = f"\\x{number:02x}" if number < 0x80 else chr(number)
    return f"'{escapes.get(number, plain_escape)}'"
