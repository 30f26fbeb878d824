"""Blobs and upload sessions in a directory.

``blobs/<algorithm>/<2 hex>/<hex>`` holds each content once; the blob of a repository is a *hard link* to it at
``repositories/<name>/_blobs/<algorithm>/<hex>``. So the link count says how many repositories still use a content, and
serving a blob is one open() that also proves membership. A crash between the two links leaves a content without users,
which costs space only and is found by its link count at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from barque.oci.digest import Digest
from barque.registry.storage import durable
from barque.registry.storage.base import Blob, Upload, WrongDigest

_ID = re.compile(r"[0-9a-f]{32}\Z")
_HASH_STEP = 1 << 20


class FilesystemUpload:
    """The bytes so far in one file, with a running sha256 so that a commit need not read them again."""

    def __init__(self, store: FilesystemBlobs, repository: str, id: str, path: str) -> None:
        self._store = store
        self._repository = repository
        self._path = path
        self._offset = os.stat(path).st_size
        self._hash = hashlib.sha256() if self._offset == 0 else None
        self.id = id
        self.lock = asyncio.Lock()

    @property
    def offset(self) -> int:
        return self._offset

    async def write(self, data: bytes) -> None:
        await self._store.run(self._write, data)

    def _write(self, data: bytes) -> None:
        try:
            with open(self._path, "r+b", buffering=0) as file:
                view = memoryview(data)
                position = self._offset
                while view:
                    written = os.pwrite(file.fileno(), view, position)
                    position += written
                    view = view[written:]
        except OSError:
            os.truncate(self._path, self._offset)
            raise
        if self._hash is not None:
            self._hash.update(data)
        self._offset += len(data)

    async def commit(self, digest: Digest) -> None:
        try:
            await self._store.run(self._commit, digest)
        finally:
            self._store.forget(self.id)

    def _commit(self, digest: Digest) -> None:
        found = self._hash.hexdigest() if digest.algorithm == "sha256" and self._hash else self._rehash(digest)
        if found != digest.hex:
            os.unlink(self._path)
            raise WrongDigest
        self._store.adopt(self._path, self._repository, digest)

    def _rehash(self, digest: Digest) -> str:
        state = hashlib.new(digest.algorithm)
        with open(self._path, "rb", buffering=0) as file:
            while data := file.read(_HASH_STEP):
                state.update(data)
        return state.hexdigest()

    async def cancel(self) -> None:
        self._store.forget(self.id)
        await self._store.run(durable.remove_file, self._path)


class FilesystemBlobs:
    """Meets :class:`barque.registry.storage.base.BlobStorage`."""

    def __init__(self, root: str, threads: ThreadPoolExecutor) -> None:
        self._root = root
        self._threads = threads
        self._uploads: dict[str, FilesystemUpload] = {}

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _content(self, digest: Digest) -> str:
        return f"{self._root}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def _link(self, repository: str, digest: Digest) -> str:
        return f"{self._root}/repositories/{repository}/_blobs/{digest.algorithm}/{digest.hex}"

    async def get(self, repository: str, digest: Digest) -> Blob | None:
        path = self._link(repository, digest)
        try:
            return Blob(path, os.stat(path).st_size)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def adopt(self, path: str, repository: str, digest: Digest) -> None:
        """Make the verified file ``path`` a blob of the repository (blocking).

        A content that another repository brought is shared. One that this repository has already is replaced: a
        second push is how a client heals a blob that went bad on disk.
        """
        content = self._content(digest)
        link = self._link(repository, digest)
        if os.path.exists(link):
            os.unlink(link)
        elif os.path.exists(content):
            self._make_link(content, repository, digest)
            os.unlink(path)
            return
        durable.make_directories(os.path.dirname(content))
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path, content)
        durable.sync_directory(os.path.dirname(content))
        self._make_link(content, repository, digest)

    def _make_link(self, source: str, repository: str, digest: Digest) -> None:
        link = self._link(repository, digest)
        durable.make_directories(os.path.dirname(link))
        try:
            os.link(source, link)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno != errno.EMLINK:  # ext4 allows 65,000 links to a file
                raise
            temporary = f"{link}.{secrets.token_hex(8)}"
            shutil.copyfile(source, temporary)
            os.rename(temporary, link)
        durable.sync_directory(os.path.dirname(link))

    async def mount(self, repository: str, digest: Digest, source: str) -> bool:
        try:
            await self.run(self._make_link, self._link(source, digest), repository, digest)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def delete(self, repository: str, digest: Digest) -> bool:
        removed: bool = await self.run(durable.remove_file, self._link(repository, digest))
        if removed:
            await self.run(self._drop_unused, self._content(digest))
        return removed

    @staticmethod
    def _drop_unused(content: str) -> None:
        # An upload of the same content may link it in between: its own link keeps the bytes, only sharing is lost.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(content).st_nlink == 1:
                os.unlink(content)

    async def start_upload(self, repository: str) -> Upload:
        id = secrets.token_hex(16)
        path = self._upload_path(repository, id)
        await self.run(self._create, path)
        upload = self._uploads[id] = FilesystemUpload(self, repository, id, path)
        return upload

    def _upload_path(self, repository: str, id: str) -> str:
        return f"{self._root}/repositories/{repository}/_uploads/{id}"

    @staticmethod
    def _create(path: str) -> None:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    async def resume_upload(self, repository: str, id: str) -> Upload | None:
        if not _ID.match(id):
            return None
        path = self._upload_path(repository, id)
        if not os.path.isfile(path):
            return None
        upload = self._uploads.get(id)
        if upload is None:
            upload = self._uploads[id] = FilesystemUpload(self, repository, id, path)
        return upload

    def forget(self, id: str) -> None:
        self._uploads.pop(id, None)

    def sweep(self, oldest: float) -> None:
        """At start, blocking: drop uploads untouched since ``oldest`` (epoch seconds) and contents without users."""
        for directory, _, names in os.walk(f"{self._root}/repositories"):
            if os.path.basename(directory) == "_uploads":
                for name in names:
                    path = f"{directory}/{name}"
                    if os.stat(path).st_mtime < oldest:
                        os.unlink(path)
        for directory, _, names in os.walk(f"{self._root}/blobs"):
            for name in names:
                self._drop_unused(f"{directory}/{name}")
