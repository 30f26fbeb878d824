"""sys.inotify on the real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from barque.sys import inotify


def test_events_of_a_directory(tmp_path: Path) -> None:
    watcher = inotify.Inotify()
    watch = watcher.add(str(tmp_path), inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO)
    assert watcher.read() == []
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").rename(tmp_path / "longer name")
    (tmp_path / "longer name").unlink()
    events = watcher.read()
    assert [(event.mask, event.name) for event in events] == [
        (inotify.CREATE, b"a"), (inotify.MOVED_FROM, b"a"), (inotify.MOVED_TO, b"longer name"),
        (inotify.DELETE, b"longer name")]
    assert {event.watch for event in events} == {watch}
    assert events[1].cookie == events[2].cookie != 0
    watcher.remove(watch)
    assert [event.mask for event in watcher.read()] == [inotify.IGNORED]
    watcher.close()


def test_missing_file_is_named(tmp_path: Path) -> None:
    watcher = inotify.Inotify()
    with pytest.raises(FileNotFoundError) as raised:
        watcher.add(str(tmp_path / "none"), inotify.MODIFY)
    assert raised.value.filename == str(tmp_path / "none")
    watcher.close()
