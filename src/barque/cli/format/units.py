"""Sizes, durations and times as docker prints and reads them."""

from __future__ import annotations

import time

from barque.oci.durations import human_duration

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
SECOND = 1_000_000_000
_DURATION_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 1_000_000, "s": SECOND, "m": 60 * SECOND,
                   "h": 3600 * SECOND}


def _scaled(size: float, base: float, units: tuple[str, ...], precision: int) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return f"{size:.{precision}g}{units[index]}"


def human_size(size: float, precision: int = 4) -> str:
    """``13.3kB``: powers of 1000, ``precision`` significant digits."""
    return _scaled(size, 1000.0, _DECIMAL, precision)


def bytes_size(size: float) -> str:
    """``1.5MiB``: powers of 1024."""
    return _scaled(size, 1024.0, _BINARY, 4)


def ago(unix: float) -> str:
    return human_duration(time.time() - unix) + " ago"


def go_time(unix: float) -> str:
    """Go's time.Time.String() in local time: ``2006-01-02 15:04:05 -0700 MST``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(unix))


def parse_rfc3339(text: str) -> float:
    """Unix seconds of an RFC 3339 timestamp with any number of fractional digits; 0.0 where it is none."""
    from calendar import timegm

    body = text.strip()
    offset = 0
    if body.endswith(("Z", "z")):
        body = body[:-1]
    elif len(body) > 6 and body[-6] in "+-" and body[-3] == ":":
        sign = -1 if body[-6] == "-" else 1
        if not (body[-5:-3] + body[-2:]).isdigit():
            return 0.0
        offset = sign * (int(body[-5:-3]) * 3600 + int(body[-2:]) * 60)
        body = body[:-6]
    whole, _, fraction = body.partition(".")
    try:
        seconds = timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0
    return seconds - offset + (float("0." + fraction) if fraction.isdigit() else 0.0)


def timestamp(text: str) -> str:
    """A point in time for the API: a duration (``10m``) counts back from now, dates are read in local time.

    Returns ``seconds.nanoseconds``; what is a number already goes through. Raises ValueError.
    """
    try:
        nanoseconds = parse_duration(text)
    except ValueError:
        pass
    else:
        if not text.strip("-+0123456789."):
            return text  # a bare "0" is a valid duration and a valid timestamp: the latter is meant
        then = time.time_ns() - nanoseconds
        return f"{then // SECOND}.{then % SECOND:09d}"
    if text.replace(".", "", 1).lstrip("-").isdigit():
        return text
    zoned = parse_rfc3339(text)
    if zoned and (text.endswith("Z") or text[-6:-5] in ("+", "-")):
        fraction = text.partition(".")[2].rstrip("Z")
        digits = fraction.partition("+")[0].partition("-")[0]
        return f"{int(zoned)}.{digits.ljust(9, '0')[:9]}"
    whole, _, fraction = text.partition(".")
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d"):
        try:
            seconds = int(time.mktime(time.strptime(whole, form)))
        except ValueError:
            continue
        return f"{seconds}.{fraction.ljust(9, '0')[:9]}"
    raise ValueError(f'failed to parse value as time or duration: "{text}"')


def parse_duration(text: str) -> int:
    """Go's time.ParseDuration in nanoseconds: ``1h30m``, ``-1.5s``; raises ValueError in its words."""
    body, sign = text, 1
    if body[:1] in ("-", "+"):
        sign = -1 if body[0] == "-" else 1
        body = body[1:]
    if body == "0":
        return 0
    if not body:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0.0
    while body:
        end = 0
        while end < len(body) and (body[end].isdigit() or body[end] == "."):
            end += 1
        number, body = body[:end], body[end:]
        end = 0
        while end < len(body) and not (body[end].isdigit() or body[end] == "."):
            end += 1
        unit, body = body[:end], body[end:]
        if not number or number.count(".") > 1 or number == ".":
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _DURATION_UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _DURATION_UNITS[unit]
    return sign * int(total)


def format_duration(nanoseconds: int) -> str:
    """Go's Duration.String(): ``1m30s``, ``1.5s``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < SECOND:
        unit, scale = ("ns", 1) if rest < 1000 else ("µs", 1000) if rest < 1_000_000 else ("ms", 1_000_000)
        return f"{sign}{rest / scale:.9g}{unit}"
    hours, rest = divmod(rest, 3600 * SECOND)
    minutes, rest = divmod(rest, 60 * SECOND)
    seconds = f"{rest // SECOND}.{rest % SECOND:09d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal: wide characters count twice."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def ellipsis(text: str, limit: int) -> str:
    """At most ``limit`` columns, the last one an ellipsis where something was cut."""
    if limit <= 0:
        return ""
    if width(text) <= limit:
        return text
    if limit == 1:
        return text[:1]
    used, out = 0, ""
    for character in text:
        used += width(character)
        if used > limit - 1:
            break
        out += character
    return out + "…"


def short_id(text: str) -> str:
    """The 12 characters that docker shows of an id or digest."""
    if ":" in text:
        text = text.partition(":")[2]
    return text[:12]


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key that orders numbers inside a text by their value: v2 before v10."""
    import re

    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]
