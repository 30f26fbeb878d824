"""Times as images carry them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_SECOND = 1_000_000_000


def now_or(epoch: int) -> int:
    """Nanoseconds since 1970: ``epoch`` (seconds) where it is given, else now."""
    return epoch * _SECOND if epoch >= 0 else time.time_ns()


def rfc3339(nanoseconds: int) -> str:
    """As Go writes a time in UTC: without trailing zeros in the fraction."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"
