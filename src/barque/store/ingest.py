"""One blob on its way into the content store.

Order (each step has a failpoint): bytes into ``ingest/<algorithm>-<hex>``, digest and size verified, fsync of the file,
rename to ``blobs/<algorithm>/<hex>``, fsync of that directory, then the row. A crash before the row leaves a file that
the next try overwrites or boot removes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from barque.errors import DataLoss, Internal
from barque.failpoints import hit
from barque.oci.descriptor import Descriptor
from barque.store.threads import to_the_end
from barque.sys.fsync import fsync_dir, start_writeback

if TYPE_CHECKING:
    from typing import Self

_REHASH_BLOCK = 1 << 20
_WRITEBACK = 8 << 20


class DigestMismatch(DataLoss):
    text = "failed to verify digest: expected {expected}, got {actual}"


class SizeMismatch(DataLoss):
    text = "{digest}: expected {expected} bytes, got {actual}"


class WriteFailed(Internal):
    """``errno`` says why; after ENOSPC the partial file is dropped, so that the space comes back."""

    text = "write {path}: {reason}"

    @property
    def errno(self) -> int:
        return int(str(self.fields["errno"]))


class Ingest:
    """An async context manager made by ``ContentStore.ingest``; leaving it without :meth:`commit` keeps the bytes.

    ``offset`` is how many bytes are there already: 0, the length of an earlier broken try, or the whole size when the
    blob is stored (``exists``); the writer goes on from there. ``path`` is the partial file.
    """

    def __init__(self, expected: Descriptor, path: str, target: str, exists: bool,
                 record: Callable[[Descriptor], Awaitable[None]], release: Callable[[], None]) -> None:
        self.expected = expected
        self.path = path
        self.exists = exists
        self.offset = 0
        self._target = target
        self._record = record
        self._release = release
        self._hash = hashlib.new(expected.checked_digest.algorithm)
        self._fd = -1
        self._unsent = 0  # bytes that the disk was not yet told to begin with
        self._failed = False

    async def start(self) -> None:
        """Open the partial file and hash what it has. Called by the store."""
        if self.exists:
            self.offset = self.expected.size
        else:
            await to_the_end(self._open)

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if os.fstat(self._fd).st_size > self.expected.size:
            os.ftruncate(self._fd, 0)
        while block := os.read(self._fd, _REHASH_BLOCK):
            self._hash.update(block)
            self.offset += len(block)

    async def write(self, data: bytes) -> None:
        """Append; best 256 KiB and more at a time. Raises :class:`SizeMismatch`, :class:`WriteFailed`."""
        if self.exists:
            raise ValueError(f"{self.expected.digest} is stored already")
        if self.offset + len(data) > self.expected.size:
            self._failed = True
            raise SizeMismatch(digest=self.expected.digest, expected=self.expected.size,
                               actual=f"at least {self.offset + len(data)}")
        await to_the_end(self._append, data)
        self.offset += len(data)

    def _append(self, data: bytes) -> None:
        try:
            hit("content.write")
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view):]
        except OSError as error:
            self._failed = error.errno in (errno.ENOSPC, errno.EDQUOT)
            os.ftruncate(self._fd, self.offset)
            raise WriteFailed(path=self.path, reason=(error.strerror or "").lower(), errno=error.errno) from error
        self._hash.update(data)
        self._unsent += len(data)
        if self._unsent >= _WRITEBACK:
            start_writeback(self._fd, self.offset + len(data) - self._unsent, self._unsent)
            self._unsent = 0

    async def commit(self) -> Descriptor:
        """Verify and store; the blob survives a power cut from the next durable transaction on.

        A failed verification drops the bytes.

        Raises :class:`DigestMismatch`, :class:`SizeMismatch`, :class:`WriteFailed`.
        """
        if not self.exists:
            actual = f"{self._hash.name}:{self._hash.hexdigest()}"
            if self.offset != self.expected.size:
                self._failed = self.offset > self.expected.size
                raise SizeMismatch(digest=self.expected.digest, expected=self.expected.size, actual=self.offset)
            if actual != self.expected.digest:
                self._failed = True
                raise DigestMismatch(expected=self.expected.digest, actual=actual)
            await to_the_end(self._store)
            self.exists = True
        await self._record(self.expected)
        return self.expected

    def _store(self) -> None:
        try:
            hit("content.before-fsync")
            os.fsync(self._fd)
            hit("content.before-rename")
            os.rename(self.path, self._target)
            hit("content.before-fsync-dir")
            fsync_dir(os.path.dirname(self._target))
            hit("content.before-row")
        except OSError as error:
            raise WriteFailed(path=self.path, reason=(error.strerror or "").lower(), errno=error.errno) from error

    async def abort(self) -> None:
        """Drop the bytes; the block may be left then."""
        self._failed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._failed and not self.exists:
                try:
                    os.unlink(self.path)
                except FileNotFoundError:
                    pass
        finally:
            self._release()
