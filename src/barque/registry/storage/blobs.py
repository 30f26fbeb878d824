"""Blobs in a directory.

``blobs/<algorithm>/<2 hex>/<hex>`` holds each content once; the blob of a repository is a *hard link* to it at
``repositories/<name>/_blobs/<algorithm>/<hex>``. So the link count says how many repositories still use a content, and
serving a blob is one open() that also proves membership. A crash between the two links leaves a content without users,
which costs space only and goes with the next collection. The time of last use is the file's mtime.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from barque import failpoints
from barque.oci.digest import ALGORITHMS, Digest
from barque.registry.storage import durable
from barque.registry.storage.base import Blob, Entry, Freed, Upload
from barque.registry.storage.uploads import FilesystemUpload
from barque.registry.threads import in_thread

_ID = re.compile(r"[0-9a-f]{32}\Z")
#: The time of last use is as old as this at most, in seconds, when it is written anew.
_TOUCH_AFTER = 300.0
_FEW = 1000


class FilesystemBlobs:
    """Meets :class:`barque.registry.storage.base.BlobStorage`."""

    def __init__(self, root: str, threads: ThreadPoolExecutor) -> None:
        self._root = root
        self._threads = threads
        # Those that another process ended stay in here until there are many.
        self._uploads: dict[str, FilesystemUpload] = {}
        self._prune_at = _FEW

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await in_thread(self._threads, function, *args)

    def _content(self, digest: Digest) -> str:
        return f"{self._root}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def _link(self, repository: str, digest: Digest) -> str:
        return f"{self._root}/repositories/{repository}/_blobs/{digest.algorithm}/{digest.hex}"

    async def get(self, repository: str, digest: Digest) -> Blob | None:
        path = self._link(repository, digest)
        try:
            found = os.stat(path)
            if time.time() - found.st_mtime > _TOUCH_AFTER:
                os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Blob(found.st_size, path)

    def adopt(self, path: str, repository: str, digest: Digest) -> None:
        """Make the verified file ``path`` a blob of the repository (blocking).

        A content that another repository brought is shared. One that this repository has already is replaced: a
        second push is how a client heals a blob that went bad on disk.
        """
        content = self._content(digest)
        link = self._link(repository, digest)
        if not os.path.exists(link) and self._share(content, repository, digest):
            os.unlink(path)
            return
        for directory in (os.path.dirname(content), os.path.dirname(link)):
            durable.make_directories(directory)
        durable.sync_file(path)
        os.utime(path)
        failpoints.hit("registry.blob.synced")
        # The second name comes first: a deletion elsewhere drops a content that has one name only.
        spare = f"{os.path.dirname(link)}/.{os.urandom(8).hex()}"
        os.link(path, spare)
        os.rename(path, content)
        failpoints.hit("registry.blob.stored")
        os.rename(spare, link)
        for directory in (os.path.dirname(content), os.path.dirname(link)):
            durable.sync_directory(directory)

    def _share(self, content: str, repository: str, digest: Digest) -> bool:
        try:
            self._make_link(content, repository, digest)
        except FileNotFoundError:
            return False
        return True

    def _make_link(self, source: str, repository: str, digest: Digest) -> None:
        """Put ``source`` in the place of the repository's blob, in one step; FileNotFoundError if it is gone."""
        link = self._link(repository, digest)
        os.utime(source)
        durable.make_directories(os.path.dirname(link))
        temporary = f"{os.path.dirname(link)}/.{os.urandom(8).hex()}"
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno != errno.EMLINK:  # ext4 allows 65,000 links to a file
                raise
            import shutil

            shutil.copyfile(source, temporary)
        os.rename(temporary, link)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # rename(2) does nothing where both names are links to one file already
        durable.sync_directory(os.path.dirname(link))

    async def mount(self, repository: str, digest: Digest, source: str | None) -> bool:
        path = self._content(digest) if source is None else self._link(source, digest)
        try:
            await self.run(self._make_link, path, repository, digest)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def delete(self, repository: str, digest: Digest) -> int | None:
        return await self.run(self._delete, repository, digest)  # type: ignore[no-any-return]

    def _delete(self, repository: str, digest: Digest) -> int | None:
        if not durable.remove_file(self._link(repository, digest)):
            return None
        return self._drop_content(self._content(digest)) or 0

    @staticmethod
    def _drop_content(content: str) -> int | None:
        """Unlink a content that no repository holds; its size in bytes if it went."""
        # An upload of the same content may link it in between: its own link keeps the bytes, only sharing is lost.
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(content)
            if found.st_nlink == 1:
                os.unlink(content)
                return found.st_size
        return None

    async def entries(self, repository: str) -> list[Entry]:
        return await self.run(self._entries, repository)  # type: ignore[no-any-return]

    def _entries(self, repository: str) -> list[Entry]:
        return durable.digests(f"{self._root}/repositories/{repository}/_blobs")

    async def start_upload(self, repository: str, algorithm: str = "sha256") -> Upload:
        id = os.urandom(16).hex()
        path = self._upload_path(repository, id)
        await self.run(self._create, path)
        if len(self._uploads) >= self._prune_at:
            self._uploads = {id: known for id, known in self._uploads.items() if known.exists()}
            self._prune_at = 2 * len(self._uploads) + _FEW
        upload = self._uploads[id] = FilesystemUpload(self, repository, id, path, algorithm)
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

    @staticmethod
    def _give_up(path: str) -> bool:
        """Unlink an upload, but for one that a client sends to right now: a clock that jumps makes it look old."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def drop_unused(self, oldest: float) -> Freed:
        """Blocking: give up uploads and leftovers untouched since ``oldest``, and contents without users.

        Such a content needs no grace: who links it meanwhile has a name of its own for the bytes.
        """
        freed = Freed()
        for directory, _, names in os.walk(f"{self._root}/repositories"):
            for name in names:
                upload = os.path.basename(directory) == "_uploads"
                if not upload and not name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    path = f"{directory}/{name}"
                    if os.stat(path).st_mtime < oldest and self._give_up(path):
                        self.forget(name)
                        freed.uploads += upload
        for algorithm in ALGORITHMS:
            for directory, _, names in os.walk(f"{self._root}/blobs/{algorithm}"):
                for name in names:
                    size = self._drop_content(f"{directory}/{name}")
                    if size is not None:
                        freed.contents += 1
                        freed.size += size
        return freed
