"""Reading an image archive that a stranger made: its members become scratch files, hashed as they go by.

Nothing is extracted by name: paths only serve to find members again. Links are resolved among the members.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from barque.errors import DataLoss, InvalidArgument
from barque.image.early import Early, Guess
from barque.store.content import ContentStore
from barque.store.tar.compress import BadStream, detect, open_stream
from barque.store.tar.directories import clean
from barque.store.tar.errors import Refused, TarError
from barque.store.tar.messages import Limits
from barque.store.tar.reader import HARDLINK, REGULAR, SYMLINK, Stream, entries
from barque.sys.fsync import start_writeback

#: Bytes after which the disk is told to begin with them, and readers of the file that they are there.
_WRITEBACK = 8 << 20
_STEP = 1 << 20
_HEAD = 8
_MAX_MEMBERS = 100_000
_MAX_LINKS = 16
_BLOB = re.compile(r"blobs/(sha256)/([0-9a-f]{64})\Z", re.ASCII)


class BadArchive(DataLoss):
    text = "invalid archive: {reason}"


class NoSuchMember(InvalidArgument):
    text = "invalid archive: {name} is missing"


@dataclass
class Member:
    """``path`` is the scratch file with its bytes; "" where the content store has them already.

    ``guess``: it is being unpacked as the layer that it may be. ``moving`` is held while the file goes elsewhere.
    """

    digest: str
    size: int
    compression: str = "none"
    path: str = ""
    guess: Guess | None = None
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Members:
    """The files of an archive by cleaned name. :meth:`drop` removes what was not adopted."""

    files: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def get(self, name: str) -> Member:
        """Raises :class:`NoSuchMember`."""
        found = self._find(name)
        if found is None:
            raise NoSuchMember(name=name)
        return found

    def _find(self, name: str) -> Member | None:
        for _ in range(_MAX_LINKS):
            if name in self.files:
                return self.files[name]
            if name not in self.links:
                return None
            name = self.links[name]
        return None

    def drop(self) -> None:
        for member in self.files.values():
            if member.path:
                try:
                    os.unlink(member.path)
                except FileNotFoundError:
                    pass


def read_document(member: Member, content: ContentStore, limit: int) -> bytes:
    """The bytes of a member, wherever they are; raises BadArchive where it has more than ``limit``."""
    if member.size > limit:
        raise BadArchive(reason=f"a document of {member.size} bytes")
    if not member.path:
        with content.open(member.digest) as file:
            return file.read(limit)
    with open(member.path, "rb") as file:
        return file.read(limit)


class Receiver:
    """Reads archives into ``members``. ``known``: the sizes of stored blobs. ``early`` gets each member that is new."""

    def __init__(self, content: ContentStore, known: Mapping[str, int], members: Members,
                 early: Early | None = None) -> None:
        self._content = content
        self._known = known
        self._members = members
        self._early = early

    def run(self, read: Callable[[], bytes]) -> None:
        """Read the archive, compressed or not, to its end. Blocks.

        Raises :class:`BadArchive`, OSError; the members then have what there is to drop.
        """
        stream = Stream(open_stream("", read))
        links = self._members.links
        try:
            for number, entry in enumerate(entries(stream, Limits())):
                if number >= _MAX_MEMBERS:
                    raise BadArchive(reason=f"more than {_MAX_MEMBERS} members")
                name = os.fsdecode(clean(entry.name))
                if entry.type == REGULAR and entry.segments is None:
                    links.pop(name, None)
                    self._take(stream, entry.data, name)
                elif entry.type in (SYMLINK, HARDLINK):
                    base = posixpath.dirname(name) if entry.type == SYMLINK else ""
                    links[name] = posixpath.normpath(posixpath.join(base, os.fsdecode(entry.link)))
                else:
                    stream.skip(entry.data)
            stream.drain()
        except (TarError, BadStream, Refused) as error:
            raise BadArchive(reason=error) from error

    def _take(self, stream: Stream, size: int, name: str) -> None:
        match = _BLOB.match(name)
        expected = f"{match[1]}:{match[2]}" if match else ""
        if expected and self._known.get(expected) == size:
            self._members.files[name] = Member(expected, size, _peek(stream, size))
            return
        fd, path = self._content.scratch()
        try:
            previous = self._members.files.get(name)
            if previous is not None and previous.path:
                os.unlink(previous.path)
            member = self._members.files[name] = Member("", size, path=path)
            member.guess = self._early.begin(path, size) if self._early is not None else None
            writer = _Writer(fd, member.guess)
            stream.copy(size, writer.write)
            writer.end()
            member.digest = f"sha256:{writer.hash.hexdigest()}"
            member.compression = detect(writer.head)
        finally:
            os.close(fd)
        if member.guess is not None and self._known.get(member.digest) == size:
            member.guess.drop()
            member.guess = None
        if expected and member.digest != expected:
            raise BadArchive(reason=f"{name} has the digest {member.digest}")


class _Writer:
    """Bytes on their way into a scratch file: hashed, and told to whoever reads behind."""

    def __init__(self, fd: int, guess: Guess | None) -> None:
        self.hash = hashlib.sha256()
        self.head = b""
        self._fd = fd
        self._guess = guess
        self._written = self._told = self._sent = 0

    def write(self, view: memoryview) -> int:
        written = os.write(self._fd, view)
        if len(self.head) < _HEAD:
            self.head += view[:min(written, _HEAD)]
        self.hash.update(view[:written])
        self._written += written
        if self._written - self._told >= _STEP:
            self.end()
        if self._written - self._sent >= _WRITEBACK:
            start_writeback(self._fd, self._sent, self._written - self._sent)
            self._sent = self._written
        return written

    def end(self) -> None:
        """Tell how far it is."""
        self._told = self._written
        if self._guess is not None:
            self._guess.grown(self._written)


def _peek(stream: Stream, size: int) -> str:
    """Pass over the bytes of a stored blob; how it is compressed."""
    head = bytearray()

    def look(view: memoryview) -> int:
        if len(head) < _HEAD:
            head.extend(view[:_HEAD])
        return len(view)

    stream.copy(size, look)
    return detect(bytes(head))
