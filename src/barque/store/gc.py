"""Collection of blobs and snapshots that nothing refers to: mark and sweep in one transaction, unlink afterwards.

Roots are image names, leases, the build cache, and the writable layers of containers. A manifest refers to its config
and layers, an index to its manifests, a config to the chain of its layers. An index that an image was chosen from is
held without the manifests in it: of those, each that is here for a platform has a name of its own. New things come up
only under a lease that is written in the same transaction as they are, so a sweep cannot take what a pull is about to
name.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from barque.failpoints import hit
from barque.oci import media_types
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest, InvalidDigest
from barque.oci.image import chain_ids
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.snapshots import Snapshots

#: Larger documents are no manifests or configs, whatever their media type says.
_DOCUMENT_LIMIT = 8 << 20
#: Annotation of a stored descriptor: digests, separated by spaces, that stay as long as its name does: the indexes that
#: it was chosen from, the outermost first, and manifests that are about it.
KEEP = "org.barque.keep"
_DOCUMENTS = media_types.INDEXES | media_types.MANIFESTS | media_types.CONFIGS


@dataclass
class GcReport:
    blobs: list[str] = field(default_factory=list)      # digests
    snapshots: list[str] = field(default_factory=list)  # keys
    bytes: int = 0                                      # of both together


class _Reference(msgspec.Struct):
    digest: str = ""


class _RootFs(msgspec.Struct):
    diff_ids: list[str] = []


class _Document(msgspec.Struct):
    """The references of an index, a manifest or an image config, whichever it is."""

    manifests: list[_Reference] = []
    layers: list[_Reference] = []
    config: _Reference | None = None
    subject: _Reference | None = None
    rootfs: _RootFs | None = None


async def collect(db: Database, content: ContentStore, snapshots: Snapshots,
                  keep: Iterable[str] = ()) -> GcReport:
    """Remove what is unreferenced; ``keep`` are further digests to hold (images of containers without a name)."""
    pinned = tuple(keep)

    def sweep(connection: sqlite3.Connection) -> tuple[GcReport, list[int]]:
        blobs, chains = _mark(connection, content, pinned)
        return _sweep(connection, blobs, chains)

    report, directories = await db.write(sweep)
    hit("gc.swept")
    await content.unlink_swept(report.blobs)
    await snapshots.remove_unrecorded(directories)
    return report


def _mark(connection: sqlite3.Connection, content: ContentStore, pinned: Iterable[str]) -> tuple[set[str], set[str]]:
    """The digests and the snapshot keys that must stay."""
    stored = dict(connection.execute("SELECT digest, media_type FROM blobs").fetchall())
    pending = [row[0] for row in connection.execute(
        "SELECT digest FROM images UNION SELECT item FROM lease_items WHERE kind = 'blob' "
        "UNION SELECT layer FROM build_cache WHERE layer != ''")]
    pending.extend(pinned)
    kept = {digest for (text,) in connection.execute(
                "SELECT descriptor FROM images WHERE instr(descriptor, ?)", (KEEP,))
            for digest in msgspec.json.decode(text, type=Descriptor).annotations.get(KEEP, "").split()}
    blobs = {digest for digest in kept if stored.get(digest) in media_types.INDEXES}
    pending += kept - blobs
    keys = {row[0] for row in connection.execute("SELECT item FROM lease_items WHERE kind = 'snapshot'")}
    keys |= {row[0] for row in connection.execute("SELECT key FROM snapshots WHERE kind = 'container' "
                                                  "UNION SELECT chain_id FROM build_cache WHERE chain_id != ''")}
    while pending:
        digest = pending.pop()
        if digest in blobs or digest not in stored:
            continue
        blobs.add(digest)
        found = references(content.path(digest), stored[digest])
        pending += [*found.manifests, *found.blobs, *filter(None, [found.subject])]
        keys.update(found.chain)
    return blobs, _with_parents(connection, keys)


@dataclass
class References:
    """What a stored document refers to: ``blobs`` are layers, bottom first, and then the config.

    ``chain`` and ``diff_ids`` are those of an image config, bottom first.
    """

    manifests: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    subject: str | None = None
    chain: list[Digest] = field(default_factory=list)
    diff_ids: list[str] = field(default_factory=list)


def references(path: str, media_type: str) -> References:
    """Read what a blob refers to. A damaged document, and one that is none, refers to nothing."""
    found = References()
    if media_type not in _DOCUMENTS:
        return found
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > _DOCUMENT_LIMIT:
                return found
            document = msgspec.json.decode(file.read(), type=_Document)
            if document.rootfs:
                found.chain = list(chain_ids(document.rootfs.diff_ids))
                found.diff_ids = document.rootfs.diff_ids
    except (OSError, msgspec.DecodeError, RecursionError, InvalidDigest):
        return found
    found.manifests = [reference.digest for reference in document.manifests]
    found.blobs = [reference.digest for reference in document.layers]
    found.blobs += [document.config.digest] if document.config else []
    found.subject = document.subject.digest if document.subject else None
    return found


def _with_parents(connection: sqlite3.Connection, keys: set[str]) -> set[str]:
    parents = dict(connection.execute("SELECT key, parent FROM snapshots").fetchall())
    marked: set[str] = set()
    for key in keys:
        step: str | None = key
        while step is not None and step not in marked:
            marked.add(step)
            step = parents.get(step)
    return marked


def _sweep(connection: sqlite3.Connection, blobs: set[str], keys: set[str]) -> tuple[GcReport, list[int]]:
    report = GcReport()
    for digest, size in connection.execute("SELECT digest, size FROM blobs").fetchall():
        if digest not in blobs:
            connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
            report.blobs.append(digest)
            report.bytes += size
    directories = []
    for number, key, size in connection.execute("SELECT id, key, size FROM snapshots").fetchall():
        if key not in keys:
            connection.execute("DELETE FROM snapshots WHERE id = ?", (number,))
            report.snapshots.append(key)
            report.bytes += size
            directories.append(number)
    return report, directories
