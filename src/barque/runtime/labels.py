"""The labels of Linux security modules: an AppArmor profile or an SELinux label for the program to be executed.

Both are written to a file of procfs that must be the kernel's own (CVE-2019-16884), so it is opened while the host's
/proc is still there, and takes effect at the exec.
"""

from __future__ import annotations

import os
from functools import cache

from barque.sys import mounts

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/status"
#: Where several security modules are active the first is AppArmor's; the second belongs to the only, or first, one.
_APPARMOR_FILES = ("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec")
_SELINUX_FILES = ("/proc/self/attr/exec",)


@cache
def has_apparmor() -> bool:
    try:
        with open(_APPARMOR) as file:
            return file.read(1) == "Y"
    except FileNotFoundError:
        return False


@cache
def has_selinux() -> bool:
    return os.path.exists(_SELINUX)


class Labels:
    """What is to be written at the end, with the descriptors to write it to."""

    def __init__(self, apparmor: str, selinux: str) -> None:
        wanted: list[tuple[tuple[str, ...], str]] = [(_APPARMOR_FILES, f"exec {apparmor}")] if apparmor else []
        wanted += [(_SELINUX_FILES, selinux)] if selinux else []
        self._files = [(_open(paths), text) for paths, text in wanted]

    def apply(self) -> None:
        for fd, text in self._files:
            try:
                os.write(fd, text.encode())
            except OSError as error:
                raise OSError(error.errno, f"{os.strerror(error.errno or 0)} in write: cannot take label {text!r}") \
                    from None
            os.close(fd)


def _open(paths: tuple[str, ...]) -> int:
    path = next((path for path in paths if os.path.exists(path)), paths[-1])
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    if mounts.filesystem_type(fd) != mounts.PROC_MAGIC:
        raise OSError(1, f"{path} of the host is not on procfs")
    return fd
