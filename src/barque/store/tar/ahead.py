"""Blocks made ahead of their consumer by a thread: decompression and hashing run beside the system calls of unpacking.

With ``_thread`` and ``_queue``, which are built in: a process forked from the zygote imports no more than the zygote
may have imported, and ``threading`` is not among that.
"""

from __future__ import annotations

import _thread
from _queue import SimpleQueue
from collections.abc import Callable, Generator, Iterator

#: Blocks that wait at most.
_AHEAD = 4


def hashed(blocks: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for block in blocks:
        update(block)
        yield block


def ahead(blocks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """The same blocks, made by a thread that runs a few of them ahead; what making them raises is raised here.

    The thread ends with the iterator that is returned, at the latest after the block that it is about to make.
    """
    made: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
    wanted: SimpleQueue[bool] = SimpleQueue()  # one True for each block that may be made, False to end

    def make() -> None:
        try:
            while wanted.get():
                block = next(blocks, None)
                made.put(block)
                if block is None:
                    return
        except BaseException as error:  # whatever it is, the consumer waits for it
            made.put(error)

    for _ in range(_AHEAD):
        wanted.put(True)
    _thread.start_new_thread(make, ())
    try:
        while (block := made.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            yield block
            wanted.put(True)
    finally:
        wanted.put(False)
