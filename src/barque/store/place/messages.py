"""What the worker that looks into and fills build layers is asked, and what it answers."""

from __future__ import annotations

import msgspec

from barque.store.tar.messages import WorkerError


class Source(msgspec.Struct, frozen=True):
    """A tree to copy from: the layers of an image, topmost first, or the directory behind the descriptor ``fd``.

    ``named``: file digests are those of an image's files (docker hashes the owner's name and the type bits then).
    ``implicit``: directories that the archive of a context did not describe; docker has no digest of them.
    ``ignore``: what is left out of a client's own directory, None for every other tree (see place.view).
    """

    lower: list[str] = []
    fd: int = -1
    named: bool = False
    implicit: list[bytes] = []
    ignore: list[str] | None = None


class Pick(msgspec.Struct, frozen=True):
    """One source argument of COPY or ADD, relative to the tree ``source``.

    ``parents``: what stands before ``/./`` is left out of the names under the target. ``optional``: may be missing.
    """

    source: int
    pattern: str
    wildcard: bool = False
    parents: bool = False
    optional: bool = False
    exclude: list[str] = []


class Found(msgspec.Struct, frozen=True):
    """``path`` is resolved (links are followed), ``name`` as found; both relative to the tree, b"" is its root.

    ``digest``: ``file:<hex>`` or ``dir:<hex>``, over names, modes, owners and contents, but not over times.
    ``stamp``: changes with every change of a client's own files.
    """

    path: bytes
    name: bytes
    directory: bool
    digest: str
    stamp: int = 0


class SurveyRequest(msgspec.Struct, frozen=True):
    """``known``: digests of a client's own large files from earlier surveys, as :class:`SurveyResult` names them."""

    sources: list[Source]
    picks: list[Pick]
    known: dict[str, str] = {}


class SurveyResult(msgspec.Struct, frozen=True):
    """``found``: for each pick what it stands for, in docker's order.

    ``known``: digests of large files that need not be read again while inode, size and times stay what they are.
    """

    found: list[list[Found]] = []
    known: dict[str, str] = {}
    error: WorkerError | None = None


class Put(msgspec.Struct, frozen=True):
    """Copy ``path`` of ``source`` to ``target``, an absolute path; a trailing slash makes it a directory to put into.

    ``uid`` and ``gid`` -1 keep the source's; those of an archive's members are apart. ``chmod``: octal or symbolic, ""
    keeps. ``unpack``: an archive is unpacked, anything else copied, or refused with ``must_unpack``. ``under``: the
    name below ``target``, with parents as in the source. ``stamp``: the files must be as they were found.
    """

    source: int
    path: bytes
    name: bytes
    target: bytes
    uid: int = 0
    gid: int = 0
    chmod: str = ""
    unpack: bool = False
    must_unpack: bool = False
    under: bytes = b""
    exclude: list[str] = []
    archive_uid: int = -1
    archive_gid: int = -1
    stamp: int = 0


class PlaceRequest(msgspec.Struct, frozen=True):
    """Over ``lower`` (topmost first) change the layer ``upper``. ``directories`` are made with mode 0755 first.

    ``epoch``: no time in the layer is later than this, in seconds; -1 for no limit.
    """

    lower: list[str]
    upper: str
    work: str
    sources: list[Source] = []
    puts: list[Put] = []
    directories: list[bytes] = []
    uid: int = 0
    gid: int = 0
    epoch: int = -1


class PlaceResult(msgspec.Struct, frozen=True):
    copied: int = 0
    error: WorkerError | None = None


class Package(msgspec.Struct, frozen=True):
    """``kind`` as in package URLs: deb, apk, rpm, pypi, npm. ``origin``: the distribution. ``source``: what it was
    built from.
    """

    kind: str
    name: str
    version: str = ""
    architecture: str = ""
    origin: str = ""
    license: str = ""
    source: str = ""


class PackagesRequest(msgspec.Struct, frozen=True):
    source: Source


class PackagesResult(msgspec.Struct, frozen=True):
    packages: list[Package] = []
    error: WorkerError | None = None
