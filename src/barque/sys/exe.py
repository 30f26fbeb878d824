"""The file of the running program, seen through another mount from now on, without an exec: prctl(2), PR_SET_MM_MAP."""

from __future__ import annotations

import ctypes
import errno
import os

from barque.sys.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_PROTECTION = {"r": 1, "w": 2, "x": 4}
_MAP_PRIVATE = 2
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_FAILED = ctypes.c_void_p(-1).value
#: Of struct prctl_mm_map (linux/prctl.h), and where proc(5)'s stat has it, counted from the field after the name.
_ADDRESSES = {"start_code": 23, "end_code": 24, "start_data": 42, "end_data": 43, "start_brk": 44, "brk": None,
              "start_stack": 25, "arg_start": 45, "arg_end": 46, "env_start": 47, "env_end": 48}

libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Map(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_uint64) for name in _ADDRESSES), ("auxv", ctypes.c_void_p),
                ("auxv_size", ctypes.c_uint32), ("exe_fd", ctypes.c_uint32))


def exchange(fd: int) -> None:
    """Make ``fd``, the program's file through another mount, that of /proc/self/exe and of all that is mapped of it.

    Only where Python is in a shared library: what is in the program's own file must not change meanwhile. Needs
    CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE. Raises OSError; then part of the memory may be the new mount's, which makes
    no difference.
    """
    if not os.path.samestat(os.fstat(fd), os.stat("/proc/self/exe")):
        raise OSError(errno.EINVAL, "not the file of the running program")
    parts = list(_parts())
    if any(start <= id(None) < start + size for start, size, _, _ in parts):
        raise OSError(errno.ENOTSUP, "Python is in the program's own file")
    for part in parts:
        _replace(*part, fd)
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    values = {name: libc.sbrk(0) if index is None else int(fields[index]) for name, index in _ADDRESSES.items()}
    memory = _Map(exe_fd=fd, **values)
    check(libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(memory), ctypes.c_ulong(ctypes.sizeof(memory)),
                     ctypes.c_ulong(0)), "prctl(PR_SET_MM_MAP)")


def _parts() -> Iterator[tuple[int, int, int, int]]:
    """Address, size, protection and offset of what is mapped of the program's file, which the kernel wants gone."""
    path = os.readlink("/proc/self/exe")
    with open("/proc/self/maps") as file:
        for line in file:
            addresses, rights, offset, _, _, *name = line.rstrip("\n").split(maxsplit=5)
            if name == [path]:
                start, end = (int(address, 16) for address in addresses.split("-"))
                yield start, end - start, sum(_PROTECTION.get(right, 0) for right in rights), int(offset, 16)


def _replace(start: int, size: int, protection: int, offset: int, fd: int) -> None:
    """Map the same part of ``fd`` there: made elsewhere and moved in one step, so that nothing is ever missing."""
    current = ctypes.string_at(start, size)
    changed = not current.startswith(os.pread(fd, size, offset))
    new = libc.mmap(None, size, protection | (_PROTECTION["w"] if changed else 0), _MAP_PRIVATE, fd, offset)
    if new == _FAILED:
        check(-1, "mmap")
    if changed:
        ctypes.memmove(new, current, size)
        check(libc.mprotect(new, size, protection), "mprotect")
    if libc.mremap(new, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, start) == _FAILED:
        check(-1, "mremap")
