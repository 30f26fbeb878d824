"""Read the log file of a container back: a tail, a span of time, and what is still to come.

The files are read by this process, never through the monitor, so a slow reader disturbs nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import quote_plus

from barque.engine.containers.registry import Live
from barque.engine.logging import journal
from barque.engine.logging.formats import JSON_FILE, LOCAL, Decode, Entry, Format
from barque.errors import InvalidArgument, Unsupported
from barque.sys import inotify

CHUNK = 256 << 10
#: More than this in one go is decoded in a thread; less is faster at once.
_INLINE = 32 << 10
#: Written to, renamed or removed by a rotation.
_CHANGES = inotify.MODIFY | inotify.ATTRIB | inotify.MOVE_SELF | inotify.DELETE_SELF
#: Of the directory: between two files of a rotation there is none by the log's name.
_ARRIVALS = inotify.CREATE | inotify.MOVED_TO
_STREAMS = {"stdout": b"\x01\0\0\0", "stderr": b"\x02\0\0\0"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """Times in nanoseconds; ``tail`` None means all."""

    stdout: bool
    stderr: bool
    since: int | None = None
    until: int | None = None
    timestamps: bool = False
    details: bool = False
    tail: int | None = None
    follow: bool = False


class Renderer:
    """Log lines -> what goes to the client: 8-byte frames, or raw bytes for a terminal."""

    def __init__(self, query: Query, decode: Decode, *, framed: bool) -> None:
        self._query = query
        self._decode = decode
        self._framed = framed
        self._wanted = {name for name, on in (("stdout", query.stdout), ("stderr", query.stderr)) if on}
        self.done = False

    def render(self, records: list[bytes]) -> bytes:
        """``done`` is set once an entry is past ``until``. What does not parse was cut off by a crash: skipped."""
        query = self._query
        timed = query.since is not None or query.until is not None
        parts: list[bytes] = []
        for record in records:
            try:
                entry = self._decode(record)
            except ValueError:
                continue
            if timed:
                moment = entry.moment
                if query.since is not None and moment < query.since:
                    continue
                if query.until is not None and moment > query.until:
                    self.done = True
                    break
            if entry.stream in self._wanted:
                self._add(parts, entry)
        return b"".join(parts)

    def _add(self, parts: list[bytes], entry: Entry) -> None:
        data = entry.data
        if self._query.details:
            attributes = sorted(entry.attrs.items())
            data = b"%b %b" % (
                ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in attributes).encode(), data)
        if self._query.timestamps:
            data = b"%b %b" % (entry.stamp.encode(), data)
        if self._framed:
            parts.append(_STREAMS[entry.stream] + len(data).to_bytes(4, "big"))
        parts.append(data)


def files(path: str) -> list[str]:
    """The log and its rotated predecessors, oldest first."""
    directory, name = os.path.split(path)
    try:
        present = set(os.listdir(directory))
    except FileNotFoundError:
        return []
    numbers = sorted({int(part) for item in present if item.startswith(name + ".")
                      and (part := item[len(name) + 1:].removesuffix(".gz")).isdecimal()}, reverse=True)
    older = [f"{path}.{n}" if f"{name}.{n}" in present else f"{path}.{n}.gz" for n in numbers]
    return older + ([path] if name in present else [])


def _open(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.endswith(".gz") else open(path, "rb")


def _opened(path: str) -> list[tuple[str, BinaryIO]]:
    """All files of the log with their names, oldest first, as they were between two rotations."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                found = [(item, stack.enter_context(_open(item))) for item in files(path)]
                if [os.fstat(file.fileno()).st_ino for _, file in found] == [os.stat(item).st_ino
                                                                           for item in files(path)]:
                    stack.pop_all()
                    return found
            except FileNotFoundError:
                continue


def _sources(path: str, form: Format, tail: int | None) -> list[tuple[str, BinaryIO]]:
    """What is to be read, oldest first, each from where it stands; after a rotation the names are of others."""
    found = _opened(path)
    if tail is None:
        return found
    for number, (_, file) in reversed(list(enumerate(found))):
        offset, count = form.tail_offset(file, tail)
        file.seek(offset)
        tail -= count
        if tail <= 0:
            for _, older in found[:number]:
                older.close()
            return found[number:]
    return found


def _same(held: BinaryIO, path: str, file: BinaryIO, form: Format) -> bool:
    """Whether ``file`` is the one in hand: one that was compressed is another one, with the same first record."""
    if not path.endswith(".gz"):
        return os.path.sameopenfile(held.fileno(), file.fileno())
    return _first_record(held, form) == _first_record(file, form)


def _first_record(file: BinaryIO, form: Format) -> bytes:
    """Leaves the file where it stands. A record has a time, and is as good as a name."""
    place = file.tell()
    file.seek(0)
    records, _ = form.split(file.read(CHUNK))
    file.seek(place)
    return records[0] if records else b""


async def stream(live: Live, query: Query) -> AsyncIterator[bytes]:
    """The log as a client wants it, in pieces. Follows, where asked, until the present process has ended."""
    decode: Decode
    if _in_journal(live):
        batches, decode = _journal_batches(live, query), journal.decode
    else:
        form = JSON_FILE if live.container.host_config.log_config.type == "json-file" else LOCAL
        batches, decode = _file_batches(live, form, query), form.decode
    renderer = Renderer(query, decode, framed=not live.container.config.tty)
    async with contextlib.aclosing(batches):
        async for lines in batches:
            big = sum(map(len, lines)) > _INLINE
            data = await asyncio.to_thread(renderer.render, lines) if big else renderer.render(lines)
            if data:
                yield data
            if renderer.done:
                return


async def _file_batches(live: Live, form: Format, query: Query) -> AsyncGenerator[list[bytes], None]:
    reader = _Reader(live.container.log_path, form, follow=query.follow)
    try:
        async for lines in reader.batches(query.tail, live if query.follow else None):
            yield lines
    finally:
        reader.close()


async def _journal_batches(live: Live, query: Query) -> AsyncGenerator[list[bytes], None]:
    source = journal.Journal(live.id, query.tail)
    if query.follow and not _ended(live):
        async with contextlib.aclosing(source.read(live.tasks["exit"])) as batches:
            async for records in batches:
                yield records
    if _ended(live) and live.shipper is not None:
        await live.shipper.wait_end()    # the end of a container does not wait for its last words
    await journal.sync()
    async with contextlib.aclosing(source.read()) as batches:
        async for records in batches:
            yield records


def check(live: Live, query: Query) -> None:
    """Before the answer begins: raises what still can have a status of its own."""
    if not (query.stdout or query.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    if not (live.container.log_path or _in_journal(live)):
        raise Unsupported("configured logging driver does not support reading")


def _in_journal(live: Live) -> bool:
    """Whether the journal has the only copy."""
    kind = live.container.host_config.log_config.type
    return kind == "journald" and not live.container.log_path and journal.there()


class _Reader:
    """Records of a log that may grow and rotate. It holds the last file open, so a rotation loses nothing."""

    def __init__(self, path: str, form: Format, *, follow: bool) -> None:
        self._path = path
        self._form = form
        self._file: BinaryIO | None = None
        self._waiting: list[tuple[str, BinaryIO]] = []
        self._rest = b""
        self._watch = inotify.Inotify() if follow else None

    def close(self) -> None:
        for file in (self._file, *(file for _, file in self._waiting)):
            if file is not None:
                file.close()
        if self._watch is not None:
            self._watch.close()

    async def batches(self, tail: int | None, live: Live | None) -> AsyncIterator[list[bytes]]:
        if self._watch is not None:
            with contextlib.suppress(FileNotFoundError):    # of a container that never ran
                self._watch.add(os.path.dirname(self._path), _ARRIVALS)
        self._waiting = _sources(self._path, self._form, tail)
        while True:
            while self._waiting:
                self._take(*self._waiting.pop(0))
                for lines in self._drain():
                    yield lines
            if live is None:
                return
            ended = _ended(live)
            for lines in self._drain():
                yield lines
            if self._rotated():
                continue
            if ended:
                return
            await self._changed(live)

    def _take(self, path: str, file: BinaryIO) -> None:
        """Read ``file`` from here on."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest = file, b""
        if self._watch is not None and not path.endswith(".gz"):
            self._watch.add(f"/proc/self/fd/{file.fileno()}", _CHANGES)

    def _drain(self) -> Iterator[list[bytes]]:
        """All complete records that are there now."""
        while self._file is not None and (data := self._file.read(CHUNK)):
            records, self._rest = self._form.split(self._rest + data)
            if records:
                yield records

    def _rotated(self) -> bool:
        """Whether there is more to read, because the log was rotated, once or several times, or begun anew."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        if self._file is not None:
            held = os.fstat(self._file.fileno())
            if (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino):
                if now.st_size < self._file.tell():  # truncated: a log of one file starts over
                    self._file.seek(0)
                    return True
                return False
            if self._file.tell() < held.st_size:
                return True  # written between our last read and the rename
        self._waiting = self._newer()
        return bool(self._waiting)

    def _newer(self) -> list[tuple[str, BinaryIO]]:
        """The files after the one in hand, all where that is there no more."""
        found = _opened(self._path)
        held = self._file
        known = len(found) - 1 if held is not None else -1
        while held is not None and known >= 0 and not _same(held, *found[known], self._form):
            known -= 1
        for _, file in found[:known + 1]:
            file.close()
        return found[known + 1:]

    async def _changed(self, live: Live) -> None:
        """Wait until the file changes or the process has ended."""
        assert self._watch is not None
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        fd = self._watch.fileno()
        loop.add_reader(fd, changed.set)
        waiting: set[asyncio.Future[object]] = {asyncio.ensure_future(changed.wait())}
        task = live.tasks.get("exit")
        try:
            watched = waiting | ({task} if task is not None else set())
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            self._watch.read()
        finally:
            loop.remove_reader(fd)
            for item in waiting:
                item.cancel()


def _ended(live: Live) -> bool:
    task = live.tasks.get("exit")
    return live.removed or task is None or task.done()
