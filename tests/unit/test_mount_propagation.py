"""Which mount a path is on, and who its mounts reach."""

from __future__ import annotations

import pytest

from barque.engine.containers.propagation import mount_of

TABLE = r"""22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:30 / /a rw shared:7 - tmpfs tmpfs rw
31 30 0:31 / /a/b\040c rw master:3 propagate_from:2 - tmpfs tmpfs rw
32 22 0:32 / /over rw shared:9 - tmpfs tmpfs rw
33 32 0:33 / /over rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(("path", "mountpoint", "tags"), [
    ("/x", "/", set()), ("/", "/", set()), ("/a", "/a", {"shared"}), ("/a/x", "/a", {"shared"}), ("/ab", "/", set()),
    ("/a/b c/d", "/a/b c", {"master", "propagate_from"}), ("/over/x", "/over", set()),
])
def test_mount_of(path: str, mountpoint: str, tags: set[str]) -> None:
    assert mount_of(path, TABLE) == (mountpoint, tags)
