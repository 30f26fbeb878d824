"""Manifests, tags and referrers in a directory; every file is replaced whole.

``repositories/<name>/_manifests/<algorithm>/<hex>``: the media type, a newline, the bytes as pushed;
``_tags/<tag>``: a digest; ``_referrers/<algorithm>/<hex of the subject>/<algorithm>-<hex>``: a descriptor.
Components of a repository name cannot begin with ``_``, so nothing clashes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from barque import failpoints
from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.registry.storage import durable
from barque.registry.storage.base import Entry, StoredManifest, Tagged
from barque.registry.storage.listings import Listings
from barque.registry.threads import in_thread


class FilesystemManifests:
    """Meets :class:`barque.registry.storage.base.ManifestStorage`.

    Single small reads happen on the loop: a trip to a thread costs more than the read.
    """

    def __init__(self, root: str, threads: ThreadPoolExecutor) -> None:
        self._base = f"{root}/repositories"
        self._threads = threads
        self._listings = Listings()

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await in_thread(self._threads, function, *args)

    def _manifest(self, repository: str, digest: Digest) -> str:
        return f"{self._base}/{repository}/_manifests/{digest.algorithm}/{digest.hex}"

    def _tag(self, repository: str, tag: str) -> str:
        # A tag may be called ".x" no more than a leftover is: the grammar wants a word character first.
        return f"{self._base}/{repository}/_tags/{tag}"

    def _referrers(self, repository: str, subject: Digest) -> str:
        return f"{self._base}/{repository}/_referrers/{subject.algorithm}/{subject.hex}"

    async def repositories(self) -> list[str]:
        return await self._run(self._walk)  # type: ignore[no-any-return]

    def _walk(self) -> list[str]:
        found = []
        for directory, names, _ in os.walk(self._base):
            if "_manifests" in names or "_blobs" in names:
                found.append(os.path.relpath(directory, self._base))
            names[:] = [name for name in names if not name.startswith("_")]
        return sorted(found)

    async def exists(self, repository: str) -> bool:
        return any(os.path.isdir(f"{self._base}/{repository}/{part}") for part in ("_manifests", "_blobs"))

    async def get(self, repository: str, digest: Digest) -> StoredManifest | None:
        data = durable.read_file(self._manifest(repository, digest))
        if data is None:
            return None
        media_type, _, body = data.partition(b"\n")
        return StoredManifest(digest, media_type.decode("ascii"), body)

    async def put(self, repository: str, manifest: StoredManifest, tags: tuple[str, ...],
                  referrer: tuple[Digest, Descriptor] | None) -> None:
        await self._run(self._put, repository, manifest, tags, referrer)

    def _put(self, repository: str, manifest: StoredManifest, tags: tuple[str, ...],
             referrer: tuple[Digest, Descriptor] | None) -> None:
        path = self._manifest(repository, manifest.digest)
        data = manifest.media_type.encode("ascii") + b"\n" + manifest.body
        if durable.read_file(path) != data:
            durable.write_file(path, data)
        else:
            os.utime(path)  # pushed again: young once more for the rules of retention
        failpoints.hit("registry.manifest.stored")
        if referrer is not None:
            subject, own = referrer
            durable.write_file(self._referrer(repository, subject, manifest.digest), msgspec.json.encode(own))
        for tag in tags:
            durable.write_file(self._tag(repository, tag), manifest.digest.encode("ascii"))

    def _referrer(self, repository: str, subject: Digest, digest: Digest) -> str:
        return f"{self._referrers(repository, subject)}/{digest.algorithm}-{digest.hex}"

    async def delete(self, repository: str, digest: Digest, subject: Digest | None) -> None:
        await self._run(self._delete, repository, digest, subject)

    def _delete(self, repository: str, digest: Digest, subject: Digest | None) -> None:
        for tag in durable.list_directory(f"{self._base}/{repository}/_tags"):
            path = self._tag(repository, tag)
            if durable.read_file(path) == digest.encode("ascii"):
                durable.remove_file(path)
        if subject is not None:
            durable.remove_file(self._referrer(repository, subject, digest))
        durable.remove_file(self._manifest(repository, digest))

    async def tags(self, repository: str) -> list[str]:
        return self._listings.names(f"{self._base}/{repository}/_tags")

    async def entries(self, repository: str) -> list[Entry]:
        return await self._run(durable.digests, f"{self._base}/{repository}/_manifests")  # type: ignore[no-any-return]

    async def tagged(self, repository: str) -> list[Tagged]:
        return await self._run(self._tagged, repository)  # type: ignore[no-any-return]

    def _tagged(self, repository: str) -> list[Tagged]:
        found = []
        for tag in durable.list_directory(f"{self._base}/{repository}/_tags"):
            path = self._tag(repository, tag)
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                found.append(Tagged(tag, Digest.parse(file.read().decode("ascii")), os.fstat(file.fileno()).st_mtime))
        return found

    async def resolve(self, repository: str, tag: str) -> Digest | None:
        data = durable.read_file(self._tag(repository, tag))
        return None if data is None else Digest.parse(data.decode("ascii"))

    async def untag(self, repository: str, tag: str) -> bool:
        return await self._run(durable.remove_file, self._tag(repository, tag))  # type: ignore[no-any-return]

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        directory = self._referrers(repository, subject)
        found = (durable.read_file(f"{directory}/{name}") for name in durable.list_directory(directory))
        return [go_json.decode(data, Descriptor) for data in found if data is not None]
