"""What a build may see of a tree: all of it, or a client's own directory without what ``.dockerignore`` names."""

from __future__ import annotations

import os
from collections.abc import Iterator

from barque.oci.patterns import Patterns
from barque.store.place.messages import Source
from barque.store.tree import walk

#: Stamps are added up; the sum over millions of files still fits into 63 bits.
_STAMP = (1 << 40) - 1


class View:
    """``direct``: the files are a client's own, where it has them. An archive of them would say of their owners that
    they are root's, would have no extended attributes and no sockets, and so it is here.

    ``implicit``: directories that such an archive does not describe.
    """

    def __init__(self, root: int, source: Source) -> None:
        self.direct = source.ignore is not None
        self._ignore = Patterns(source.ignore or ())
        self.implicit = frozenset(source.implicit)
        if self._ignore.takes_back:
            self.implicit = frozenset(self._passages(root))

    def _passages(self, root: int) -> Iterator[bytes]:
        """Directories that are left out themselves, but not all that is in them."""
        for _, parts, directories, others in walk(root):
            here = b"/".join(parts)
            if not here or not self._ignore.matches(os.fsdecode(here)):
                continue
            if any(not self._ignore.matches(os.fsdecode(here + b"/" + name)) for name in (*directories, *others)):
                yield from (b"/".join(parts[:length]) for length in range(1, len(parts) + 1)
                            if self._ignore.matches(os.fsdecode(b"/".join(parts[:length]))))

    def hides(self, path: bytes) -> bool:
        if not path or not self._ignore or path in self.implicit:
            return False
        return self._ignore.matches(os.fsdecode(path))

    def walk(self, top: int, prefix: bytes = b"") -> Iterator[tuple[int, tuple[bytes, ...], list[bytes], list[bytes]]]:
        """As ``tree.walk``, of what is not hidden; ``prefix`` is the path of ``top``."""
        if not self._ignore:
            return walk(top)
        before = prefix + b"/" if prefix else b""
        return walk(top, lambda path: not self.hides(before + path))

    def stamp(self, info: os.stat_result) -> int:
        """A number that changes when the file does; 0 where nobody but the builder can change it."""
        if not self.direct:
            return 0
        return hash((info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)) & _STAMP
