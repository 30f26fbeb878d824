"""Results for the client: an archive as it is, or the files of one by fsutil's protocol (``FileSend/DiffCopy``)."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator, Iterator
from tempfile import TemporaryFile
from typing import IO, Any

from barque.api.buildkit.filesync import DATA, ERR, FIN, REQ, STAT, go_mode
from barque.api.buildkit.messages import BytesMessage, Packet, Stat
from barque.api.buildkit.sessions import Session, SessionFailed

_METHOD = "/moby.filesync.v1.FileSend/DiffCopy"
_EXPORTER = "buildkit-attachable-exporter-id"
_CHUNK = 32 << 10


async def tarball(session: Session, number: int, pieces: AsyncIterator[bytes]) -> int:
    """Send an archive; how many bytes it had. Raises :class:`SessionFailed`."""
    size = 0
    async with session.call(_METHOD, BytesMessage, BytesMessage, [(_EXPORTER, str(number))]) as stream:
        async for piece in pieces:
            size += len(piece)
            await stream.send_message(BytesMessage(piece))
        await stream.end()
        await stream.recv_message()  # the client has it all
    return size


async def files(session: Session, number: int, pieces: AsyncIterator[bytes]) -> int:
    """Send the files of an archive; its size. The client asks for them in an order of its own, so that the archive
    rests in a file meanwhile. Raises :class:`SessionFailed`.
    """
    with TemporaryFile() as file:
        size = 0
        async for piece in pieces:
            size += len(piece)
            await asyncio.to_thread(file.write, piece)
        file.seek(0)
        members = await asyncio.to_thread(_members, file)
        async with session.call(_METHOD, Packet, Packet, [(_EXPORTER, str(number))]) as stream:
            channel = _Channel(stream)
            announcing = asyncio.create_task(_announce(channel, members))
            try:
                await _answer(channel, members, file)
                await announcing
            finally:
                announcing.cancel()
                await asyncio.gather(announcing, return_exceptions=True)
            await stream.end()
    return size


class _Channel:
    """One packet at a time: grpclib would send the pieces of two large ones in turns."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._lock = asyncio.Lock()

    async def send(self, packet: Packet) -> None:
        async with self._lock:
            await self.stream.send_message(packet)


def _members(file: IO[bytes]) -> list[tarfile.TarInfo]:
    """In the order that the protocol wants: as a walk comes by them, names compared part by part."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        found = {member.name: member for member in tar if member.name not in (".", "")}
    return [found[name] for name in sorted(found, key=lambda name: name.encode("utf-8", "surrogateescape").split(b"/"))]


async def _announce(channel: _Channel, members: list[tarfile.TarInfo]) -> None:
    for member in members:
        await channel.send(Packet(STAT, Stat(
            path=member.name, mode=go_mode(member), uid=member.uid, gid=member.gid,
            size=member.size if member.isreg() else 0, mod_time=int(member.mtime) * 10**9, linkname=member.linkname,
            devmajor=member.devmajor, devminor=member.devminor)))
    await channel.send(Packet(STAT))


async def _answer(channel: _Channel, members: list[tarfile.TarInfo], file: IO[bytes]) -> None:
    async for packet in channel.stream:
        if packet.type == ERR:
            raise SessionFailed(reason=packet.data.decode("utf-8", "replace"))
        if packet.type == FIN:
            await channel.send(Packet(FIN))
            return
        if packet.type == REQ and packet.id < len(members):
            for piece in _content(members[packet.id], file):
                await channel.send(Packet(DATA, id=packet.id, data=piece))
            await channel.send(Packet(DATA, id=packet.id))
    raise SessionFailed(reason="it ended before it had all files")


def _content(member: tarfile.TarInfo, file: IO[bytes]) -> Iterator[bytes]:
    file.seek(member.offset_data)
    left = member.size if member.isreg() else 0
    while left:
        piece = file.read(min(left, _CHUNK))
        left -= len(piece)
        yield piece
