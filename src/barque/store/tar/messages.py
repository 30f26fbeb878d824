"""What the confined workers are asked and what they answer, as MessagePack (it carries names that are not UTF-8)."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


class Limits(msgspec.Struct, frozen=True):
    """Where an archive stops being sane. Sizes in bytes."""

    entries: int = 5_000_000
    size: int = 1 << 40
    header: int = 1 << 20
    sparse_entries: int = 65_536


class WorkerError(msgspec.Struct, frozen=True):
    """Why a worker failed. ``kind``: "invalid" (the input is at fault), "space" (the disk is full), "system"."""

    kind: str
    message: str
    stage: str = ""
    errno: int = 0
    path: bytes = b""


class UnpackRequest(msgspec.Struct, frozen=True):
    """fds: the source (file or pipe with the compressed tar), the directory to unpack into.

    ``compression``: "none", "gzip", "zstd"; what the stream starts with wins over it. An empty ``expected_diff_id`` is
    not checked. ``whiteouts=False`` unpacks a plain archive, in which ``.wh.`` names mean nothing.
    """

    compression: str = ""
    expected_diff_id: str = ""
    limits: Limits = Limits()
    whiteouts: bool = True


class ForeignLink(msgspec.Struct, frozen=True):
    """A hard link whose target lies in a lower layer; both paths are relative to the root."""

    path: bytes
    target: bytes


class UnpackResult(msgspec.Struct, frozen=True):
    """``size``: bytes of file contents. ``implicit_dirs``: directories that no entry describes (b"" is the root).

    ``cut``: the root itself is opaque. With ``error`` set the rest says nothing.
    """

    diff_id: str = ""
    size: int = 0
    entries: int = 0
    implicit_dirs: list[bytes] = []
    foreign_links: list[ForeignLink] = []
    cut: bool = False
    error: WorkerError | None = None


class CopyUpRequest(msgspec.Struct, frozen=True):
    """fds: the volume's directory, and where it is filled from another one, that one's. Else ``lower`` are the layers,
    topmost first, and ``path`` is the image's directory.
    """

    lower: list[str] = []
    path: bytes = b""


class CopyUpResult(msgspec.Struct, frozen=True):
    copied: int = 0
    error: WorkerError | None = None


class PackRequest(msgspec.Struct, frozen=True):
    """fds: a directory, where to write its archive to. ``name`` is what the directory is called in there."""

    name: bytes


class PackResult(msgspec.Struct, frozen=True):
    error: WorkerError | None = None


class RemoveRequest(msgspec.Struct, frozen=True):
    """fds: the directory in which ``names`` are deleted with all that is in them."""

    names: list[bytes]


class RemoveResult(msgspec.Struct, frozen=True):
    error: WorkerError | None = None


def encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def decode(data: bytes, kind: type[S]) -> S:
    return msgspec.msgpack.decode(data, type=kind)
