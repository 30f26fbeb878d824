"""Kernel parameters of the container's own namespaces (config-linux.md#sysctl)."""

from __future__ import annotations

import os

from barque.runtime.step import ChildStep, Context
from barque.sys import mounts
from barque.sys.beneath import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    open_in_root,
)

_STRICT = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS

_OF_IPC = frozenset((
    "kernel.auto_msgmni", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
    "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"))


def namespace_of(key: str) -> str | None:
    """The kind of namespace (OCI's name) that ``key`` belongs to; ``None`` when it is the whole machine's."""
    if key in _OF_IPC or key.startswith("fs.mqueue."):
        return "ipc"
    if key.startswith("net."):
        return "network"
    if key in ("kernel.domainname", "kernel.hostname"):
        return "uts"
    if key.startswith("user."):
        return "user"
    return None


def normalize(key: str) -> str:
    """Dots between the names, whatever the document has (sysctl(8) takes slashes, too)."""
    first_dot, first_slash = key.find("."), key.find("/")
    if first_slash >= 0 and (first_dot < 0 or first_slash < first_dot):
        return key.replace(".", "\0").replace("/", ".").replace("\0", "/")
    return key


class WriteSysctls(ChildStep):
    """Write them through a procfs of our own that is never attached: nothing can have been mounted over its files."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def describe(self) -> str:
        return "write sysctls"

    def execute(self, context: Context) -> None:
        proc = mounts.make("proc")
        try:
            for key, value in self.values.items():
                path = normalize(key).replace("/", "\0").replace(".", "/").replace("\0", ".")
                fd = open_in_root(proc, f"sys/{path}", os.O_WRONLY, resolve=_STRICT)
                try:
                    os.write(fd, value.encode())
                except OSError as error:
                    text = f"{os.strerror(error.errno or 0)} in write"
                    raise OSError(error.errno, text, f"/proc/sys/{path}") from None
                finally:
                    os.close(fd)
        finally:
            os.close(proc)
