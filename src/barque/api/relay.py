"""Carry bytes between a client and a process: input one way, output the other, with docker's detach keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from barque.errors import InvalidArgument

CHUNK = 64 << 10
DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_NAMED = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` -> the bytes that a terminal sends; raises InvalidArgument."""
    result = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            result.append(ord(key))
            continue
        name = key.removeprefix("ctrl-")
        if key.startswith("ctrl-") and len(name) == 1 and ("a" <= name.lower() <= "z" or name in _NAMED):
            result.append(_NAMED[name] if name in _NAMED else ord(name.lower()) - 96)
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided: Unknown character: '{key}'")
    return bytes(result)


class Escape:
    """Finds the detach keys in what is typed; a beginning that goes on differently is passed on."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on of ``data``, and whether the keys are complete."""
        if not self._matched and self._keys[:1] not in data:
            return data, False
        result = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(result), True
                continue
            result += self._keys[:self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                result.append(byte)
        return bytes(result), False


Ending = Callable[[], Awaitable[object]]
Change = Callable[[bytes], bytes]


class Unframer:
    """Takes the 8-byte frames off: what both streams say, one after the other."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        data = self._rest + data
        parts, position = [], 0
        while len(data) - position >= 8:
            end = position + 8 + int.from_bytes(data[position + 4:position + 8], "big")
            if end > len(data):
                break
            parts.append(data[position + 8:end])
            position = end
        self._rest = data[position:]
        return b"".join(parts)


def framed(data: bytes) -> bytes:
    """``data`` as one frame of stdout."""
    return b"\x01\0\0\0" + len(data).to_bytes(4, "big") + data


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ending: Ending | None = None,
               change: Change | None = None, ready: Ending | None = None) -> None:
    """Copy until the end of ``reader``, from when ``ready`` has come; the end is passed on as a half-close, once
    ``ending`` has come.
    """
    while data := await reader.read(CHUNK):
        if ready is not None:
            await ready()
            ready = None
        writer.write(change(data) if change is not None else data)
        await writer.drain()
    if ending is not None:
        await ending()
    if writer.can_write_eof():
        writer.write_eof()


async def _pump_input(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, escape: Escape | None) -> bool:
    """As :func:`pump`; True when the client typed the detach keys."""
    while data := await reader.read(CHUNK):
        if escape is not None:
            data, detached = escape.feed(data)
            if detached:
                return True
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    return False


async def relay(client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
                process: tuple[asyncio.StreamReader, asyncio.StreamWriter], *, stdin: bool,
                escape: Escape | None, ready: Ending, ending: Ending | None = None, change: Change | None = None
                ) -> bool:
    """Until the process's output ends, the client is gone, or it detaches (True then). Closes the process's side.

    The client learns of the end of the output when ``ending`` has come: then it asks how the process ended. ``change``
    is applied to the output, which does not begin before ``ready``.
    """
    output = asyncio.ensure_future(pump(process[0], client[1], ending, change, ready))
    source = asyncio.ensure_future(_pump_input(client[0], process[1], escape) if stdin else _until_gone(client[0]))
    try:
        await asyncio.wait({output, source}, return_when=asyncio.FIRST_COMPLETED)
        if source.done() and not output.done():
            if source.exception() is not None or (stdin and source.result()):
                output.cancel()
            else:
                # The end of the input is not the end of the client: it goes on reading.
                await asyncio.wait({output})
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            output.result() if output.done() else None
        return source.done() and not source.cancelled() and source.exception() is None and source.result() is True
    finally:
        for task in (output, source):
            task.cancel()
        await asyncio.gather(output, source, return_exceptions=True)
        process[1].close()


async def _until_gone(reader: asyncio.StreamReader) -> bool:
    """A client whose input is not wanted: what it sends is dropped, its end is noticed."""
    while await reader.read(CHUNK):
        pass
    return False
