"""Logs that are kept in the journal alone, read back with journalctl(1)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from barque.engine import clock
from barque.errors import Internal

CHUNK = 256 << 10
#: Fields of the driver and of the journal's own; all others are what the container's options add.
_KNOWN = frozenset([
    "MESSAGE", "MESSAGE_ID", "PRIORITY", "CODE_FILE", "CODE_LINE", "CODE_FUNC", "ERRNO", "SYSLOG_FACILITY",
    "SYSLOG_IDENTIFIER", "SYSLOG_PID", "SYSLOG_TIMESTAMP", "CONTAINER_NAME", "CONTAINER_ID", "CONTAINER_ID_FULL",
    "CONTAINER_TAG", "IMAGE_NAME", "CONTAINER_LOG_EPOCH", "CONTAINER_LOG_ORDINAL", "CONTAINER_PARTIAL_MESSAGE",
    "CONTAINER_PARTIAL_ID", "CONTAINER_PARTIAL_ORDINAL", "CONTAINER_PARTIAL_LAST"])
_ERROR = "3"


class JournalEntry(msgspec.Struct, frozen=True):
    """Meets :class:`barque.engine.logging.formats.Entry`."""

    stream: str
    moment: int
    data: bytes
    attrs: Mapping[str, str]

    @property
    def stamp(self) -> str:
        return clock.render(self.moment)


def decode(record: bytes) -> JournalEntry:
    """Of a line of JSON that journalctl printed. Raises ValueError."""
    fields: dict[str, Any] = msgspec.json.decode(record)
    end = b"" if fields.get("CONTAINER_PARTIAL_MESSAGE") == "true" else b"\n"
    stamp = fields.get("SYSLOG_TIMESTAMP")
    return JournalEntry(
        stream="stderr" if fields.get("PRIORITY") == _ERROR else "stdout", data=_bytes(fields.get("MESSAGE")) + end,
        moment=clock.parse(stamp) if isinstance(stamp, str) else int(fields["__REALTIME_TIMESTAMP"]) * 1000,
        attrs={name: value for name, value in fields.items()
               if name not in _KNOWN and not name.startswith("_") and isinstance(value, str)})


def _bytes(value: object) -> bytes:
    """What is no text is printed as the numbers of its bytes."""
    return bytes(value) if isinstance(value, list) else str(value or "").encode()


def there() -> bool:
    return shutil.which("journalctl") is not None


async def sync() -> None:
    """Return once what was sent to the journal before can be read."""
    process = await asyncio.create_subprocess_exec("journalctl", "--sync", stdin=asyncio.subprocess.DEVNULL,
                                                   stderr=asyncio.subprocess.DEVNULL)
    await process.wait()


class Journal:
    """The records of one container, from the last ``tail`` ones on; what was read does not come again."""

    def __init__(self, container_id: str, tail: int | None) -> None:
        self._match = f"CONTAINER_ID_FULL={container_id}"
        self._start = f"--lines={'all' if tail is None else tail}"

    async def read(self, until: asyncio.Future[Any] | None = None) -> AsyncGenerator[list[bytes], None]:
        """Those that are there; with ``until`` those to come as well, until it is done. Raises Internal."""
        command = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json", self._start, self._match]
        process = await asyncio.create_subprocess_exec(
            *command, *(["--follow"] if until is not None else []), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
        assert process.stdout is not None
        rest = b""
        try:
            while data := await _read(process.stdout, until):
                *records, rest = (rest + data).split(b"\n")
                if records:
                    self._start = f"--after-cursor={msgspec.json.decode(records[-1])['__CURSOR']}"
                    yield records
            if until is None and await process.wait():
                raise Internal("the journal cannot be read")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _read(stream: asyncio.StreamReader, until: asyncio.Future[Any] | None) -> bytes:
    """Some bytes; none at the end, or when ``until`` is done."""
    if until is None:
        return await stream.read(CHUNK)
    piece = asyncio.ensure_future(stream.read(CHUNK))
    try:
        await asyncio.wait({piece, until}, return_when=asyncio.FIRST_COMPLETED)
        return piece.result() if piece.done() else b""
    finally:
        piece.cancel()
