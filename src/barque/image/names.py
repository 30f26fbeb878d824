"""Image names: rows of ``images``, from a name to the manifest that it stands for.

Three kinds of names: ``domain/path:tag``, ``domain/path@digest`` (what a registry calls the image; the digest may be
that of an index), and ``dangling@<image id>`` for images that lost all other names and are not deleted.
A stored descriptor always names the manifest of one platform and carries the image id as an annotation, so that
listing reads no files.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.reference import Reference, parse
from barque.store.db import Database
from barque.store.gc import KEEP

IMAGE_ID = "org.barque.image.id"
_DANGLING = "dangling@"


@dataclass(frozen=True, slots=True)
class NamedImage:
    """One row. ``updated`` is nanoseconds since 1970."""

    name: str
    target: Descriptor
    updated: int

    @property
    def id(self) -> Digest:
        return Digest(self.target.annotations[IMAGE_ID])

    @property
    def reference(self) -> Reference | None:
        """``None`` for a dangling image."""
        return None if self.name.startswith(_DANGLING) else parse(self.name)


def with_id(target: Descriptor, image_id: str, index: str = "") -> Descriptor:
    """``target`` as it is stored under a name; ``index``: the digest of the index that it was chosen from."""
    annotations = {IMAGE_ID: str(image_id)} | ({KEEP: str(index)} if index else {})
    return Descriptor(media_type=target.media_type, digest=str(target.digest), size=target.size,
                      platform=target.platform, annotations=annotations)


def index_of(target: Descriptor) -> str:
    """The digest of the index that the image was chosen from; "" where it came without one."""
    return target.annotations.get(KEEP, "")


class ImageNames:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, name: str) -> Descriptor | None:
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT descriptor FROM images WHERE name = ?", (name,)).fetchone())
        return msgspec.json.decode(row[0], type=Descriptor) if row else None

    async def list(self) -> list[NamedImage]:
        """All rows, ordered by name."""
        rows = await self._db.read(lambda connection: connection.execute(
            "SELECT name, descriptor, updated FROM images ORDER BY name").fetchall())
        return [NamedImage(name, msgspec.json.decode(descriptor, type=Descriptor), updated)
                for name, descriptor, updated in rows]

    async def put(self, name: str, target: Descriptor) -> None:
        await self.point([name], target)

    async def point(self, names: Iterable[str], target: Descriptor) -> bool:
        """Let all ``names`` stand for ``target`` (made by :func:`with_id`), in one step; whether the first one changed.

        An image that loses its last name by this goes on as a dangling one.
        """
        wanted = list(names)
        return await self._db.write(lambda connection: _point(connection, wanted, target))

    async def keep_dangling(self, target: Descriptor) -> None:
        """Hold an image without any name (a build's result, or the rest of an untag)."""
        await self._db.write(lambda connection: _insert(connection, _DANGLING + target.annotations[IMAGE_ID], target))

    async def remove(self, *names: str, keep: Descriptor | None = None) -> None:
        """Drop the names in one step; ``keep`` goes on as a dangling image."""
        def drop(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM images WHERE name = ?", [(name,) for name in names])
            if keep is not None:
                _insert(connection, _DANGLING + keep.annotations[IMAGE_ID], keep)

        await self._db.write(drop)

    async def remove_image(self, image_id: str) -> None:
        """Drop every name of the image in one step."""
        await self._db.write(lambda connection: connection.executemany(
            "DELETE FROM images WHERE name = ?",
            [(name,) for name, target in _targets(connection) if target.annotations.get(IMAGE_ID) == image_id]))


def _targets(connection: sqlite3.Connection) -> list[tuple[str, Descriptor]]:
    return [(name, msgspec.json.decode(descriptor, type=Descriptor))
            for name, descriptor in connection.execute("SELECT name, descriptor FROM images").fetchall()]


def _insert(connection: sqlite3.Connection, name: str, target: Descriptor) -> None:
    connection.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)",
                       (name, target.digest, msgspec.json.encode(target).decode(), time.time_ns()))


def _point(connection: sqlite3.Connection, names: list[str], target: Descriptor) -> bool:
    before = dict(_targets(connection))
    changed = [name for name in names if before.get(name) != target]
    for name in changed:
        _insert(connection, name, target)
    after = {**before, **dict.fromkeys(names, target)}
    named = {held.annotations[IMAGE_ID] for held in after.values()}
    for old in (before[name] for name in changed if name in before):
        if old.annotations[IMAGE_ID] not in named:
            _insert(connection, _DANGLING + old.annotations[IMAGE_ID], old)
    connection.execute("DELETE FROM images WHERE name = ?", (_DANGLING + target.annotations[IMAGE_ID],))
    return names[0] in changed
