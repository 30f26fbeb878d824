"""Image names: rows of ``images``, from a name to the manifests that it stands for.

Three kinds of names: ``domain/path:tag``, ``domain/path@digest`` (what a registry calls the image; the digest may be
that of an index), and ``dangling@<image id>`` for images that lost all other names and are not deleted.
A name has a row for each platform that is here. The preferred one, this machine's if it is among them, has the bare
name as its key, the others the name and their platform: ``docker.io/library/debian:12 linux/arm64``.
A stored descriptor always names the manifest of one platform and carries the image id as an annotation, so that
listing reads no files.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.platform import Platform, host, normalize
from barque.oci.reference import Reference, parse
from barque.store.db import Database
from barque.store.gc import KEEP

IMAGE_ID = "org.barque.image.id"
_DANGLING = "dangling@"


@dataclass(frozen=True, slots=True)
class NamedImage:
    """One row. ``updated`` is nanoseconds since 1970."""

    key: str
    target: Descriptor
    updated: int

    @property
    def name(self) -> str:
        return self.key.partition(" ")[0]

    @property
    def preferred(self) -> bool:
        """Whether the bare name means this platform."""
        return " " not in self.key

    @property
    def id(self) -> Digest:
        return Digest(self.target.annotations[IMAGE_ID])

    @property
    def reference(self) -> Reference | None:
        """``None`` for a dangling image."""
        return None if self.key.startswith(_DANGLING) else parse(self.name)

    def satisfies(self, wanted: Platform) -> bool:
        return self.target.platform is not None and self.target.platform.satisfies(wanted)


def with_id(target: Descriptor, image_id: str, *kept: str) -> Descriptor:
    """``target`` as it is stored under a name.

    ``kept``: the digest of the index that it was chosen from, and those of further manifests to hold as long as it.
    """
    annotations = {IMAGE_ID: str(image_id)} | ({KEEP: " ".join(kept)} if kept else {})
    return Descriptor(media_type=target.media_type, digest=str(target.digest), size=target.size,
                      platform=target.platform, annotations=annotations)


def index_of(target: Descriptor) -> str:
    """The digest of the index that the image was chosen from; "" where it came without one."""
    return next(iter(kept_with(target)), "")


def kept_with(target: Descriptor) -> list[str]:
    """The digests that were ``kept`` in :func:`with_id`."""
    return target.annotations.get(KEEP, "").split()


class ImageNames:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, name: str) -> Descriptor | None:
        """What the name stands for on the preferred platform."""
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT descriptor FROM images WHERE name = ?", (name,)).fetchone())
        return msgspec.json.decode(row[0], type=Descriptor) if row else None

    async def list(self) -> list[NamedImage]:
        """All rows, ordered by key: the preferred platform of a name comes first."""
        return await self._db.read(_rows)

    async def put(self, name: str, target: Descriptor) -> None:
        await self.point([name], target)

    async def point(self, names: Iterable[str], *targets: Descriptor) -> bool:
        """Let all ``names`` stand for ``targets`` (made by :func:`with_id`), in one step; whether the first changed.

        A name keeps other platforms that came from the same index. An image that loses its last name by this goes on
        as a dangling one.
        """
        wanted = list(names)
        return await self._db.write(lambda connection: _point(connection, wanted, targets))

    async def keep_dangling(self, target: Descriptor) -> None:
        """Hold an image without any name (a build's result, or the rest of an untag)."""
        await self._db.write(lambda connection: _insert(connection, _DANGLING + target.annotations[IMAGE_ID], target))

    async def remove(self, *names: str, keep: Collection[str] = ()) -> None:
        """Drop the names, with all their platforms, in one step.

        Images whose ids are in ``keep`` go on as dangling ones where these were their last names.
        """
        def drop(connection: sqlite3.Connection) -> None:
            before = _rows(connection)
            gone = [row for row in before if row.name in names]
            connection.executemany("DELETE FROM images WHERE name = ?", [(row.key,) for row in gone])
            _save_nameless(connection, [row.target for row in gone if row.id in keep])

        await self._db.write(drop)

    async def remove_image(self, image_id: str, names: Collection[str] | None = None) -> None:
        """Take the image away from every name, or from just these, in one step.

        Names that have other platforms go on without this one.
        """
        await self._db.write(lambda connection: _drop_images(connection, {image_id}, names))

    async def remove_images(self, image_ids: Collection[str]) -> None:
        """Take several images away from every name in one step; durable with the collection that follows."""
        await self._db.write(lambda connection: _drop_images(connection, image_ids, None), durable=False)


def _rows(connection: sqlite3.Connection) -> list[NamedImage]:
    return [NamedImage(key, msgspec.json.decode(descriptor, type=Descriptor), updated) for key, descriptor, updated
            in connection.execute("SELECT name, descriptor, updated FROM images ORDER BY name").fetchall()]


def _insert(connection: sqlite3.Connection, key: str, target: Descriptor) -> None:
    connection.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)",
                       (key, target.digest, msgspec.json.encode(target).decode(), time.time_ns()))


def _point(connection: sqlite3.Connection, names: list[str], targets: Sequence[Descriptor]) -> bool:
    rows = _rows(connection)
    taken = {_platform(target) for target in targets}
    changed = set()
    for name in names:
        held = [row for row in rows if row.name == name]
        kept = [row.target for row in held if index_of(row.target) and index_of(row.target) == index_of(targets[0])
                and _platform(row.target) not in taken]
        if _write(connection, name, held, [*targets, *kept]):
            changed.add(name)
    _save_nameless(connection, [row.target for row in rows if row.name in changed])
    connection.executemany("DELETE FROM images WHERE name = ?",
                           [(_DANGLING + target.annotations[IMAGE_ID],) for target in targets])
    return names[0] in changed


def _write(connection: sqlite3.Connection, name: str, held: Sequence[NamedImage], targets: list[Descriptor]) -> bool:
    """Let the name have just these platforms: this machine's is preferred, or else the first; whether that is new."""
    native = next((target for target in targets if target.platform and target.platform.satisfies(host())), None)
    preferred = native or (targets[0] if targets else None)
    before = {row.key: row.target for row in held}
    after = {name if target is preferred else f"{name} {_platform(target)}": target for target in targets}
    connection.executemany("DELETE FROM images WHERE name = ?", [(key,) for key in before if key not in after])
    for key, target in after.items():
        if before.get(key) != target:
            _insert(connection, key, target)
    return before != after


def _drop_images(connection: sqlite3.Connection, image_ids: Collection[str], names: Collection[str] | None) -> None:
    rows = _rows(connection)
    for name in {row.name for row in rows if row.id in image_ids and (names is None or row.name in names)}:
        held = [row for row in rows if row.name == name]
        _write(connection, name, held, [row.target for row in held if row.id not in image_ids])


def _platform(target: Descriptor) -> str:
    return str(normalize(target.platform)) if target.platform else ""


def _save_nameless(connection: sqlite3.Connection, targets: Iterable[Descriptor]) -> None:
    named = {row.id for row in _rows(connection)}
    for target in targets:
        if target.annotations[IMAGE_ID] not in named:
            _insert(connection, _DANGLING + target.annotations[IMAGE_ID], target)
