"""A file from anywhere on the web: ``docker import URL``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp

from barque.errors import InvalidArgument, NotFound
from barque.image.client.errors import BrokenTransfer
from barque.image.client.hosts import Endpoint
from barque.image.client.transport import Transport
from barque.image.progress import Bar, Report


async def download(transport: Transport, url: str, report: Report) -> AsyncIterator[bytes]:
    """The bytes behind ``url``, which has http:// where it names no scheme, as dockerd takes it.

    Raises InvalidArgument, NotFound for an error answer, RegistryUnreachable, BrokenTransfer.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(f"{url!r} is not an address to import from")
    endpoint = Endpoint(f"{parts.scheme}://{parts.netloc}", parts.netloc)
    bar = Bar(report, "")
    async with transport.send(endpoint, "GET", parts.geturl(), {}) as response:
        if response.status >= 400:
            raise NotFound(f"failed to GET {parts.geturl()} with status {response.status} {response.reason}")
        received, total = 0, response.content_length or 0
        try:
            async for piece in response.content.iter_any():
                received += len(piece)
                if total:
                    bar.move("Importing", received, total)
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenTransfer from error
