"""Go's notation of durations: ``1h2m3.5s``."""

from __future__ import annotations

import re
from fractions import Fraction

from barque.build.dockerfile.errors import SyntaxProblem
from barque.build.dockerfile.expand import go_quote

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_WHOLE = re.compile(rf"[+-]?(?:{_PART.pattern})+\Z", re.ASCII)


def parse_duration(text: str) -> int:
    """Nanoseconds; raises SyntaxProblem in Go's words."""
    if text in ("0", "+0", "-0"):
        return 0
    if not _WHOLE.match(text):
        kind = "missing unit in duration" if re.fullmatch(r"[+-]?[\d.]+", text) else "invalid duration"
        raise SyntaxProblem(f"time: {kind} {go_quote(text)}")
    total = sum(Fraction(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return -int(total) if text.startswith("-") else int(total)
