"""The builds of the past: what each step took, why it was not cached, what it said. Kept in the table ``builds``."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib

import msgspec

from barque.build.events import BuildBegun, Event, StepBegun, StepEnded, StepOutput
from barque.errors import InvalidArgument, NotFound
from barque.store.db import Database

#: Builds that are kept, and characters of output of each.
MAX_BUILDS = 100
MAX_LOG = 1 << 20
RUNNING, COMPLETED, FAILED, CANCELLED = "running", "completed", "error", "cancelled"


class NoSuchBuild(NotFound):
    text = "No such build: {ref}"


class StepRecord(msgspec.Struct, rename="pascal"):
    number: int
    stage: str
    text: str
    line: int
    started: int
    completed: int = 0
    cached: bool = False
    why: str = ""
    error: str = ""
    size: int = 0


class BuildRecord(msgspec.Struct, rename="pascal", kw_only=True):
    """One build. Times are nanoseconds since 1970. ``keys``: by stage, the steps in the cache; the target is last."""

    id: str = msgspec.field(name="ID")
    started: int
    completed: int = 0
    status: str = RUNNING
    error: str = ""
    dockerfile: str = ""
    context: str = ""
    target: str = ""
    platform: str = ""
    tags: tuple[str, ...] = ()
    arguments: dict[str, str] = {}
    image_id: str = msgspec.field(name="ImageID", default="")
    digest: str = ""
    stages: tuple[str, ...] = ()
    total: int = 0
    steps: list[StepRecord] = []
    keys: list[list[str]] = []
    truncated: bool = False


class Recorder:
    """Listens to one build."""

    def __init__(self, record: BuildRecord) -> None:
        self.record = record
        self.log: list[tuple[int, int, str]] = []
        self._left = MAX_LOG
        self._steps: dict[int, StepRecord] = {}

    def hear(self, event: Event) -> None:
        match event:
            case BuildBegun():
                self.record.stages, self.record.total = event.stages, event.total
            case StepBegun():
                step = StepRecord(event.number, event.stage, event.text, event.line, event.time)
                self._steps[event.number] = step
                self.record.steps.append(step)
            case StepOutput():
                self._say(event)
            case StepEnded():
                step = self._steps[event.number]
                step.completed, step.cached, step.why = event.time, event.cached, event.why
                step.error, step.size = event.error, event.size

    def _say(self, event: StepOutput) -> None:
        text = event.text[:self._left]
        self._left -= len(text)
        self.record.truncated = self.record.truncated or len(text) < len(event.text)
        if text:
            self.log.append((event.number, event.stream, text))

    def end(self, status: str, error: str = "") -> None:
        self.record.completed = time.time_ns()
        self.record.status, self.record.error = status, error
        self.record.steps.sort(key=lambda step: step.number)
        for step in self.record.steps:
            if not step.completed:  # another stage has failed, or the client went away
                step.completed, step.error = self.record.completed, CANCELLED


class BuildHistory:
    """What runs is known here too, and first in :meth:`all`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._running: dict[str, Recorder] = {}

    def begin(self, record: BuildRecord) -> Recorder:
        recorder = self._running[record.id] = Recorder(record)
        return recorder

    async def keep(self, recorder: Recorder) -> None:
        """Store a build that has ended; the oldest ones go."""
        row = (recorder.record.id, msgspec.json.encode(recorder.record),
               zlib.compress(json.dumps(recorder.log).encode()))

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO builds (id, document, log) VALUES (?, ?, ?)", row)
            connection.execute("DELETE FROM builds WHERE number <= (SELECT max(number) FROM builds) - ?", (MAX_BUILDS,))

        try:
            await self._db.write(insert, durable=False)
        finally:
            del self._running[recorder.record.id]

    async def all(self) -> list[BuildRecord]:
        """The newest first."""
        rows = await self._db.read(lambda connection: connection.execute(
            "SELECT document FROM builds ORDER BY number DESC").fetchall())
        running = [recorder.record for recorder in self._running.values()]
        return [*reversed(running), *(msgspec.json.decode(row[0], type=BuildRecord) for row in rows)]

    async def get(self, ref: str) -> BuildRecord:
        """By id, its beginning, or ``^N`` for the Nth before the last one; "" is the last one."""
        records = await self.all()
        if ref == "" or ref.startswith("^"):
            number = int(ref[1:]) if ref[1:].isascii() and ref[1:].isdecimal() else 0
            if number < len(records):
                return records[number]
            raise NoSuchBuild(ref=ref or "there was none yet")
        found = [record for record in records if record.id.startswith(ref)]
        if len(found) > 1:
            raise InvalidArgument(f"several builds begin with {ref}")
        if not found:
            raise NoSuchBuild(ref=ref)
        return found[0]

    async def log(self, record: BuildRecord) -> list[tuple[int, int, str]]:
        """What the steps said: number, stream, text."""
        if record.id in self._running:
            return self._running[record.id].log
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT log FROM builds WHERE id = ?", (record.id,)).fetchone())
        return [(number, stream, text) for number, stream, text in json.loads(zlib.decompress(row[0]))] if row else []

    async def remove(self, record: BuildRecord) -> None:
        await self._db.write(lambda connection: connection.execute("DELETE FROM builds WHERE id = ?", (record.id,)))
