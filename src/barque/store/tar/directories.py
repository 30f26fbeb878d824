"""Directories of a tree that is being unpacked, by descriptor.

A path is resolved one component at a time with ``openat(O_NOFOLLOW)``; symbolic links are read and followed here,
inside the root, so that the real path of each directory is known, and missing ones are made on the way. Nothing that an
archive can hold leads out: there is no step that the kernel resolves over more than one component.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from dataclasses import dataclass

from barque.store.tar.errors import Refused
from barque.store.tree import remove_tree

OPAQUE = "trusted.overlay.opaque"
_PATH_MAX = 4096
_MAX_LINKS = 40
#: Descriptors kept open at most (fewer where fewer are allowed); beyond it all but the current one are closed.
_KEPT = 768
_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IMPLICIT_MODE = 0o755


@dataclass(slots=True)
class Directory:
    fd: int
    path: bytes  # real path below the root, without slashes at the ends


class Directories:
    """Owns all its descriptors but ``root_fd``. ``implicit``: real paths of directories that no entry described."""

    def __init__(self, root_fd: int) -> None:
        self.root = Directory(root_fd, b"")
        self.implicit: set[bytes] = {b""}
        self.described: dict[bytes, tuple[int, dict[str, bytes]]] = {}  # path -> mtime, late attributes
        self._real: dict[bytes, Directory] = {}
        self._spelled: dict[bytes, Directory] = {}
        self._making = True
        self._most = min(_KEPT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)

    def close(self) -> None:
        self.forget()

    def get(self, path: bytes) -> Directory:
        """The directory that cleaned ``path`` names, made if it is missing. Good until the next call.

        Raises OSError (ENOTDIR where a file is in the way, ELOOP), :class:`Refused`.
        """
        if not path:
            return self.root
        found = self._spelled.get(path)
        if found is not None:
            return found
        parent, _, name = path.rpartition(b"/")
        start = self._spelled.get(parent)
        found = self._resolve(start, [name]) if start is not None else self._resolve(self.root, path.split(b"/")[::-1])
        self._spelled[path] = found
        return found

    def existing(self, path: bytes) -> Directory | None:
        """As :meth:`get`, but makes nothing: None where the directory is missing or no directory."""
        self._making = False
        try:
            return self.get(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            self._making = True

    def _resolve(self, current: Directory, pending: list[bytes]) -> Directory:
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                parent = current.path.rpartition(b"/")[0]
                pending.extend(parent.split(b"/")[::-1])
                current = self.root
                continue
            child = self._step(current, name)
            if isinstance(child, Directory):
                current = child
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(current.path + b"/" + name))
            if child.startswith(b"/"):
                current = self.root
            pending.extend(child.split(b"/")[::-1])
        return current

    def _step(self, current: Directory, name: bytes) -> Directory | bytes:
        """The child directory, or the text of the symbolic link in its place."""
        path = current.path + b"/" + name if current.path else name
        known = self._real.get(path)
        if known is not None:
            return known
        if len(path) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fsdecode(name))
        try:
            fd = os.open(name, _OPEN, dir_fd=current.fd)
        except FileNotFoundError:
            if not self._making:
                raise
            fd = self._make(current, name, path)
        except NotADirectoryError:
            info = os.lstat(name, dir_fd=current.fd)
            if stat.S_ISLNK(info.st_mode):
                return os.readlink(name, dir_fd=current.fd)
            if not is_whiteout(info) or not self._making:
                raise
            os.unlink(name, dir_fd=current.fd)
            fd = self._make(current, name, path)
            set_opaque(current.fd, name)
        return self._keep(Directory(fd, path), current)

    def _make(self, current: Directory, name: bytes, path: bytes) -> int:
        os.mkdir(name, _IMPLICIT_MODE, dir_fd=current.fd)
        self.implicit.add(path)
        return os.open(name, _OPEN, dir_fd=current.fd)

    def _keep(self, directory: Directory, parent: Directory) -> Directory:
        if len(self._real) >= self._most:
            self.forget(keep=parent)
        self._real[directory.path] = directory
        return directory

    def forget(self, keep: Directory | None = None) -> None:
        """Close what is kept, since names may mean something else now."""
        for directory in self._real.values():
            if directory is not keep:
                os.close(directory.fd)
        self._real.clear()
        self._spelled.clear()
        if keep is not None and keep is not self.root:
            self._real[keep.path] = keep

    def remove(self, parent: Directory, name: bytes, path: bytes) -> None:
        """Delete what stands in the way of another entry of that name; ``parent`` stays good."""
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent.fd).st_mode):
            os.unlink(name, dir_fd=parent.fd)
            self.forget(keep=parent)
            return
        self.forget(keep=parent)
        remove_tree(parent.fd, name)
        below = path + b"/"
        self.implicit = {known for known in self.implicit if known != path and not known.startswith(below)}
        for known in [known for known in self.described if known == path or known.startswith(below)]:
            del self.described[known]

    def finish(self) -> None:
        """Set the times (and default ACLs) of the described directories, which unpacking into them has changed."""
        for path, (mtime, attributes) in sorted(self.described.items(), reverse=True):
            parent, _, name = path.rpartition(b"/")
            directory = self.get(parent)
            for key, value in attributes.items():
                set_attribute(directory.fd, name or b".", key, value)
            os.utime(name or b".", ns=(mtime, mtime), dir_fd=directory.fd, follow_symlinks=False)


def is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def set_opaque(dir_fd: int, name: bytes) -> None:
    """Let the directory hide what lower layers have in it (overlayfs)."""
    set_attribute(dir_fd, name, OPAQUE, b"y")


def set_attribute(dir_fd: int, name: bytes, key: str, value: bytes) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.setxattr(fd, key, value)
    finally:
        os.close(fd)


def clean(name: bytes) -> bytes:
    """``name`` as a path below the root: no leading slash, no ``.`` and ``..``.

    Raises :class:`Refused` where it leaves, OSError(ENAMETOOLONG).
    """
    if len(name) >= _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fsdecode(name[:256]) + "...")
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name.rstrip(b"/")
    if b"/." not in name and b"//" not in name and name[:1] not in (b"/", b"."):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
            elif not name.startswith(b"/"):
                raise Refused(f'"{os.fsdecode(name)}" is outside of "/"')
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
