"""Lists of tags that are kept while their directory does not change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from barque.registry.storage import durable, listings
from barque.registry.storage.listings import Listings


def age(directory: Path) -> None:
    past = time.time() - 60
    os.utime(directory, (past, past))


def test_list_is_read_once_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = durable.list_directory
    monkeypatch.setattr(durable, "list_directory", lambda path: read.append(path) or real(path))
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    (tmp_path / ".left").touch()
    age(tmp_path)
    kept = Listings()
    assert [kept.names(str(tmp_path)) for _ in range(3)] == [["a", "b"]] * 3
    assert len(read) == 1
    (tmp_path / "c").touch()
    assert kept.names(str(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "a").unlink()
    assert kept.names(str(tmp_path)) == ["b", "c"]
    assert kept.names(str(tmp_path / "none")) == []


def test_directory_that_has_just_changed_is_not_believed(tmp_path: Path) -> None:
    """Its time may stay the same through one more change."""
    kept = Listings()
    for number in range(200):
        (tmp_path / f"{number:03}").touch()
        assert len(kept.names(str(tmp_path))) == number + 1


def test_memory_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_MOST", 25)
    kept = Listings()
    for name in "abc":
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / str(number)).touch()
        age(tmp_path / name)
        assert len(kept.names(str(tmp_path / name))) == 10
    assert [Path(path).name for path in kept._known] == ["b", "c"]
    assert kept._size == 20
