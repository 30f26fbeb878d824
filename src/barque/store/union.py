"""The files that a stack of layers shows, worked out without mounting it: what each layer adds, replaces and deletes.

The layers are directories in overlayfs's form (whiteouts are devices 0/0, opaque directories have an attribute).
Nothing is opened by a path that a stranger chose, and no link is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from barque.store.tar.directories import OPAQUE, is_whiteout
from barque.store.tree import walk
from barque.sys.beneath import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_in_root
from barque.sys.xattr import get_all

ADDED, REPLACED, DELETED = "added", "replaced", "deleted"
_BLOCK = 1 << 20
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


@dataclass(slots=True)
class Node:
    """What is shown at a path. ``layer`` counts from 0 at the bottom; ``children`` is None for all but directories.

    ``size``: bytes of content; 0 for further names of a file that was counted.
    """

    layer: int
    mode: int = stat.S_IFDIR | 0o755
    owner: tuple[int, int] = (0, 0)
    size: int = 0
    length: int = 0
    link: bytes = b""
    device: int = 0
    children: dict[bytes, Node] | None = None

    def files(self, path: bytes) -> Iterator[tuple[bytes, Node]]:
        """What is no directory, here and below."""
        if self.children is None:
            yield path, self
        for name, child in (self.children or {}).items():
            yield from child.files(path + b"/" + name)


@dataclass(frozen=True)
class Change:
    """``size``: bytes that came with it, or of a deletion those that it hides."""

    kind: str
    path: bytes
    size: int


@dataclass
class LayerChanges:
    """``wasted``: bytes of lower layers that nobody sees any more because of this one."""

    changes: list[Change] = field(default_factory=list)
    wasted: int = 0

    def count(self, kind: str) -> tuple[int, int]:
        """How many files, and how many bytes."""
        sizes = [change.size for change in self.changes if change.kind == kind]
        return len(sizes), sum(sizes)


class Union:
    """Layers are added bottom first."""

    def __init__(self) -> None:
        self.root = Node(0, children={})
        self.directories: list[str] = []

    def add(self, directory: str) -> LayerChanges:
        """Lay the layer unpacked at ``directory`` over the others; raises OSError. Blocks."""
        found = LayerChanges()
        number = len(self.directories)
        self.directories.append(directory)
        seen: set[tuple[int, int]] = set()
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for fd, path, _, others in walk(top):
                prefix = b"".join(b"/" + part for part in path)
                node = self._enter(path, number, os.fstat(fd), found)
                children = node.children
                assert children is not None
                if get_all(fd, b".").get(OPAQUE) == b"y":
                    for name in list(children):
                        _hide(found, prefix + b"/" + name, children.pop(name))
                for name in others:
                    self._file(fd, name, prefix + b"/" + name, children, number, seen, found)
        finally:
            os.close(top)
        return found

    def _enter(self, path: tuple[bytes, ...], number: int, info: os.stat_result, found: LayerChanges) -> Node:
        node = self.root
        for depth, name in enumerate(path):
            assert node.children is not None
            child = node.children.get(name)
            if child is None or child.children is None:
                if child is not None:
                    _hide(found, b"".join(b"/" + part for part in path[:depth + 1]), child)
                child = node.children[name] = Node(number, children={})
            node = child
        node.layer, node.mode, node.owner = number, info.st_mode, (info.st_uid, info.st_gid)
        return node

    @staticmethod
    def _file(fd: int, name: bytes, path: bytes, children: dict[bytes, Node], number: int,
              seen: set[tuple[int, int]], found: LayerChanges) -> None:
        info = os.lstat(name, dir_fd=fd)
        before = children.pop(name, None)
        if is_whiteout(info):
            if before is not None:
                _hide(found, path, before)
            return
        identity = info.st_dev, info.st_ino
        length = info.st_size if stat.S_ISREG(info.st_mode) else 0
        size = 0 if identity in seen else length
        if info.st_nlink > 1:
            seen.add(identity)
        link = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(info.st_mode) else b""
        children[name] = Node(number, info.st_mode, (info.st_uid, info.st_gid), size, length, link, info.st_rdev)
        if before is not None and before.children is None:
            found.wasted += before.size
        elif before is not None:
            _hide(found, path, before)
        found.changes.append(Change(ADDED if before is None else REPLACED, path, size))


def _hide(found: LayerChanges, path: bytes, node: Node) -> None:
    for below, file in node.files(path):
        found.wasted += file.size
        found.changes.append(Change(DELETED, below, file.size))


@dataclass(frozen=True)
class Difference:
    """``before`` and ``after``: bytes; -1 where there is nothing. ``what``: "content", "mode", "owner", "type",
    "attributes", several with commas, for what is in both.
    """

    path: bytes
    before: int
    after: int
    what: str = ""


def differences(one: Union, other: Union) -> Iterator[Difference]:
    """What is in one of two images, or differs between them, ordered by path. Times do not count. Blocks."""
    yield from _compare(one, other, one.root, other.root, b"")


def _compare(one: Union, other: Union, first: Node, second: Node, path: bytes) -> Iterator[Difference]:
    same = one.directories[first.layer:first.layer + 1] == other.directories[second.layer:second.layer + 1]
    what = [] if same else list(_different(one, other, first, second, path))
    if what:
        yield Difference(path or b"/", first.length, second.length, ",".join(what))
    below, beside = first.children or {}, second.children or {}
    for name in sorted(below.keys() | beside.keys()):
        child, twin, where = below.get(name), beside.get(name), path + b"/" + name
        if child is not None and twin is not None:
            yield from _compare(one, other, child, twin, where)
            continue
        if child is not None:
            yield from (Difference(each, node.length, -1) for each, node in _all(child, where))
        if twin is not None:
            yield from (Difference(each, -1, node.length) for each, node in _all(twin, where))


def _all(node: Node, path: bytes) -> Iterator[tuple[bytes, Node]]:
    yield path, node
    for name, child in sorted((node.children or {}).items()):
        yield from _all(child, path + b"/" + name)


def _different(one: Union, other: Union, first: Node, second: Node, path: bytes) -> Iterator[str]:
    if stat.S_IFMT(first.mode) != stat.S_IFMT(second.mode):
        yield "type"
        return
    if (first.length, first.link, first.device) != (second.length, second.link, second.device) or (
            stat.S_ISREG(first.mode) and _digest(one, first, path) != _digest(other, second, path)):
        yield "content"
    if stat.S_IMODE(first.mode) != stat.S_IMODE(second.mode):
        yield "mode"
    if first.owner != second.owner:
        yield "owner"
    if _attributes(one, first, path) != _attributes(other, second, path):
        yield "attributes"


def _parent(union: Union, node: Node, path: bytes) -> int:
    """The directory of ``path`` in the layer that shows it; the caller closes it."""
    top = os.open(union.directories[node.layer], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(top, path.rpartition(b"/")[0].lstrip(b"/") or b".", os.O_PATH | os.O_DIRECTORY,
                            resolve=_BENEATH)
    finally:
        os.close(top)


def _digest(union: Union, node: Node, path: bytes) -> bytes:
    parent = _parent(union, node, path)
    try:
        fd = os.open(path.rpartition(b"/")[2], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                     dir_fd=parent)
    finally:
        os.close(parent)
    state = hashlib.sha256()
    try:
        while block := os.read(fd, _BLOCK):
            state.update(block)
    finally:
        os.close(fd)
    return state.digest()


def _attributes(union: Union, node: Node, path: bytes) -> dict[str, bytes]:
    parent = _parent(union, node, path)
    try:
        found = get_all(parent, path.rpartition(b"/")[2] or b".")
    finally:
        os.close(parent)
    return {key: value for key, value in found.items() if not key.startswith("trusted.overlay.")}
