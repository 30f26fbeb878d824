"""Files that are whole or absent after a crash. Blocking: call from a thread."""

from __future__ import annotations

import contextlib
import os

from barque import failpoints
from barque.oci.digest import ALGORITHMS, Digest
from barque.registry.storage.base import Entry


def sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


#: A directory's entries are made durable in the same way (fsync(2)).
sync_directory = sync_file


def make_directories(path: str) -> None:
    """Make ``path`` and its parents, each entry durable in its parent."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    sync_directory(parent)


def write_file(path: str, data: bytes) -> None:
    """Replace ``path`` with ``data`` in one step. Names that begin with a dot are leftovers of a crash."""
    directory, name = os.path.split(path)
    make_directories(directory)
    temporary = f"{directory}/.{name[:100]}.{os.urandom(8).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb", closefd=True) as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        failpoints.hit("registry.file.synced")
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def remove_file(path: str) -> bool:
    """Whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(os.path.dirname(path))
    return True


def read_file(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_directory(path: str) -> list[str]:
    """Names in ``path``, sorted, without leftovers; empty if it does not exist."""
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def digests(path: str) -> list[Entry]:
    """What ``path/<algorithm>/<hex>`` holds; what is removed meanwhile may be among it or not, all else is."""
    found = []
    for algorithm in ALGORITHMS:
        for name in list_directory(f"{path}/{algorithm}"):
            with contextlib.suppress(FileNotFoundError):
                stat = os.lstat(f"{path}/{algorithm}/{name}")
                found.append(Entry(Digest(f"{algorithm}:{name}"), stat.st_size, stat.st_mtime))
    return found
