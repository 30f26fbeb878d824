"""Files of a container as tar archives, both ways: a process that goes into the container's view of its files first.

Links and mounts that the container makes meanwhile lead nowhere but into its own files: there is nothing else to see
from here (CVE-2018-15664 resolved on the host, CVE-2019-14271 loaded libraries of the container; all that is needed is
imported before). No user can be found in the container's view of the processes: only the mount namespace is entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NoReturn

from barque.runtime import users
from barque.runtime.failure import RuntimeFailure
from barque.store.confine import restrict
from barque.store.tar.apply import Extractor
from barque.store.tar.compress import BadStream, open_stream
from barque.store.tar.diff import write_member, write_tree
from barque.store.tar.directories import Directories, Directory, clean
from barque.store.tar.errors import Refused, TarError
from barque.store.tar.messages import Limits, WorkerError, decode, encode
from barque.store.tar.reader import DIRECTORY, Entry, Stream
from barque.store.tar.writer import Writer
from barque.supervise.archive_messages import (
    ReadRequest,
    Result,
    StatRequest,
    StatResult,
    View,
    WriteRequest,
)
from barque.sys import mounts
from barque.sys.beneath import open_in_root
from barque.sys.namespaces import CLONE_NEWNS, setns, unshare
from barque.sys.unmount import detach

_CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD",
                 "CAP_SETFCAP")
_READ = 1 << 20
_MAX_LINKS = 40
#: Not files of the container; a walk over them would not end well.
_KERNEL = ("/proc", "/sys", "/dev")


class _Bad(Exception):
    """The request cannot be done; ``kind`` is how the caller is to tell it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run_stat(request: bytes, fds: list[int]) -> bytes:
    """The worker; answers a :class:`StatResult`."""
    order = decode(request, StatRequest)
    result = StatResult()

    def work() -> None:
        nonlocal result
        root = _enter(order.view, fds, writable=False)
        result = _stat(root, order.path)

    error = _told(work)
    return encode(result if error is None else StatResult(error=error))


def run_read(request: bytes, fds: list[int]) -> bytes:
    """The worker; answers a :class:`Result`."""
    order = decode(request, ReadRequest)

    def work() -> None:
        root = _enter(order.view, fds, writable=False, alone=order.whole)
        writer = Writer(lambda data: _write_all(fds[order.output], data))
        if order.whole:
            write_tree(writer, root, b"")
        else:
            _read(writer, root, order.path)
        writer.close()

    return encode(Result(_told(work)))


def run_write(request: bytes, fds: list[int]) -> bytes:
    """The worker; answers a :class:`Result`."""
    order = decode(request, WriteRequest)

    def work() -> None:
        root = _enter(order.view, fds, writable=True)
        os.umask(0)
        target = _directory(root, order.path)
        os.close(target)
        owner = users.resolve(root, order.owner) if order.owner else None
        extractor = _Into(root, clean(b"/" + order.path), keep_kinds=order.keep_kinds,
                          owner=(owner.uid, owner.gid) if owner else None)
        extractor.run(Stream(open_stream("", lambda: os.read(fds[order.source], _READ))))

    return encode(Result(_told(work)))


WORKERS: dict[str, Callable[[bytes, list[int]], bytes]] = {
    "archive-stat": run_stat, "archive-read": run_read, "archive-write": run_write}


def _told(work: Callable[[], None]) -> WorkerError | None:
    """The failure of ``work`` as data."""
    try:
        work()
    except _Bad as error:
        return WorkerError(error.kind, str(error))
    except (TarError, BadStream) as error:
        return WorkerError("invalid", str(error))
    except RuntimeFailure as failure:
        return WorkerError("invalid", failure.detail or str(failure))
    except OSError as error:
        path = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""
        reason = os.strerror(error.errno or errno.EIO).lower()
        kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        return WorkerError(kind, f"{os.fsdecode(path)}: {reason}" if path else reason, errno=error.errno or 0)
    return None


def _enter(view: View, fds: list[int], *, writable: bool, alone: bool = False) -> int:
    """Make the container's files the only ones of this process; a descriptor of their root. ``alone``: no mounts."""
    def go() -> int:
        if view.namespace >= 0:
            return _running(fds[view.namespace], alone=alone)
        unshare(CLONE_NEWNS)
        mounts.set_propagation_of_all(mounts.PROPAGATION_PRIVATE)
        return _stopped(view, writable=writable, alone=alone)

    return restrict(_CAPABILITIES, go)


def _running(namespace: int, *, alone: bool) -> int:
    setns(namespace, CLONE_NEWNS)
    if alone:
        return mounts.clone_tree("/")
    unshare(CLONE_NEWNS)
    mounts.set_propagation_of_all(mounts.PROPAGATION_PRIVATE)
    for path in _KERNEL:
        try:
            detach(path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _stopped(view: View, *, writable: bool, alone: bool) -> int:
    """Mounted in this process's own namespace, which has been left by everything else when this returns."""
    sources = [] if alone else [(mounts.clone_tree(item.source, recursive=True), item) for item in view.volumes
                                if os.path.lexists(item.source)]
    tree = _overlay(view, writable=writable)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(tree, root)
    os.close(root)
    os.fchdir(tree)
    mounts.pivot_to_cwd()
    os.close(tree)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for source, item in sources:
        if not item.writable:
            mounts.set_attributes(source, add=mounts.ATTR_RDONLY, recursive=True)
        _attach(root, source, os.fsencode(item.destination), writable=writable)
    return root


def _overlay(view: View, *, writable: bool) -> int:
    common = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")]
    lower = view.lower if writable else [view.upper, *view.lower]
    changes = [("upperdir", view.upper), ("workdir", view.work)] if writable else []
    try:
        return mounts.make("overlay", [*(("lowerdir+", path) for path in lower), *changes, *common],
                           0 if writable else mounts.ATTR_RDONLY)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Before Linux 6.5: one string of at most a page, with names relative to the directory of all snapshots.
    base = os.path.commonpath([*lower, view.upper])
    os.chdir(base)
    words = [f"lowerdir={':'.join(os.path.relpath(path, base) for path in lower)}",
             *(f"{key}={os.path.relpath(value, base)}" for key, value in changes),
             *(f"{key}={value}" for key, value in common)]
    mounts.mount_legacy("overlay", view.upper, "overlay", ",".join(words))
    return mounts.clone_tree(view.upper)


def _attach(root: int, source: int, destination: bytes, *, writable: bool) -> None:
    """Where the mount point is missing there is nothing to show, but something to write to."""
    try:
        target = open_in_root(root, destination, os.O_PATH)
    except OSError as error:
        if error.errno != errno.ENOENT or not writable or not stat.S_ISDIR(os.fstat(source).st_mode):
            return
        directories = Directories(root)
        target = os.dup(directories.get(clean(destination)).fd)
        directories.close()
    try:
        mounts.attach(source, target)
    finally:
        os.close(target)
        os.close(source)


def _no_such(path: bytes) -> NoReturn:
    raise _Bad("missing", os.fsdecode(path))


def _split(path: bytes) -> tuple[bytes, bytes, bool]:
    """Parent and last component of ``path``; whether that has to be a directory (``dir/``, ``dir/.``)."""
    absolute = b"/" + path.lstrip(b"/")
    must = absolute.endswith((b"/", b"/."))
    parts = [part for part in absolute.split(b"/") if part not in (b"", b".")]
    return b"/" + b"/".join(parts[:-1]), parts[-1] if parts else b"", must


def _parent(root: int, path: bytes) -> tuple[int, bytes, bool]:
    """The directory that holds ``path``, its name in there (b"." for the root), and whether it must be a directory."""
    parent, name, must = _split(path)
    try:
        fd = open_in_root(root, parent, os.O_RDONLY | os.O_DIRECTORY)
        if name == b"..":
            fd, name = open_in_root(root, parent + b"/..", os.O_RDONLY | os.O_DIRECTORY), b"."
        info = os.lstat(name or b".", dir_fd=fd)
        if must and name and stat.S_ISLNK(info.st_mode):
            fd, name = open_in_root(root, parent + b"/" + name, os.O_RDONLY | os.O_DIRECTORY), b"."
        elif must and not stat.S_ISDIR(info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            _no_such(path)
        raise
    return fd, name or b".", must


def _shown(path: bytes) -> bytes:
    """What docker calls the thing: the last word of the path, ``.`` of ``dir/.``, ``/`` of the root."""
    if (path.endswith(b"/.") and path.strip(b"/.")) or path == b".":
        return b"."
    return path.rstrip(b"/").rpartition(b"/")[2] or b"/"


def _stat(root: int, path: bytes) -> StatResult:
    fd, name, _ = _parent(root, path)
    info = os.lstat(name, dir_fd=fd)
    link = b""
    if stat.S_ISLNK(info.st_mode):
        link = _final(root, _split(path)[0], os.readlink(name, dir_fd=fd))
    return StatResult(_shown(path), info.st_size, info.st_mode, info.st_mtime_ns, link)


def _final(root: int, directory: bytes, link: bytes) -> bytes:
    """Where ``link`` leads, as an absolute path in the container without links, as far as it exists."""
    pending = _components(directory) + _components(link) if not link.startswith(b"/") else _components(link)
    real: list[bytes] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part == b"..":
            real = real[:-1]
            continue
        at = b"/" + b"/".join([*real, part])
        try:
            fd = open_in_root(root, at, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            real.append(part)
            continue
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode) and links < _MAX_LINKS:
                links += 1
                target = os.readlink(b"", dir_fd=fd)
                real = [] if target.startswith(b"/") else real
                pending = _components(target) + pending
            else:
                real.append(part)
        finally:
            os.close(fd)
    return b"/" + b"/".join(real)


def _components(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def _read(writer: Writer, root: int, path: bytes) -> None:
    fd, name, _ = _parent(root, path)
    info = os.lstat(name, dir_fd=fd)
    shown = _shown(path)
    if not stat.S_ISDIR(info.st_mode):
        write_member(writer, fd, b"", name, {})
        return
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    write_tree(writer, directory, b"" if shown == b"/" else shown)


def _directory(root: int, path: bytes) -> int:
    try:
        fd = open_in_root(root, b"/" + path, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            _no_such(path)
        raise
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise _Bad("invalid", "extraction point is not a directory")
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        raise _Bad("readonly", "mounted volume is marked read-only")
    return fd


class _Into(Extractor):
    """Unpacks below a directory of the container, whose root is the root of all links."""

    def __init__(self, root: int, prefix: bytes, *, keep_kinds: bool, owner: tuple[int, int] | None) -> None:
        super().__init__(root, Limits(), whiteouts=False)
        self._prefix = prefix + b"/" if prefix else b""
        self._keep_kinds = keep_kinds
        self._as = owner
        self._directory_comes = False

    def _apply(self, stream: Stream, entry: Entry) -> None:
        name = clean(entry.name)
        if not name:
            stream.skip(entry.data)  # the directory that is unpacked into stays as it is
            return
        entry.name = self._prefix + name
        self._directory_comes = entry.type == DIRECTORY
        if entry.link and entry.type == b"1":
            entry.link = self._prefix + clean(entry.link)
        if self._as is not None:
            entry.uid, entry.gid = self._as
        super()._apply(stream, entry)

    def _claim(self, parent: Directory, name: bytes) -> None:
        there = stat.S_ISDIR(os.lstat(name, dir_fd=parent.fd).st_mode)
        if self._keep_kinds and there != self._directory_comes:
            path = os.fsdecode(b"/" + parent.path + b"/" + name)
            raise Refused(f'cannot overwrite directory "{path}" with non-directory "{path}"' if there else
                          f'cannot overwrite non-directory "{path}" with directory "{path}"')
        super()._claim(parent, name)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
