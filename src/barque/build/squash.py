"""``--squash``: the layers that a build has made over its base become one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from msgspec.structs import replace as with_fields

from barque.build import clock
from barque.build.layers import chain
from barque.build.parts import Site
from barque.build.state import State
from barque.store.mend import Layers
from barque.store.tar.diff import is_opaque, write_directory, write_member
from barque.store.tar.directories import is_whiteout
from barque.store.tar.reader import REGULAR, Entry
from barque.store.tar.writer import Writer
from barque.store.tree import walk
from barque.sys.beneath import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_in_root

_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


async def squashed(site: Site, base: State, state: State) -> State:
    """``state`` with one layer over ``base``; its history stays, as that of steps without layers: docker's way."""
    fresh = len(state.diff_ids) - len(base.diff_ids)
    if fresh < 1:
        return state
    layers = site.parts.layers
    lower = await layers.snapshots.image_lower(base.chain_id)
    tops = [(await layers.snapshots.image_lower(link))[0] for link in _links(base, state)]
    layer = await layers.write(site.lease, site.parts.workers, base.chain_id, lambda write: merge(tops, lower, write))
    known = len(base.history)
    history = (*state.history[:known], *(with_fields(entry, empty_layer=True) for entry in state.history[known:]))
    flat = replace(state, layers=base.layers, diff_ids=base.diff_ids, chain_id=base.chain_id, history=history)
    comment = f"merge {state.image_id} to {base.image_id}" if base.image_id else f"create new from {state.image_id}"
    return flat.stepped(clock.rfc3339(clock.now_or(site.options.epoch)), "", layer, comment)


def _links(base: State, state: State) -> Iterator[str]:
    """The chain ids of the layers over ``base``, bottom first."""
    link = base.chain_id
    for diff_id in state.diff_ids[len(base.diff_ids):]:
        link = chain(link, diff_id)
        yield link


@dataclass
class _Node:
    """What stands at a path: from which layer, and what is below it. A whiteout has no layer (-1)."""

    layer: int
    opaque: bool = False
    children: dict[bytes, _Node] | None = None

    def child(self, name: bytes) -> _Node | None:
        return (self.children or {}).get(name)


def merge(tops: Sequence[str], lower: Sequence[str], write: Callable[[bytes], object]) -> int:
    """Write the archive of what the layers ``tops`` (bottom first) together make of ``lower`` (topmost first).

    Returns the bytes of file contents. Blocks; raises OSError.
    """
    with ExitStack() as stack:
        fds = [stack.enter_context(_opened(path)) for path in tops]
        root = _Node(0, children={})
        for number, fd in enumerate(fds):
            _lay(root, number, fd)
        writer = Writer(write)
        size = _Merged(fds, stack.enter_context(Layers(lower)), writer).run(root)
        writer.close()
    return size


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _lay(root: _Node, number: int, top: int) -> None:
    """Put one more layer over what is there."""
    for fd, path, _, others in walk(top):
        node = root
        for name in path[:-1]:
            found = node.child(name)
            assert found is not None  # parents come first
            node = found
        if path:
            assert node.children is not None
            node = _directory(node.children, path[-1], number)
        if is_opaque(fd):
            node.opaque, node.children = True, {}
        assert node.children is not None
        for name in others:
            gone = is_whiteout(os.lstat(name, dir_fd=fd))
            node.children[name] = _Node(-1 if gone else number)


def _directory(siblings: dict[bytes, _Node], name: bytes, number: int) -> _Node:
    known = siblings.get(name)
    if known is None:
        known = siblings[name] = _Node(number, children={})
    elif known.children is None:  # what hid the directory of the base once hides its content for good
        known = siblings[name] = _Node(number, opaque=True, children={})
    known.layer = number
    return known


@dataclass
class _Merged:
    fds: Sequence[int]
    below: Layers
    writer: Writer
    links: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def run(self, root: _Node) -> int:
        """Write everything below ``root``; the bytes of contents."""
        size = 0
        pending = [(root, b"")]
        while pending:
            node, prefix = pending.pop()
            size += self._directory(node, prefix)
            inner = [(child, prefix + name + b"/") for name, child in (node.children or {}).items()
                     if child.children is not None]
            pending += sorted(inner, key=lambda item: item[1], reverse=True)
        return size

    def _directory(self, node: _Node, prefix: bytes) -> int:
        """Write a directory and what is no directory in it."""
        size = 0
        with ExitStack() as stack:
            opened: dict[int, int] = {}

            def at(layer: int) -> int:
                if layer not in opened:
                    opened[layer] = open_in_root(self.fds[layer], prefix or b".", _DIRECTORY, resolve=_INSIDE)
                    stack.callback(os.close, opened[layer])
                return opened[layer]

            if prefix:
                write_directory(self.writer, at(node.layer), prefix)
            if node.opaque and self._is_below(prefix):
                self.writer.add(Entry(prefix + b".wh..wh..opq", REGULAR))
            for name, child in sorted((node.children or {}).items(), key=lambda item: item[0]):
                if child.children is not None:
                    continue
                if child.layer >= 0:
                    size += write_member(self.writer, at(child.layer), prefix, name, self.links)
                elif not node.opaque and self._is_below(prefix + name):
                    self.writer.add(Entry(prefix + b".wh." + name, REGULAR))
        return size

    def _is_below(self, path: bytes) -> bool:
        found = self.below.find(path)
        if found is None:
            return False
        os.close(found)
        return True
