"""The labels of Linux security modules: an AppArmor profile or an SELinux label for the program to be executed.

Both are written to a file of procfs that must be the kernel's own (CVE-2019-16884), so it is opened while the host's
/proc is still there, and takes effect at the exec.
"""

from __future__ import annotations

import errno
import os
from functools import cache

from barque.runtime.failure import RuntimeFailure
from barque.sys import mounts

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/status"
#: Where several security modules are active the first is AppArmor's; the second belongs to the only, or first, one.
_APPARMOR_FILES = ("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec")
_SELINUX_FILES = ("/proc/self/attr/exec",)
_KEYRING_FILES = ("/proc/self/attr/keycreate",)


@cache
def has_apparmor() -> bool:
    try:
        with open(_APPARMOR) as file:
            return file.read(1) == "Y"
    except FileNotFoundError:
        return False


@cache
def has_selinux() -> bool:
    """Whether a policy is loaded: until then everything is labelled "kernel"."""
    if not os.path.exists(_SELINUX):
        return False
    with open("/proc/self/attr/current", "rb") as file:
        return file.read().rstrip(b"\0\n") != b"kernel"


class Labels:
    """What is to be written at the end, with the descriptors to write it to; an SELinux label is the new session
    keyring's, too.
    """

    def __init__(self, apparmor: str, selinux: str, *, keyring: bool) -> None:
        self._apparmor = (_open(_APPARMOR_FILES), apparmor) if apparmor else None
        self._selinux = (_open(_SELINUX_FILES), selinux) if selinux else None
        self._keyring = (_open(_KEYRING_FILES), selinux) if selinux and keyring else None

    def apply_to_keyring(self) -> None:
        """To be called before a keyring is made. An exec resets it."""
        if self._keyring is not None:
            _write(*self._keyring, "cannot label the session keyring {!r}")

    def apply(self) -> None:
        if self._apparmor is not None:
            fd, profile = self._apparmor
            try:
                _write(fd, f"exec {profile}", "cannot take the AppArmor profile {!r}", profile)
            except FileNotFoundError as error:
                raise RuntimeFailure("label", syscall="write", errno=errno.ENOENT, path=profile, detail=(
                    f"unable to apply apparmor profile: {profile!r} is not loaded on this host")) from error
        if self._selinux is not None:
            _write(*self._selinux, "cannot take the SELinux label {!r}")


def _write(fd: int, text: str, complaint: str, named: str = "") -> None:
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)} in write: {complaint.format(named or text)}"
                      ) from None
    os.close(fd)


def _open(paths: tuple[str, ...]) -> int:
    path = next((path for path in paths if os.path.exists(path)), paths[-1])
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    if mounts.filesystem_type(fd) != mounts.PROC_MAGIC:
        raise OSError(1, f"{path} of the host is not on procfs")
    return fd
