"""The mount API by descriptors (fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)) and pivot_root(2).

A mount made here is detached: it hangs on its descriptor alone and is gone when that is closed, until it is attached.
"""

from __future__ import annotations

import ctypes
import os

from barque.sys.libc import (
    FSCONFIG,
    FSMOUNT,
    FSOPEN,
    MOUNT_SETATTR,
    MOVE_MOUNT,
    OPEN_TREE,
    check,
    libc,
    number,
    syscall,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

ATTR_RDONLY = 0x01
ATTR_NOSUID = 0x02
ATTR_NODEV = 0x04
ATTR_NOEXEC = 0x08
ATTR_ATIME = 0x70
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_IDMAP = 0x100000
ATTR_NOSYMFOLLOW = 0x200000

PROPAGATION_UNBINDABLE = 1 << 17
PROPAGATION_PRIVATE = 1 << 18
PROPAGATION_SLAVE = 1 << 19
PROPAGATION_SHARED = 1 << 20

#: statfs(2) types, to tell what a descriptor really is on.
PROC_MAGIC = 0x9FA0
DEVPTS_MAGIC = 0x1CD1

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_OPEN_TREE_CLONE = 1
_MOVE_BOTH_EMPTY = 0x04 | 0x40
_SET_FLAG = 0
_SET_STRING = 1
_CMD_CREATE = 6
_MNT_DETACH = 2


class _MountAttr(ctypes.Structure):
    _fields_ = [("attr_set", ctypes.c_uint64), ("attr_clr", ctypes.c_uint64), ("propagation", ctypes.c_uint64),
                ("userns_fd", ctypes.c_uint64)]


class _Statfs(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("rest", ctypes.c_byte * 248)]


def make(kind: str, parameters: Iterable[tuple[str, str | None]] = (), attributes: int = 0) -> int:
    """A new detached mount of a file system of type ``kind``; ``None`` as a value makes the parameter a flag.

    ``attributes`` are ATTR_*. Raises OSError whose text ends in what the file system itself had to say.
    """
    context = syscall(FSOPEN, kind.encode(), _FSOPEN_CLOEXEC, what="fsopen", path=kind)
    try:
        for key, value in parameters:
            if value is None:
                _fsconfig(context, _SET_FLAG, key, None)
            else:
                _fsconfig(context, _SET_STRING, key, value)
        _fsconfig(context, _CMD_CREATE, None, None)
        return syscall(FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes, what="fsmount", path=kind)
    finally:
        os.close(context)


def _fsconfig(context: int, command: int, key: str | None, value: str | None) -> None:
    raw_key = None if key is None else key.encode()
    raw_value = None if value is None else os.fsencode(value)
    try:
        syscall(FSCONFIG, context, command, raw_key, raw_value, 0, what="fsconfig", path=key)
    except OSError as error:
        said = _said(context)
        text = f"{error.strerror}: {said}" if said else error.strerror
        raise OSError(error.errno, text, error.filename) from None


def checks_parameters(kind: str) -> bool:
    """Whether this kernel's file system ``kind`` looks at parameters one by one, as ported file systems do.

    The others take any and refuse the lot with EINVAL at the end. (Overlay was ported in Linux 6.5.)
    """
    context = syscall(FSOPEN, kind.encode(), _FSOPEN_CLOEXEC, what="fsopen", path=kind)
    try:
        _fsconfig(context, _SET_STRING, "no-such-parameter", "x")
    except OSError:
        return True
    finally:
        os.close(context)
    return False


def _said(context: int) -> str:
    """What the kernel wrote into the context's message queue, oldest first; reading drains it."""
    lines = []
    while True:
        try:
            lines.append(os.read(context, 4096).decode(errors="replace").strip())
        except OSError:
            return "; ".join(lines)


def clone_tree(path: str | bytes, *, at: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy of the mount at ``path``, of all beneath with ``recursive``: what a bind mount attaches.

    An empty path means ``at`` itself. A last symbolic link is followed.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall(OPEN_TREE, at, os.fsencode(path), flags, what="open_tree", path=path)


def attach(mount: int, target: int) -> None:
    """Attach the detached (or move the attached) ``mount`` onto what ``target`` (O_PATH will do) is open on.

    Both descriptors stay open.
    """
    syscall(MOVE_MOUNT, mount, b"", target, b"", _MOVE_BOTH_EMPTY, what="move_mount")


def set_attributes(mount: int, *, add: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False,
                   userns_fd: int = 0) -> None:
    """Change ATTR_* and propagation of the mount behind ``mount``; what is not named stays, locked or not."""
    if add & ATTR_ATIME or clear & ATTR_ATIME:
        clear |= ATTR_ATIME
    attr = _MountAttr(add, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(MOUNT_SETATTR, mount, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr), what="mount_setattr")


def set_propagation_of_all(propagation: int) -> None:
    """Give every mount of the own namespace this propagation (from ``/`` down)."""
    attr = _MountAttr(0, 0, propagation, 0)
    syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attr), ctypes.sizeof(attr), what="mount_setattr")


def mount_legacy(source: str, target: str, kind: str, data: str) -> None:
    """mount(2), for what the descriptor API of older kernels cannot say. ``data`` must fit into a page."""
    check(libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(0), os.fsencode(data)),
          "mount", target)


def pivot_to_cwd() -> None:
    """Make the working directory, a mount point, the root; the old root ends up beneath it and is let go.

    ``pivot_root(".", ".")`` stacks the old root on top of the new one (pivot_root(2), NOTES). It becomes a slave
    before it is unmounted, or the unmounting would propagate to the namespace that it was copied from.
    """
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscall(number("pivot_root"), b".", b".", what="pivot_root")
        set_attributes(old, propagation=PROPAGATION_SLAVE, recursive=True)
        os.fchdir(old)
        check(libc.umount2(b".", _MNT_DETACH), "umount2")
    finally:
        os.close(old)
    os.chdir("/")


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that ``fd`` is on (fstatfs(2))."""
    buffer = _Statfs()
    check(libc.fstatfs(fd, ctypes.byref(buffer)), "fstatfs")
    return int(buffer.type)
