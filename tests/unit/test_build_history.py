"""The builds of the past: how many are kept, and how they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from barque.build import history
from barque.build.events import BuildBegun, StepBegun, StepEnded, StepOutput
from barque.build.history import BuildHistory, BuildRecord, NoSuchBuild
from barque.errors import InvalidArgument
from barque.store.db import Database


async def test_only_the_newest_are_kept_and_running_ones_come_first(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_BUILDS", 3)
    db = await Database.open(str(tmp_path / "db"))
    try:
        builds = BuildHistory(db)
        for number in range(5):
            recorder = builds.begin(BuildRecord(id=f"a{number}", started=number))
            recorder.hear(StepOutput(1, 1, f"said by {number}"))
            recorder.end(history.COMPLETED)
            await builds.keep(recorder)
        running = builds.begin(BuildRecord(id="b", started=9))
        running.hear(StepOutput(1, 2, "now"))
        assert [record.id for record in await builds.all()] == ["b", "a4", "a3", "a2"]
        assert (await builds.get("")).id == (await builds.get("^0")).id == "b"
        assert (await builds.get("^3")).id == "a2"
        assert await builds.log(await builds.get("b")) == [(1, 2, "now")]
        assert await builds.log(await builds.get("a3")) == [(1, 1, "said by 3")]
        with pytest.raises(InvalidArgument, match="several builds begin with a"):
            await builds.get("a")
        for ref in ("a1", "^4", "zzz"):
            with pytest.raises(NoSuchBuild):
                await builds.get(ref)
        await builds.remove(await builds.get("a3"))
        assert [record.id for record in await builds.all()] == ["b", "a4", "a2"]
    finally:
        await db.close()


async def test_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_LOG", 10)
    db = await Database.open(str(tmp_path / "db"))
    try:
        builds = BuildHistory(db)
        recorder = builds.begin(BuildRecord(id="x", started=1, arguments={"A": "b"}))
        for event in (BuildBegun("x", 3, ("one", "two"), 1), StepBegun(2, "two", "RUN b", 5, 10),
                      StepBegun(1, "one", "RUN a", 3, 10), StepOutput(1, 1, "12345678"), StepOutput(2, 2, "90abc"),
                      StepEnded(1, 20, why="not built before", size=7)):
            recorder.hear(event)
        recorder.end(history.FAILED, "it broke")
        await builds.keep(recorder)
        kept = await builds.get("x")
        assert (kept.status, kept.error, kept.truncated, kept.stages, kept.total) == (
            "error", "it broke", True, ("one", "two"), 3)
        assert [(step.number, step.why, step.error, step.size) for step in kept.steps] == [
            (1, "not built before", "", 7), (2, "", "cancelled", 0)]
        assert await builds.log(kept) == [(1, 1, "12345678"), (2, 2, "90")]
    finally:
        await db.close()
