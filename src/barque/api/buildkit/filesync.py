"""A client's files as a tar archive: the receiving side of fsutil's protocol for trees (``FileSync/DiffCopy``).

The client walks its tree in order and sends a STAT for each file, an empty one at the end. A file's number is its
place in that sequence. The receiver asks for content by number (REQ), which comes in pieces of DATA with that number,
an empty one at the end; several files may come in turns. FIN, answered by FIN, ends it all.
"""

from __future__ import annotations

import asyncio
import stat
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from tarfile import TarInfo
from typing import Any

from barque.api.buildkit.messages import Packet, Stat
from barque.api.buildkit.sessions import Session, SessionFailed, escaped
from barque.build.kept import KeptFiles
from barque.store.tar.reader import Entry
from barque.store.tar.writer import Writer, padding

_METHOD = "/moby.filesync.v1.FileSync/DiffCopy"
STAT, REQ, DATA, FIN, ERR = range(5)
#: Asked for ahead of the file that is being passed on: what comes of it is held in memory.
_AHEAD_FILES, _AHEAD_BYTES = 96, 4 << 20

# Bits of Go's os.FileMode (https://pkg.go.dev/io/fs#FileMode).
_GO_DIRECTORY, _GO_SYMLINK, _GO_DEVICE, _GO_PIPE, _GO_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
_GO_SETUID, _GO_SETGID, _GO_CHARACTER, _GO_STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20


def mode_bits(mode: int) -> int:
    """Go's mode as chmod(2) has it."""
    bits = mode & 0o777
    for go, bit in ((_GO_SETUID, stat.S_ISUID), (_GO_SETGID, stat.S_ISGID), (_GO_STICKY, stat.S_ISVTX)):
        if mode & go:
            bits |= bit
    return bits


def go_mode(member: TarInfo) -> int:
    """The reverse, with the type of a member."""
    mode = member.mode & 0o777
    for go, bit in ((_GO_SETUID, stat.S_ISUID), (_GO_SETGID, stat.S_ISGID), (_GO_STICKY, stat.S_ISVTX)):
        if member.mode & bit:
            mode |= go
    kinds = {b"5": _GO_DIRECTORY, b"2": _GO_SYMLINK, b"6": _GO_PIPE, b"3": _GO_DEVICE | _GO_CHARACTER,
             b"4": _GO_DEVICE}
    return mode | kinds.get(member.type, 0)


def _type(found: Stat) -> bytes:
    """The type of the member; b"" for what has no place in an archive."""
    if found.mode & _GO_DIRECTORY:
        return b"5"
    if found.mode & _GO_SYMLINK:
        return b"2"
    if found.mode & _GO_SOCKET:
        return b""
    if found.mode & _GO_PIPE:
        return b"6"
    if found.mode & _GO_DEVICE:
        return b"3" if found.mode & _GO_CHARACTER else b"4"
    return b"1" if found.linkname else b"0"


def _entry(found: Stat, kind: bytes) -> Entry:
    name = found.path.encode("utf-8", "surrogateescape")
    return Entry(
        name=name + b"/" if kind == b"5" else name, type=kind, mode=mode_bits(found.mode), uid=found.uid, gid=found.gid,
        size=found.size if kind == b"0" else 0, mtime=found.mod_time,
        link=found.linkname.encode("utf-8", "surrogateescape"), major=found.devmajor, minor=found.devminor,
        xattrs=found.xattrs)


@dataclass
class _File:
    """One that was announced; ``pieces``: content that has come before its turn."""

    number: int
    stat: Stat
    kind: bytes
    begun: bool = False
    left: int = 0
    complete: bool = False
    pieces: deque[bytes] = field(default_factory=deque)


class _Receiver:
    """Turns the packets into an archive; files are passed on in their order, although content may come in turns."""

    def __init__(self, stream: Any, kept: KeptFiles | None) -> None:
        self._stream = stream
        self._kept = kept
        self._names: set[bytes] = set()  # of all, where some are kept
        self._waiting: deque[_File] = deque()  # not passed on completely
        self._unasked: deque[_File] = deque()  # regular, not asked for
        self._coming: dict[int, _File] = {}
        self._count = 0
        self._announced = False
        self._out: list[bytes] = []
        self._writer = Writer(self._out.append, exact_times=kept is not None)

    async def archive(self) -> AsyncIterator[bytes]:
        async for packet in self._stream:
            self._take(packet)
            self._advance()
            await self._ask()
            if self._out:
                yield b"".join(self._out)
                self._out.clear()
            if packet.type == FIN:
                break
            if self._announced and not self._waiting:
                self._announced = False
                if self._kept is not None:
                    await asyncio.to_thread(self._kept.drop_others, self._names)
                # Our side ends with it: a server that ends first would reset the stream.
                await self._stream.send_message(Packet(FIN), end=True)
        else:
            raise SessionFailed(reason="it ended while files were sent")
        self._writer.close()
        yield b"".join(self._out)

    def _take(self, packet: Packet) -> None:
        if packet.type == ERR:
            raise SessionFailed(reason=packet.data.decode("utf-8", "replace"))
        if packet.type == STAT:
            self._announce(packet.stat)
        elif packet.type == DATA:
            file = self._coming.get(packet.id)
            if file is None:
                raise SessionFailed(reason=f"it sent content that nobody asked for ({packet.id})")
            if packet.data:
                file.pieces.append(packet.data)
            else:
                file.complete = True

    def _announce(self, found: Stat | None) -> None:
        if found is None:
            self._announced = True
            return
        if found.size < 0:
            raise SessionFailed(reason=f"{found.path} has a size of {found.size} bytes")
        file = _File(self._count, found, _type(found))
        self._count += 1
        if not file.kind:
            return
        if self._kept is not None:
            entry = _entry(found, file.kind)
            self._names.add(entry.name.rstrip(b"/"))
            if self._kept.has(entry):
                return
        self._waiting.append(file)
        if file.kind == b"0" and found.size:
            file.left = found.size
            self._unasked.append(file)

    def _advance(self) -> None:
        while self._waiting:
            file = self._waiting[0]
            if not file.begun:
                file.begun = True
                self._writer.header(_entry(file.stat, file.kind))
            while file.pieces:
                piece = file.pieces.popleft()
                file.left -= len(piece)
                if file.left < 0:
                    raise _changed(file)
                self._out.append(piece)
            if file.kind == b"0" and file.stat.size:
                if not file.complete:
                    return
                if file.left:
                    raise _changed(file)
                self._out.append(padding(file.stat.size))
                del self._coming[file.number]
            self._waiting.popleft()

    async def _ask(self) -> None:
        """The first file always; others while what comes of them may be held."""
        while self._unasked:
            ahead = sum(file.stat.size for file in self._coming.values())
            if self._coming and (len(self._coming) >= _AHEAD_FILES
                                 or ahead + self._unasked[0].stat.size > _AHEAD_BYTES):
                return
            file = self._unasked.popleft()
            self._coming[file.number] = file
            await self._stream.send_message(Packet(REQ, id=file.number))


def _changed(file: _File) -> SessionFailed:
    return SessionFailed(reason=f"{file.stat.path} has changed while it was sent")


async def archive(session: Session, directory: str, options: Mapping[str, Sequence[str]],
                  kept: KeptFiles | None = None) -> AsyncIterator[bytes]:
    """The files of one of the client's directories. ``options``: ``exclude-patterns``, ``include-patterns``,
    ``followpaths``. With ``kept`` only what is not there already; what the client has no more is removed from there.
    Raises :class:`SessionFailed`.
    """
    metadata = escaped({**options, "dir-name": [directory]})
    async with session.call(_METHOD, Packet, Packet, metadata) as stream:
        async for piece in _Receiver(stream, kept).archive():
            yield piece
