"""PAX extended headers: ``length key=value\\n`` records (POSIX.1-2017, pax, "pax Extended Header")."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from barque.store.tar.errors import FieldTooLong, InvalidHeader, Refused
from barque.store.tar.messages import Limits
from barque.store.tar.numbers import decimal

if TYPE_CHECKING:
    from barque.store.tar.reader import Entry

XATTR = "SCHILY.xattr."
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?\Z")
#: In a global header these would rename or re-cut every member; no tool writes them, and engines disagree about them.
_NEVER_GLOBAL = ("path", "linkpath", "size")
_TEXTS = ("path", "linkpath", "uname", "gname")


@dataclass(slots=True)
class Records:
    """``values``: the last value of each key; ``sparse``: the repeated pairs of GNU sparse format 0.0, in order."""

    values: dict[str, bytes] = field(default_factory=dict)
    sparse: list[tuple[str, bytes]] = field(default_factory=list)


def parse(data: bytes, limits: Limits) -> Records:
    """Raises :class:`InvalidHeader`, or :class:`FieldTooLong` for too long a sparse map."""
    records = Records()
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        if space < 0:
            raise InvalidHeader
        end = position + decimal(data[position:space])
        if not space + 3 < end <= len(data) or data[end - 1] != 0x0A:
            raise InvalidHeader
        key, separator, value = data[space + 1:end - 1].partition(b"=")
        if not key or not separator or b"\0" in key:
            raise InvalidHeader
        name = key.decode("utf-8", "surrogateescape")
        if name in _TEXTS and b"\0" in value:
            raise InvalidHeader
        if name in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            records.sparse.append((name, value))
            if len(records.sparse) > 2 * limits.sparse_entries:
                raise FieldTooLong
        records.values[name] = value
        position = end
    return records


def merge_global(shared: dict[str, bytes], records: Records) -> None:
    """Let a global header count for all members that follow it; an empty value ends an earlier one."""
    for key, value in records.values.items():
        if key in _NEVER_GLOBAL or key.startswith(("GNU.sparse.", XATTR)):
            raise Refused(f"archive/tar: global header with {key!r} refused")
        if value:
            shared[key] = value
        else:
            shared.pop(key, None)


def apply(entry: Entry, values: dict[str, bytes]) -> None:
    """Override the fields of ``entry``; an empty value means that the header block counts."""
    for key, value in values.items():
        if key.startswith(XATTR):
            entry.xattrs[key[len(XATTR):]] = value
        elif not value:
            continue
        elif key == "path":
            entry.name = value
        elif key == "linkpath":
            entry.link = value
        elif key == "size":
            entry.size = decimal(value)
        elif key == "uid":
            entry.uid = decimal(value)
        elif key == "gid":
            entry.gid = decimal(value)
        elif key == "mtime":
            entry.mtime = nanoseconds(value)


def nanoseconds(text: bytes) -> int:
    """A PAX time, such as ``1350244992.023960108`` or ``-1.5``; digits past the ninth are cut off."""
    match = _TIME.match(text)
    if match is None:
        raise InvalidHeader
    sign, seconds, fraction = match.groups()
    value = int(seconds) * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    return -value if sign else value
