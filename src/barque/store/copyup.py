"""Filling an empty volume: on first use with what the image has at the mount point, or with what another volume has.

Done by a confined process, which sees the volume as its root and the other directory by descriptor, the image's
read-only. The path is resolved inside the image (CVE-2022-23648 copied host files).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from barque.store.confine import confine
from barque.store.data import copy_data, share_data
from barque.store.tar.messages import CopyUpRequest, CopyUpResult, WorkerError, decode, encode
from barque.store.tree import walk
from barque.sys import mounts
from barque.sys.beneath import open_in_root

_CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def run_copyup(request: bytes, fds: list[int]) -> bytes:
    """Confine this process to the volume ``fds[0]`` and fill it, from the directory ``fds[1]`` if there is one.

    Answers an encoded :class:`CopyUpResult`.
    """
    order = decode(request, CopyUpRequest)
    source: list[int] = fds[1:]

    def open_source() -> None:
        if source:
            return
        view = view_of(order.lower)
        try:
            source.append(open_in_root(view, order.path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            if error.errno not in _MISSING:
                raise
        finally:
            os.close(view)

    try:
        volume = confine(fds[0], _CAPABILITIES, open_source)
        if not source or os.listdir(volume):
            return encode(CopyUpResult())
        os.umask(0)
        return encode(CopyUpResult(_Copy(volume).run(source[0])))
    except OSError as error:
        path = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""
        reason = os.strerror(error.errno or errno.EIO).lower()
        kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        message = f"{os.fsdecode(path)}: {reason}" if path else reason
        return encode(CopyUpResult(error=WorkerError(kind, message, "copyup", error.errno or 0, path)))


def view_of(lower: Sequence[str]) -> int:
    """A read-only mount of the layers, topmost first, as a descriptor; nothing shows it to other processes."""
    options = [("lowerdir+", path) for path in lower]
    try:
        return mounts.make("overlay", [*options, ("index", "off"), ("metacopy", "off")], mounts.ATTR_RDONLY)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return view_by_string(lower)


def view_by_string(lower: Sequence[str]) -> int:
    """The same before Linux 6.5, over the topmost layer in this process's mount namespace, which must be private.

    The option string may have a page, so that the names in it are relative to the directory of all snapshots.
    """
    base = os.path.commonpath(lower)
    os.chdir(base)
    names = ":".join(os.path.relpath(path, base) for path in lower)
    mounts.mount_legacy("overlay", lower[0], "overlay", f"lowerdir={names},index=off,metacopy=off")
    return os.open(lower[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class _Copy:
    """Copies a directory's content and attributes into the root directory of this process."""

    def __init__(self, volume: int) -> None:
        self._stack = [volume]
        self._links: dict[tuple[int, int], bytes] = {}
        self._times: list[tuple[bytes, int]] = []
        self._copied = 0

    def run(self, source: int) -> int:
        for fd, path, _, others in walk(source):
            self._enter(fd, path)
            for name in others:
                self._entry(fd, path, name)
        for directory, mtime in reversed(self._times):
            os.utime(directory, ns=(mtime, mtime), follow_symlinks=False)
        return self._copied

    def _enter(self, source: int, path: tuple[bytes, ...]) -> None:
        while len(self._stack) > max(len(path), 1):
            os.close(self._stack.pop())
        if path:
            os.mkdir(path[-1], 0o700, dir_fd=self._stack[-1])
            self._stack.append(os.open(path[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                                       dir_fd=self._stack[-1]))
            self._copied += 1
        info = os.fstat(source)
        _attributes(source, self._stack[-1], info)
        self._times.append((b"/" + b"/".join(path), info.st_mtime_ns))

    def _entry(self, source: int, path: tuple[bytes, ...], name: bytes) -> None:
        target = self._stack[-1]
        info = os.lstat(name, dir_fd=source)
        self._copied += 1
        if info.st_nlink > 1:
            first = self._links.setdefault((info.st_dev, info.st_ino), b"/" + b"/".join((*path, name)))
            if first != b"/" + b"/".join((*path, name)):
                os.link(first, name, dst_dir_fd=target, follow_symlinks=False)
                return
        if stat.S_ISREG(info.st_mode):
            _file(source, target, name, info)
            return
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
        os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(info.st_mtime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _file(source: int, target: int, name: bytes, info: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                         dir_fd=target)
        try:
            if not share_data(reader, writer):
                copy_data(reader, writer)
            _attributes(reader, writer, info)
            os.utime(writer, ns=(info.st_mtime_ns, info.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _attributes(source: int, target: int, info: os.stat_result) -> None:
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    for key in os.listxattr(source):
        if not key.startswith("trusted."):
            try:
                os.setxattr(target, key, os.getxattr(source, key))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
