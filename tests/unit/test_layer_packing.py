"""The archive of a layer on a disk that has no room for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from barque.build.layers import _pack

PATIENCE = 60


@pytest.mark.parametrize("pieces", [1, 200], ids=["found at the end", "found in the middle"])
def test_a_full_disk_is_told_and_nobody_waits(pieces: int) -> None:
    def produce(write: Callable[[bytes], object]) -> int:
        for _ in range(pieces):
            write(os.urandom(64 << 10))
        return pieces

    with ThreadPoolExecutor(1) as pool:
        failed = pool.submit(_pack, produce, os.open("/dev/full", os.O_WRONLY))
        error = failed.exception(PATIENCE)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
