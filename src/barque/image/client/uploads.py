"""Sending blobs and manifests: look, mount, upload (distribution-spec, "Push")."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote, urlencode, urljoin, urlsplit

from barque.image.client.errors import RegistryRefused, RegistryUnreachable
from barque.image.client.repository import Repository
from barque.oci.digest import Digest

#: Bytes read from disk and given to the socket at a time.
_STEP = 512 << 10


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
    """Upload the file ``path`` as one body; ``sent`` hears how many bytes went out.

    After a broken connection a new upload is begun, once: the old one may have kept a part.
    """
    size = os.stat(path).st_size
    try:
        await _put(repository, digest, path, size, location, sent)
    except RegistryUnreachable:
        await _put(repository, digest, path, size, await begin(repository), sent)


async def _put(repository: Repository, digest: Digest, path: str, size: int, location: str,
               sent: Callable[[int], None]) -> None:
    url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest, safe='')}"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    async with repository.request("PUT", url, headers=headers, body=lambda: _chunks(path, sent), once=True,
                                  accept=(201,)):
        return


async def _chunks(path: str, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
    position = 0
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
