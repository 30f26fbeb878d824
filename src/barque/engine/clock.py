"""Times as docker writes them: RFC 3339 in UTC with nanoseconds."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

ZERO = "0001-01-01T00:00:00Z"


def render(nanoseconds: int) -> str:
    """``nanoseconds`` since the epoch as RFC 3339 with nine decimals."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def now() -> str:
    return render(time.time_ns())


def parse(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; 0 for docker's zero time. Raises ValueError."""
    if text.startswith("0001-"):
        return 0
    head, dot, tail = text.partition(".")
    if not dot:
        return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    digits = len(tail) - len(tail.lstrip("0123456789"))
    zone = tail[digits:] or "Z"
    whole = datetime.fromisoformat(head + zone).astimezone(UTC)
    return int(whole.timestamp()) * 1_000_000_000 + int(tail[:digits][:9].ljust(9, "0"))


_AGE = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?\Z", re.ASCII)
_UNIX = re.compile(r"(\d+)(?:\.(\d{1,9}))?\Z", re.ASCII)


def parse_moment(text: str, now_ns: int) -> int | None:
    """What docker's ``since``, ``until`` say, in nanoseconds: Unix time, an age such as ``1h30m``, RFC 3339; else
    None.
    """
    if match := _UNIX.match(text):
        return int(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    if text and (match := _AGE.match(text)):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return now_ns - int((hours * 3600 + minutes * 60 + seconds) * 1e9)
    try:
        if len(text) == 10:
            text += "T00:00:00Z"
        elif "T" in text and not re.search(r"(Z|[+-]\d\d:?\d\d)\Z", text):
            text += "Z"
        return parse(text)
    except ValueError:
        return None
