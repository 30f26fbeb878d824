"""Mount options of the OCI document (mount(8) words), sorted into what the kernel wants to hear where."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from barque.sys import mounts

_ATTRIBUTES = {
    "ro": (mounts.ATTR_RDONLY, 0), "rw": (0, mounts.ATTR_RDONLY),
    "nosuid": (mounts.ATTR_NOSUID, 0), "suid": (0, mounts.ATTR_NOSUID),
    "nodev": (mounts.ATTR_NODEV, 0), "dev": (0, mounts.ATTR_NODEV),
    "noexec": (mounts.ATTR_NOEXEC, 0), "exec": (0, mounts.ATTR_NOEXEC),
    "noatime": (mounts.ATTR_NOATIME, mounts.ATTR_ATIME), "atime": (0, mounts.ATTR_ATIME),
    "relatime": (0, mounts.ATTR_ATIME), "norelatime": (mounts.ATTR_STRICTATIME, mounts.ATTR_ATIME),
    "strictatime": (mounts.ATTR_STRICTATIME, mounts.ATTR_ATIME), "nostrictatime": (0, mounts.ATTR_ATIME),
    "nodiratime": (mounts.ATTR_NODIRATIME, 0), "diratime": (0, mounts.ATTR_NODIRATIME),
    "nosymfollow": (mounts.ATTR_NOSYMFOLLOW, 0), "symfollow": (0, mounts.ATTR_NOSYMFOLLOW),
}
PROPAGATIONS = {"private": mounts.PROPAGATION_PRIVATE, "slave": mounts.PROPAGATION_SLAVE,
                 "shared": mounts.PROPAGATION_SHARED, "unbindable": mounts.PROPAGATION_UNBINDABLE}
#: The default state in other words, and what no kernel heeds any more.
_NOTHING = ("defaults", "async", "nomand", "nolazytime", "loud", "silent", "iversion", "noiversion")
_REFUSED = ("remount", "move")
_OF_A_ROOT = ("mode", "uid", "gid", "size")

#: Most containers have the same few mounts.
_CACHED = 256

_OF_A_MOUNT = ("bind", "rbind", "idmap", "ridmap", "tmpcopyup")
#: All but those of file systems; ``sync`` and its like are flags of every file system.
WORDS = (*_OF_A_MOUNT, *_ATTRIBUTES, *(f"r{word}" for word in _ATTRIBUTES), *PROPAGATIONS,
         *(f"r{word}" for word in PROPAGATIONS), *_NOTHING, "sync", "dirsync", "lazytime")


class Propagation(msgspec.Struct, frozen=True):
    kind: int
    recursive: bool


class Options(msgspec.Struct, frozen=True):
    """``add``/``clear`` are attributes of the top mount, ``deep_*`` of all beneath too, ``data`` of the file system."""

    add: int
    clear: int
    deep_add: int
    deep_clear: int
    bind: bool
    recursive_bind: bool
    propagations: tuple[Propagation, ...]
    data: tuple[tuple[str, str | None], ...]
    idmap: bool
    recursive_idmap: bool
    copy_up: bool

    def without_attributes(self) -> Options:
        """For a mount that has its attributes already."""
        return msgspec.structs.replace(self, add=0, clear=0)

    def has(self, key: str) -> bool:
        return any(name == key for name, _ in self.data)


def propagation(word: str) -> Propagation | None:
    """``rslave`` and the like; ``None`` for any other word."""
    if word in PROPAGATIONS:
        return Propagation(PROPAGATIONS[word], False)
    if word.startswith("r") and word[1:] in PROPAGATIONS:
        return Propagation(PROPAGATIONS[word[1:]], True)
    return None


def parse(words: Sequence[str]) -> Options:
    """Sort ``words``; a later word overrides an earlier one. Raises ValueError for what cannot be honoured."""
    return _parse(tuple(words))


@lru_cache(_CACHED)
def _parse(words: tuple[str, ...]) -> Options:
    masks = {"": [0, 0], "r": [0, 0]}
    propagations: list[Propagation] = []
    data: list[tuple[str, str | None]] = []
    seen = set(words)
    for word in words:
        depth, attribute = ("", word) if word in _ATTRIBUTES else (word[:1], word[1:])
        if attribute in _ATTRIBUTES and depth in masks:
            add, clear = _ATTRIBUTES[attribute]
            mask = masks[depth]
            mask[0] = mask[0] & ~clear | add
            mask[1] = mask[1] & ~add | clear
        elif found := propagation(word):
            propagations.append(found)
        elif word in _REFUSED:
            raise ValueError(f"mount option {word!r} is not supported")
        elif word not in _NOTHING and word not in _OF_A_MOUNT:
            key, equals, value = word.partition("=")
            data.append((key, value if equals else None))
    return Options(masks[""][0], masks[""][1], masks["r"][0], masks["r"][1], bool(seen & {"bind", "rbind"}),
                   "rbind" in seen, tuple(propagations), tuple(data), bool(seen & {"idmap", "ridmap"}),
                   "ridmap" in seen, "tmpcopyup" in seen)


def bind_leftovers(options: Options) -> list[str]:
    """Words that mean nothing to a bind mount, which has no file system of its own to tell them to.

    Those that say what a new file system's root is like are passed over, as the kernel does: what is bound has a mode
    and an owner, and engines name them here out of habit.
    """
    return [key if value is None else f"{key}={value}" for key, value in options.data if key not in _OF_A_ROOT]

