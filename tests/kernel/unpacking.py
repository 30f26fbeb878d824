"""Helpers for tests that unpack archives in the real, confined worker."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from barque.store.tar.messages import UnpackRequest, UnpackResult
from barque.store.tar.reader import Entry
from barque.store.tar.writer import Writer
from barque.store.workers import SubprocessWorkers, unpack_layer

SECOND = 1_000_000_000


def tar(*members: Entry | tuple[Entry, bytes]) -> bytes:
    """An archive of these members; contents set the sizes."""
    out: list[bytes] = []
    writer = Writer(out.append)
    for member in members:
        entry, content = member if isinstance(member, tuple) else (member, None)
        entry.size = len(content or b"")
        writer.add(entry, content)
    writer.close()
    return b"".join(out)


def file(name: bytes, content: bytes = b"", mode: int = 0o644, **fields: object) -> tuple[Entry, bytes]:
    return Entry(name, b"0", mode=mode, **fields), content  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **fields: object) -> Entry:
    return Entry(name, b"5", mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> Entry:
    return Entry(name, b"2", mode=0o777, link=target)


def hardlink(name: bytes, target: bytes) -> Entry:
    return Entry(name, b"1", link=target)


async def unpack(data: bytes, target: Path, request: UnpackRequest | None = None) -> UnpackResult:
    """Unpack ``data`` below ``target`` (made if missing) in a worker process."""
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        return await unpack_layer(SubprocessWorkers(), source.fileno(), str(target), request or UnpackRequest())


def names(root: Path) -> list[str]:
    """All paths below ``root``, sorted."""
    found = []
    for base, directories, files in os.walk(root):
        found += [os.path.relpath(os.path.join(base, name), root) for name in directories + files]
    return sorted(found)
