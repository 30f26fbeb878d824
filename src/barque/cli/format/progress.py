"""The display of docker's JSON message streams (pull, push, load, build).

On a terminal each id keeps its line: the cursor goes up to it and back. Elsewhere progress bars are dropped and every
status is a line of its own.
"""

from __future__ import annotations

import time

from barque.cli.format.units import format_duration, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

BAR = 50
#: Terminals narrower than this get the numbers without the bar.
MIN_BAR_WIDTH = 110
MIN_TIME_WIDTH = 50


class StreamError(Exception):
    """The engine reported an error in the stream."""


def progress_text(detail: dict[str, Any], columns: int, now: float) -> str:
    """``[====>     ]  1.2MB/3MB 5s`` for a progressDetail; "" where it says nothing."""
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    units = str(detail.get("units") or "")
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{current} {units}" if units else f"{human_size(current):>8}"
    percent = min(int(current / total * 100) // 2, BAR)
    bar = f"[{'=' * percent}>{' ' * (BAR - percent)}] " if columns > MIN_BAR_WIDTH else ""
    if detail.get("hidecounts"):
        numbers = ""
    elif units:
        numbers = f"{current} {units}" if current > total else f"{current}/{total} {units}"
    else:
        numbers = f"{human_size(current):>8}"
        if current <= total:
            numbers += f"/{human_size(total)}"
    left = ""
    start = int(detail.get("start") or 0)
    if current > 0 and start > 0 and percent < BAR and columns > MIN_TIME_WIDTH:
        per_entry = (now - start) / current
        left = " " + format_duration(round((total - current) * per_entry) * 1_000_000_000)
    return bar + numbers + left


class Display:
    """Writes messages to ``write``; ``columns`` is the terminal's width, 0 where the output is no terminal."""

    def __init__(self, write: Callable[[str], object], columns: int) -> None:
        self._write = write
        self._columns = columns
        self._lines: dict[str, int] = {}

    def show(self, message: dict[str, Any]) -> None:
        """Show one message; raises :class:`StreamError` for one that carries an error."""
        detail = message.get("progressDetail")
        if not isinstance(detail, dict):
            detail = None
        error = message.get("errorDetail") or ({"message": message["error"]} if message.get("error") else None)
        key = str(message.get("id") or "")
        below = 0
        if key and (detail is not None or message.get("progress")):
            if key not in self._lines:
                self._lines[key] = len(self._lines)
                if self._columns:
                    self._write("\n")
            below = len(self._lines) - self._lines[key]
            if self._columns and below:
                self._write(f"\x1b[{below}A")
        else:
            self._lines = {}
        if error:
            text = str(error.get("message", "")) if isinstance(error, dict) else str(error)
            raise StreamError("authentication is required" if isinstance(error, dict) and error.get("code") == 401
                              else text)
        self._write(self._text(message, key, detail))
        if key and self._columns and below:
            self._write(f"\x1b[{below}B")

    def _text(self, message: dict[str, Any], key: str, detail: dict[str, Any] | None) -> str:
        stream = message.get("stream")
        status = str(message.get("status") or "")
        end, head = "", ""
        bar = progress_text(detail, self._columns or 200, time.time()) if detail is not None else ""
        if self._columns and not stream and detail is not None:
            head, end = "\x1b[2K\r", "\r"
        elif bar:
            return ""  # no progress bars outside a terminal
        if key:
            head += f"{key}: "
        if message.get("from"):
            head += f"(from {message['from']}) "
        if detail is not None and self._columns:
            return f"{head}{status} {bar}{end}"
        if message.get("progress"):
            return f"{head}{status} {message['progress']}{end}"
        if stream:
            return f"{head}{stream}{end}"
        return f"{head}{status}{end}\n"


def show_all(messages: Iterable[dict[str, Any]], write: Callable[[str], object], columns: int,
             on_aux: Callable[[Any], None] | None = None) -> None:
    """Show a whole stream; ``aux`` values (image ids, digests) go to ``on_aux`` instead."""
    display = Display(write, columns)
    for message in messages:
        if message.get("aux") is not None:
            if on_aux is not None:
                on_aux(message["aux"])
            continue
        display.show(message)
