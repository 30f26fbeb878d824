"""A process that shuts itself into one directory for good: no other files, no new privileges, few capabilities.

Works in a single-threaded process, after everything that it will ever import is imported.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from barque.sys.libc import MOVE_MOUNT, OPEN_TREE, check, libc, number, syscall

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID = 0, 1, 2, 3, 4
CAP_SYS_ADMIN, CAP_MKNOD, CAP_SETFCAP = 21, 27, 31

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x4000, 1 << 18, 2
_OPEN_TREE_CLONE, _AT_EMPTY_PATH, _MOVE_MOUNT_F_EMPTY_PATH, _AT_FDCWD = 1, 0x1000, 4, -100
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_SET_DUMPABLE = 38, 24, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63


def enter(directory_fd: int) -> int:
    """Make the directory the root of a mount namespace of one's own, which has nothing else.

    Returns a descriptor of the new root. Descriptors opened before still lead to the old mounts: close them.
    Raises OSError.
    """
    # Cloned before the unshare: afterwards the directory's mount belongs to another namespace, which is EINVAL.
    tree = syscall(OPEN_TREE, directory_fd, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC, what="open_tree")
    try:
        check(libc.unshare(_CLONE_NEWNS), "unshare")
        check(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "mount", "/")
        # Mounted over "/": the process stays under it until it pivots (pivot_root(2), "pivot_root(".", ".")").
        syscall(MOVE_MOUNT, tree, b"", _AT_FDCWD, b"/", _MOVE_MOUNT_F_EMPTY_PATH, what="move_mount")
        os.fchdir(tree)
    finally:
        os.close(tree)
    syscall(number("pivot_root"), b".", b".", what="pivot_root")
    check(libc.umount2(b".", _MNT_DETACH), "umount2", ".")
    os.chdir("/")
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def keep_capabilities(wanted: tuple[int, ...]) -> None:
    """Drop all capabilities but ``wanted`` (those that are there at all), now and for whatever is executed."""
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in wanted and libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # EINVAL: past the last one that this kernel knows
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    current = ctypes.create_string_buffer(24)
    syscall(number("capget"), header, ctypes.byref(current), what="capget")
    low, high = struct.unpack("6I", current.raw)[1::3]
    mask = sum(1 << capability for capability in wanted)
    low, high = low & mask, high & (mask >> 32)
    syscall(number("capset"), header, struct.pack("6I", low, low, 0, high, high, 0), what="capset")
    check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def limit(limits: dict[int, int]) -> None:
    """Lower resource limits (``resource.RLIMIT_*`` -> value), hard ones too; never raises one."""
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))
