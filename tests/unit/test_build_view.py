"""A client's own directory, read where it is, is to a build what an archive of it would be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from barque.cli.build_context import pack, read_patterns
from barque.oci.patterns import read_ignore_file
from barque.store.place import survey
from barque.store.place.messages import Found, Pick, Source, SurveyRequest, SurveyResult
from barque.store.tar.child import unpack
from barque.store.tar.messages import UnpackRequest, decode, encode

TREE = ("a", "d/b", "d/keep/c", "d/keep/deep/e", "logs/x.log", "logs/y.txt", "z/only.log")
PATTERNS = ["", "d", "*.log\n**/*.log", "d\n!d/keep", "**\n!d/keep/deep/e\n!a", "logs/*\n!logs/y.txt", "z",
            "d/keep/deep", "a\nlink", "*\n!z"]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    for name in TREE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n" * 3)
    (root / "link").symlink_to("d/b")
    (root / "d" / "hard").hardlink_to(root / "a")
    (root / "Dockerfile").write_text("FROM scratch\n")
    (root / "d" / "keep").chmod(0o711)
    return root


@pytest.fixture(autouse=True)
def unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker in this process, as the user who runs the tests."""
    monkeypatch.setattr(survey, "enter", lambda _, sources, fds: (-1, [fds[source.fd] for source in sources]))


def found(directory: int, source: Source, picks: list[Pick], known: dict[str, str] | None = None) -> SurveyResult:
    request = SurveyRequest([source], picks, known or {})
    return decode(survey.run_survey(encode(request), [directory]), SurveyResult)


def plain(results: list[list[Found]]) -> list[list[tuple[bytes, bytes, bool, str]]]:
    return [[(item.path, item.name, item.directory, item.digest) for item in items] for items in results]


@pytest.mark.parametrize("ignore", PATTERNS)
def test_read_in_place_is_as_packed(context: Path, tmp_path: Path, ignore: str) -> None:
    (context / ".dockerignore").write_text(ignore)
    patterns = read_ignore_file(ignore)
    archive = tmp_path / "archive"
    archive.write_bytes(b"".join(pack(str(context), read_patterns(str(context), "Dockerfile"), "Dockerfile", {})))
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    here, there, source = (os.open(path, os.O_RDONLY) for path in (context, unpacked, archive))
    umask = os.umask(0)
    try:
        implicit = unpack(UnpackRequest(whiteouts=False), source, there).implicit_dirs
        # The client sends these two whatever the patterns say, and the engine takes them out of the files again.
        ignored = [name for name in ("Dockerfile", ".dockerignore") if ignore.startswith(("**", "*\n"))]
        for name in ignored:
            (unpacked / name).unlink()
        picks = [Pick(0, name, wildcard="*" in name, optional=True) for name in (
            ".", "*", "d", "d/keep", "a", "link", "logs/y.txt", "d/hard", "z", "gone")]
        packed = found(there, Source(fd=0, implicit=implicit), picks)
        direct = found(here, Source(fd=0, ignore=patterns), picks)
        if os.geteuid() == 0:  # else the unpacked files are not root's
            assert plain(direct.found) == plain(packed.found)
        else:
            assert [[item[:3] for item in items] for items in plain(direct.found)] == [
                [item[:3] for item in items] for items in plain(packed.found)]
    finally:
        os.umask(umask)
        for fd in (here, there, source):
            os.close(fd)


def test_large_files_are_read_once(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = context / "large"
    large.write_bytes(b"x" * 100_000)
    monkeypatch.setattr(survey, "_SETTLED", -10_000_000_000)
    picks, source = [Pick(0, "large"), Pick(0, "a")], Source(fd=0, ignore=[])
    fd = os.open(context, os.O_RDONLY)
    try:
        first = found(fd, source, picks)
        assert len(first.known) == 1
        forged = dict.fromkeys(first.known, "remembered")
        assert found(fd, source, picks, forged).found[0][0].digest == "file:remembered"
        large.write_bytes(b"y" * 100_000)
        changed = found(fd, source, picks, forged)
        assert changed.found[0][0].digest not in ("file:remembered", first.found[0][0].digest)
        assert changed.found[0][0].stamp != first.found[0][0].stamp
        assert changed.found[1] == first.found[1]
        monkeypatch.setattr(survey, "_SETTLED", 3600_000_000_000)
        assert found(fd, source, picks).known == {}
        assert found(fd, Source(fd=0), picks).known == {}
    finally:
        os.close(fd)
