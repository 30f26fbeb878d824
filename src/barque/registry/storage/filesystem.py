"""The registry's storage in one directory of a local file system that has hard links."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

from barque.errors import Conflict
from barque.registry.storage import durable
from barque.registry.storage.blobs import FilesystemBlobs
from barque.registry.storage.manifests import FilesystemManifests

VERSION = b"1\n"
#: Uploads that nobody touched for so long are given up, in seconds.
UPLOAD_LIFETIME = 7 * 24 * 3600


class UnknownLayout(Conflict):
    text = "{root} is not a registry root of this version (found version {found!r})"


class FilesystemStorage:
    """Meets :class:`barque.registry.storage.base.Storage`. One process writes; close it with :meth:`close`."""

    def __init__(self, root: str) -> None:
        root = os.path.abspath(root)
        os.makedirs(root, mode=0o700, exist_ok=True)
        found = durable.read_file(f"{root}/version")
        if found is None and not os.listdir(root):
            durable.write_file(f"{root}/version", VERSION)
        elif found != VERSION:
            raise UnknownLayout(root=root, found=found)
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="registry")
        self.blobs = FilesystemBlobs(root, self._threads)
        self.manifests = FilesystemManifests(root, self._threads)
        self.blobs.sweep(time.time() - UPLOAD_LIFETIME)

    def close(self) -> None:
        self._threads.shutdown()
