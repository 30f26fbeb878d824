"""Output cut into log entries, as dockerd's copier does it (moby, daemon/logger/copier.go)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

#: What dockerd reads a line into; longer ones become partial entries.
LONGEST_LINE = 16 << 10


class Partial(NamedTuple):
    """A piece of a line that was too long: the pieces share an id and count from 1."""

    id: str
    ordinal: int
    last: bool


class Entry(NamedTuple):
    """``line`` without its newline; ``time`` in nanoseconds since 1970. ``partial``: the entry is a piece of a line."""

    line: bytes
    time: int
    partial: Partial | None = None


class Cutter:
    """Takes what comes out of one stream, gives entries. The pieces of a line all have the time of the first one."""

    def __init__(self) -> None:
        self._unfinished = b""
        #: Id and time of the line that is being cut, and how many pieces of it there were.
        self._cut: tuple[str, int, int] | None = None

    @property
    def state(self) -> tuple[bytes, Sequence[Any] | None]:
        """What a further cutter needs to go on."""
        return self._unfinished, self._cut

    @state.setter
    def state(self, state: tuple[bytes, Sequence[Any] | None]) -> None:
        self._unfinished, cut = state
        self._cut = None if cut is None else (cut[0], cut[1], cut[2])

    def feed(self, data: bytes, time: int) -> list[Entry]:
        """The entries that ``data`` completes; the rest is kept."""
        lines = (self._unfinished + data).split(b"\n")
        rest = lines.pop()
        entries: list[Entry] = []
        for line in lines:
            if len(line) < LONGEST_LINE and self._cut is None:
                entries.append(Entry(line, time))
            else:
                entries.append(self._piece(self._shorten(line, time, entries), time, last=True))
        self._unfinished = self._shorten(rest, time, entries)
        return entries

    def end(self, time: int) -> list[Entry]:
        """What has no newline at its end, which counts as a piece of a line."""
        rest, self._unfinished = self._unfinished, b""
        return [self._piece(rest, time, last=False)] if rest else []

    def _shorten(self, line: bytes, time: int, entries: list[Entry]) -> bytes:
        """Cut pieces off ``line`` until less than one is left."""
        while len(line) >= LONGEST_LINE:
            entries.append(self._piece(line[:LONGEST_LINE], time, last=False))
            line = line[LONGEST_LINE:]
        return line

    def _piece(self, data: bytes, time: int, *, last: bool) -> Entry:
        name, began, count = self._cut or (os.urandom(32).hex(), time, 0)
        self._cut = None if last else (name, began, count + 1)
        return Entry(data, began, Partial(name, count + 1, last))
