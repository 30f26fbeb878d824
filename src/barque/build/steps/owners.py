"""``--chown=user:group``: names are those of the image that is being built."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from barque.errors import InvalidArgument
from barque.store.mend import Layers

_MAX_FILE = 16 << 20
_MAX_ID = (1 << 32) - 2


class UnknownOwner(InvalidArgument):
    text = ("unable to convert uid/gid chown string to host mapping: can't find {kind} for {what} {name}: no such "
            "{what}: {name}")


@dataclass(frozen=True)
class Owner:
    """-1 keeps what the source has."""

    uid: int
    gid: int


def resolve(lower: Sequence[str], text: str) -> Owner:
    """``text`` is ``user``, ``user:group``, numbers or names; a number alone is the group too, as with docker.

    Raises :class:`UnknownOwner`.
    """
    user, colon, group = text.partition(":")
    if colon and ":" in group:
        raise InvalidArgument(f"invalid chown string format: {text}")
    uid, default_gid = _user(lower, user)
    if colon and group:
        return Owner(uid, _number(group) if group.isdecimal() else _group(lower, group))
    return Owner(uid, default_gid)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > _MAX_ID:
        raise InvalidArgument(f"invalid chown id: {text}")
    return int(text)


def _user(lower: Sequence[str], name: str) -> tuple[int, int]:
    if name.isdecimal():
        return _number(name), _number(name)
    if not name:
        return 0, 0
    for fields in _records(lower, b"etc/passwd", 4):
        if fields[0] == name.encode() and fields[2].isdigit() and fields[3].isdigit():
            return _number(fields[2].decode()), _number(fields[3].decode())
    raise UnknownOwner(kind="uid", what="user", name=name)


def _group(lower: Sequence[str], name: str) -> int:
    for fields in _records(lower, b"etc/group", 3):
        if fields[0] == name.encode() and fields[2].isdigit():
            return _number(fields[2].decode())
    raise UnknownOwner(kind="gid", what="group", name=name)


def _records(lower: Sequence[str], path: bytes, width: int) -> list[list[bytes]]:
    """The lines of a file of the image; only a regular one of sane size is read (CVE-2024-9676)."""
    with Layers(lower) as layers:
        found = layers.find(path)
        if found is None:
            return []
        try:
            info = os.fstat(found)
            if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_FILE:
                return []
            with open(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
                lines = file.read(_MAX_FILE).splitlines()
        finally:
            os.close(found)
    return [fields for fields in (line.split(b":") for line in lines) if len(fields) >= width]
