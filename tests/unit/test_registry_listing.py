"""Listing a directory of digests while others remove from it."""

from __future__ import annotations

import threading
from pathlib import Path

from barque.registry.storage.durable import digests


def test_a_removal_meanwhile_hides_nothing_else(tmp_path: Path) -> None:
    """A collection that missed a manifest would take its layers."""
    directory = tmp_path / "sha256"
    directory.mkdir()
    stay = {f"{number:064x}" for number in range(64)}
    for name in stay:
        (directory / name).touch()
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for number in range(64, 96):
                (directory / f"{number:064x}").touch()
            for number in range(64, 96):
                (directory / f"{number:064x}").unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            assert stay <= {entry.digest.hex for entry in digests(str(tmp_path))}
    finally:
        over.set()
        other.join()
