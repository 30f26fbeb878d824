"""SELinux labels of containers: taken from the host's policy, told apart by two categories (lxc_contexts(5))."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from barque.errors import InvalidArgument, Unavailable
from barque.runtime import labels

_CONFIG = "/etc/selinux/config"
_CATEGORIES = 1024
_FIELDS = ("user", "role", "type", "level")
_DISABLE = "disable"
#: Whose labels the host lives by; docker refuses the same.
_NEVER_RELABELLED = frozenset((
    "/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64",
    "/media", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
    "/var/log"))


class NoSelinux(Unavailable):
    text = "--selinux-enabled: SELinux is not enabled on this host"


class NoContexts(Unavailable):
    text = "SELinux is enabled on this host, but its policy says nothing of containers: {reason}"


class Labels(msgspec.Struct, frozen=True):
    """Of a container's processes, and of its files."""

    process: str
    mount: str


class _Context(msgspec.Struct):
    user: str
    role: str
    type: str
    #: Empty where the policy knows no levels.
    level: str

    @classmethod
    def of(cls, text: str) -> _Context:
        parts = text.split(":", 3)
        if len(parts) < len(_FIELDS) - 1:
            raise NoContexts(reason=f"{text!r} is no context")
        return cls(*parts, *[""] * (len(_FIELDS) - len(parts)))

    def __str__(self) -> str:
        return ":".join(filter(None, (self.user, self.role, self.type, self.level)))


def check_label(option: str) -> None:
    """Raises InvalidArgument unless ``option`` is what may follow ``label=``."""
    name, colon, value = option.partition(":")
    if option != _DISABLE and (name not in (*_FIELDS, "filetype") or not colon or not value):
        raise InvalidArgument(f'bad label option "{name}", valid options '
                              "'disable, user, role, level, type, filetype'")


def check_host() -> None:
    """Raises :class:`NoSelinux` or :class:`NoContexts` where containers cannot have labels."""
    if not labels.has_selinux():
        raise NoSelinux
    of_host()


def of_host(config: str = _CONFIG) -> Labels:
    """The contexts of containers in the policy that the host has chosen; raises :class:`NoContexts`."""
    try:
        chosen = _assignments(config).get("SELINUXTYPE", "targeted")
        found = _assignments(f"{os.path.dirname(config)}/{chosen}/contexts/lxc_contexts")
        return Labels(found["process"], found["file"])
    except OSError as error:
        raise NoContexts(reason=f"{error.filename}: {os.strerror(error.errno or 0).lower()}") from None
    except KeyError as error:
        raise NoContexts(reason=f"lxc_contexts has no line for {error}") from None


def _assignments(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8") as file:
        pairs = (line.partition("=") for line in file if "=" in line and not line.lstrip().startswith("#"))
        return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def choose(host: Labels, options: Iterable[str], taken: Collection[str]) -> Labels:
    """Labels for a container with the values of ``--security-opt label=``; no other one has the level of ``taken``."""
    process, mount = _Context.of(host.process), _Context.of(host.mount)
    if process.level:
        process.level = mount.level = _free_level(process.level.partition(":")[0], taken)
    for option in options:
        name, _, value = option.partition(":")
        if name == _DISABLE:
            return Labels("", host.mount)
        if name == "filetype":
            mount.type = value
            continue
        setattr(process, name, value)
        if name in ("level", "user"):
            setattr(mount, name, value)
    return Labels(str(process), str(mount))


def level_of(label: str) -> str:
    return _Context.of(label).level if label else ""


def same_as(label: str) -> list[str]:
    """The options that make a label the same as ``label``: of a container whose IPC or PID namespace is shared."""
    context = _Context.of(label)
    return [f"{name}:{value}" for name in _FIELDS if (value := getattr(context, name))]


def _free_level(sensitivity: str, taken: Collection[str]) -> str:
    while True:
        low, high = sorted(random.sample(range(_CATEGORIES), 2))
        if (level := f"{sensitivity}:c{low},c{high}") not in taken:
            return level


def relabel(path: str, label: str, *, shared: bool) -> None:
    """Give ``path`` and all below it the label of a container, or with ``shared`` one that all containers may use.

    No link below it is followed. Raises InvalidArgument for a path that the host itself lives by; a file system
    without labels is left alone.
    """
    path = os.path.realpath(path)
    if path in _NEVER_RELABELLED:
        raise InvalidArgument(f"SELinux relabeling of {path} is not allowed")
    context = _Context.of(label)
    if shared and context.level:
        context.level = context.level.partition(":")[0]
    value = str(context).encode()
    if not os.path.isdir(path):
        _set(path, value)
        return
    for _, folders, files, folder in os.fwalk(path, follow_symlinks=False):
        _set(f"/proc/self/fd/{folder}", value, follow=True)
        links = [name for name in folders if os.path.islink(f"/proc/self/fd/{folder}/{name}")]
        for name in (*files, *links):
            _set(f"/proc/self/fd/{folder}/{name}", value)


def _set(path: str, value: bytes, *, follow: bool = False) -> None:
    try:
        with suppress(FileNotFoundError):
            os.setxattr(path, "security.selinux", value, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
