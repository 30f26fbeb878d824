"""Reading an image archive that a stranger made: its members become scratch files, hashed as they go by.

Nothing is extracted by name: paths only serve to find members again. Links are resolved among the members.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from barque.errors import DataLoss, InvalidArgument
from barque.store.content import ContentStore
from barque.store.tar.compress import BadStream, detect, open_stream
from barque.store.tar.directories import clean
from barque.store.tar.errors import Refused, TarError
from barque.store.tar.messages import Limits
from barque.store.tar.reader import HARDLINK, REGULAR, SYMLINK, Stream, entries

_READ = 1 << 20
_MAX_MEMBERS = 100_000
_MAX_LINKS = 16
_BLOB = re.compile(r"blobs/(sha256)/([0-9a-f]{64})\Z", re.ASCII)


class BadArchive(DataLoss):
    text = "invalid archive: {reason}"


class NoSuchMember(InvalidArgument):
    text = "invalid archive: {name} is missing"


@dataclass
class Member:
    """``path`` is the scratch file with its bytes; "" where the content store has them already."""

    digest: str
    size: int
    compression: str = "none"
    path: str = ""


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


def receive(source: int, scratch: Callable[[], tuple[int, str]], known: Callable[[str], int | None],
            members: Members) -> None:
    """Read the archive, compressed or not, from the descriptor ``source`` to its end, into ``members``. Blocks.

    ``known``: the size of a blob that is stored. Raises :class:`BadArchive`, OSError; ``members`` then has what there
    is to drop.
    """
    stream = Stream(open_stream("", lambda: os.read(source, _READ)))
    try:
        for number, entry in enumerate(entries(stream, Limits())):
            if number >= _MAX_MEMBERS:
                raise BadArchive(reason=f"more than {_MAX_MEMBERS} members")
            name = os.fsdecode(clean(entry.name))
            if entry.type == REGULAR and entry.segments is None:
                members.links.pop(name, None)
                _take(stream, entry.data, name, scratch, known, members)
            elif entry.type in (SYMLINK, HARDLINK):
                base = posixpath.dirname(name) if entry.type == SYMLINK else ""
                members.links[name] = posixpath.normpath(posixpath.join(base, os.fsdecode(entry.link)))
            else:
                stream.skip(entry.data)
        stream.drain()
    except (TarError, BadStream, Refused) as error:
        raise BadArchive(reason=error) from error


def _take(stream: Stream, size: int, name: str, scratch: Callable[[], tuple[int, str]],
          known: Callable[[str], int | None], members: Members) -> None:
    match = _BLOB.match(name)
    expected = f"{match[1]}:{match[2]}" if match else ""
    if expected and known(expected) == size:
        members.files[name] = Member(expected, size, _peek(stream, size))
        return
    fd, path = scratch()
    try:
        previous = members.files.get(name)
        if previous is not None and previous.path:
            os.unlink(previous.path)
        member = members.files[name] = Member("", size, path=path)
        state = hashlib.sha256()
        head = bytearray()

        def write(view: memoryview) -> int:
            if len(head) < 8:
                head.extend(view[:8])
            written = os.write(fd, view)
            state.update(view[:written])
            return written

        stream.copy(size, write)
        member.digest = f"sha256:{state.hexdigest()}"
        member.compression = detect(bytes(head))
    finally:
        os.close(fd)
    if expected and member.digest != expected:
        raise BadArchive(reason=f"{name} has the digest {member.digest}")


def _peek(stream: Stream, size: int) -> str:
    """Pass over the bytes of a stored blob; how it is compressed."""
    head = bytearray()

    def look(view: memoryview) -> int:
        if len(head) < 8:
            head.extend(view[:8])
        return len(view)

    stream.copy(size, look)
    return detect(bytes(head))
