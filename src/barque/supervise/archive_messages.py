"""What the worker that reads and writes files of a container is asked, and what it answers (MessagePack)."""

from __future__ import annotations

import msgspec

from barque.store.tar.messages import WorkerError


class Volume(msgspec.Struct, frozen=True):
    """A directory or file of the host that the container sees at ``destination``."""

    source: str
    destination: str
    writable: bool


class View(msgspec.Struct, frozen=True):
    """Which files. Of a container that runs: those that it sees itself, where ``namespace`` is the descriptor of its
    mount namespace. Else the layers (``lower``: topmost first) with its volumes.
    """

    namespace: int = -1
    lower: list[str] = []
    upper: str = ""
    work: str = ""
    volumes: list[Volume] = []


class StatRequest(msgspec.Struct, frozen=True):
    view: View
    path: bytes


class StatResult(msgspec.Struct, frozen=True):
    """``mode`` is st_mode; ``mtime`` nanoseconds; ``link`` where a link finally leads, absolute in the container."""

    name: bytes = b""
    size: int = 0
    mode: int = 0
    mtime: int = 0
    link: bytes = b""
    error: WorkerError | None = None


class ReadRequest(msgspec.Struct, frozen=True):
    """Write the tar archive of ``path`` into the descriptor ``output``; ``whole``: the root file system alone."""

    view: View
    path: bytes
    output: int
    whole: bool = False


class WriteRequest(msgspec.Struct, frozen=True):
    """Unpack the archive that comes from the descriptor ``source`` into the directory ``path``.

    ``keep_kinds``: no directory takes the place of something else, nor the reverse. ``owner``: as docker writes a user;
    what is unpacked belongs to it.
    """

    view: View
    path: bytes
    source: int
    keep_kinds: bool = False
    owner: str = ""


class Result(msgspec.Struct, frozen=True):
    error: WorkerError | None = None
