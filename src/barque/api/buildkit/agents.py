"""The client's SSH agent as a socket here: what connects to it talks to the agent (``sshforward.SSH/ForwardAgent``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from barque.api.buildkit.messages import BytesMessage
from barque.api.buildkit.sessions import Session, SessionFailed

_METHOD = "/moby.sshforward.v1.SSH/ForwardAgent"
_CHUNK = 32 << 10


@asynccontextmanager
async def forward(session: Session, name: str, path: str) -> AsyncIterator[None]:
    """A socket at ``path`` for the time of the block."""
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with session.call(_METHOD, BytesMessage, BytesMessage, [("buildkit.ssh.id", name)]) as stream:
                sending = asyncio.create_task(_send(reader, stream))
                try:
                    async for message in stream:
                        writer.write(message.data)
                        await writer.drain()
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        except (SessionFailed, ConnectionError):
            pass  # who uses the agent sees its end
        finally:
            writer.close()

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield
    finally:
        server.close()


async def _send(reader: asyncio.StreamReader, stream: Any) -> None:
    while data := await reader.read(_CHUNK):
        await stream.send_message(BytesMessage(data))
    await stream.end()
