"""Sending blobs and manifests: look, mount, upload (distribution-spec, "Push")."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote, urlencode, urljoin, urlsplit

from barque.image.client.errors import RegistryRefused, RegistryUnreachable
from barque.image.client.repository import Repository
from barque.oci.digest import Digest

#: Bytes read from disk and given to the socket at a time.
_STEP = 512 << 10
#: From this size on a blob is sent as a chunk, in bytes.
_BIG = 4 << 20
#: How often an upload may break before its push fails.
_TRIES = 5
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]+)\Z", re.ASCII)


async def mount(repository: Repository, digest: Digest, source: str) -> str | None:
    """Ask the registry to take the blob from its repository ``source``.

    ``None`` if it did, else the location of the upload that it began instead.
    """
    query = urlencode({"mount": digest, "from": source})
    async with repository.request("POST", repository.url(f"blobs/uploads/?{query}"), also=f"repository:{source}:pull",
                                  accept=(201, 202)) as response:
        if response.status == 201:
            return None
        return _location(repository, str(response.url), response.headers.get("Location", ""))


async def begin(repository: Repository) -> str:
    """Start an upload; its location."""
    async with repository.request("POST", repository.url("blobs/uploads/"), accept=(202,)) as response:
        return _location(repository, str(response.url), response.headers.get("Location", ""))


def _location(repository: Repository, base: str, location: str) -> str:
    if not location:
        raise RegistryRefused("registry did not say where to upload to", "", 202)
    url = urljoin(base, location)
    asked = urlsplit(repository.endpoint.url)
    # A registry behind a proxy that ends TLS gives http:// URLs of the host that was asked by https.
    return urlsplit(url)._replace(scheme=asked.scheme).geturl() if urlsplit(url).netloc == asked.netloc else url


async def send_blob(repository: Repository, digest: Digest, path: str, location: str,
                    sent: Callable[[int], None]) -> None:
    """Upload the file ``path``; ``sent`` hears how many bytes went out.

    A big one goes in two requests, since registries keep what arrived of a chunk whose connection broke, and only the
    rest is sent again.
    """
    size = os.stat(path).st_size
    offset = 0
    for attempt in range(1, _TRIES + 1):
        try:
            if size >= _BIG or offset:
                location = await _append(repository, path, offset, size, location, sent)
                offset = size
            await _finish(repository, digest, path, offset, size, location, sent)
            return
        except RegistryUnreachable:
            if attempt == _TRIES:
                raise
        location, offset = await _arrived(repository, location, size)


async def _arrived(repository: Repository, location: str, size: int) -> tuple[str, int]:
    """Where the upload goes on, and from which byte: from the first one of a new upload where nothing is known."""
    try:
        async with repository.request("GET", location, accept=(204,), once=True) as response:
            match = _RANGE.match(response.headers.get("Range", ""))
            # "0-0" says both that nothing and that one byte is there.
            offset = int(match[1]) + 1 if match and match[1] != "0" else 0
            if 0 < offset <= size:
                base = str(response.url)
                return _location(repository, base, response.headers.get("Location", base)), offset
    except (RegistryRefused, RegistryUnreachable):
        pass
    return await begin(repository), 0


async def _append(repository: Repository, path: str, offset: int, size: int, location: str,
                  sent: Callable[[int], None]) -> str:
    """Send what is missing as a chunk; where the upload goes on."""
    if offset == size:
        return location
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size - offset),
               "Content-Range": f"{offset}-{size - 1}"}
    async with repository.request("PATCH", location, headers=headers, body=lambda: _chunks(path, offset, sent),
                                  once=True, accept=(202,)) as response:
        return _location(repository, str(response.url), response.headers.get("Location", ""))


async def _finish(repository: Repository, digest: Digest, path: str, offset: int, size: int, location: str,
                  sent: Callable[[int], None]) -> None:
    """End the upload, with the bytes from ``offset`` on as its last ones."""
    url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest, safe='')}"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size - offset)}
    async with repository.request("PUT", url, headers=headers, body=lambda: _chunks(path, offset, sent), once=True,
                                  accept=(201,)):
        return


async def _chunks(path: str, position: int, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while data := await asyncio.to_thread(os.pread, fd, _STEP, position):
            yield data
            position += len(data)
            sent(position)
    finally:
        os.close(fd)


async def put_manifest(repository: Repository, reference: str, media_type: str, body: bytes) -> Digest:
    """Store the manifest under a tag or digest; its digest."""
    async with repository.request("PUT", repository.url(f"manifests/{reference}"),
                                  headers={"Content-Type": media_type}, body=lambda: body, accept=(201, 202)):
        return Digest.of(body)
