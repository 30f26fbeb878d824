"""One repository at one endpoint: requests with authorisation, manifests and blobs for reading."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urljoin

import aiohttp
import msgspec

from barque.errors import DataLoss
from barque.image.client.auth import Challenge, Credentials, parse_challenges
from barque.image.client.errors import (
    BrokenTransfer,
    ManifestVerificationFailed,
    RegistryRefused,
    from_answer,
)
from barque.image.client.hosts import Endpoint
from barque.image.client.token import Tokens
from barque.image.client.transport import ERROR_BODY, Transport
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.manifest import MAX_MANIFEST_SIZE, Index, parse

ACCEPT = ", ".join((mt.OCI_INDEX, mt.OCI_MANIFEST, mt.DOCKER_MANIFEST_LIST, mt.DOCKER_MANIFEST))
#: Image configurations are read whole into memory up to here, in bytes.
MAX_CONFIG = 8 << 20
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_RANGE = re.compile(r"bytes ([0-9]+)-", re.ASCII)


class TooLarge(DataLoss):
    text = "{what}: more than {limit} bytes"


class _Tags(msgspec.Struct):
    tags: list[str] = []


class Repository:
    """``path`` without the host: ``library/httpd``. ``actions``: "pull" or "pull,push"."""

    def __init__(self, transport: Transport, endpoint: Endpoint, path: str, credentials: Credentials | None,
                 actions: str = "pull") -> None:
        # Credentials belong to the registry that they were given for, never to its mirrors.
        self._credentials = None if endpoint.mirror else credentials
        self._transport = transport
        self.endpoint = endpoint
        self.path = path
        self._scope = f"repository:{path}:{actions}"
        self._tokens = Tokens(transport, endpoint, self._credentials)
        self._challenge: Challenge | None = None

    def url(self, suffix: str) -> str:
        return f"{self.endpoint.url}/v2/{self.path}/{suffix}"

    @asynccontextmanager
    async def request(self, method: str, url: str, *, headers: dict[str, str] | None = None,
                      body: Callable[[], Any] | None = None, also: str = "",
                      once: bool = False, accept: tuple[int, ...] = (200,)) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with one of the statuses ``accept``; ``also`` is a further scope (the source of a mount).

        ``once``: a broken connection is not tried again.
        Raises :class:`RegistryRefused` for every other answer, after one round of authorisation.
        """
        scope = f"{self._scope} {also}".strip()
        for fresh in (False, True):
            prepared = dict(headers or {})
            authorization = await self._authorization(scope)
            if authorization is not None and url.startswith(self.endpoint.url + "/"):
                prepared["Authorization"] = authorization
            async with self._transport.send(self.endpoint, method, url, prepared, body, once=once) as response:
                if response.status == 401 and not fresh and await self._challenged(response, scope):
                    continue
                if response.status not in accept:
                    raise from_answer(method, url, response.status, await _error_body(response))
                yield response
                return

    async def _authorization(self, scope: str) -> str | None:
        if self._credentials is not None and self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            return self._credentials.basic if self._credentials is not None else None
        token = self._tokens.cached(scope) or await self._tokens.fetch(self._challenge, scope)
        return f"Bearer {token}"

    async def _challenged(self, response: aiohttp.ClientResponse, scope: str) -> bool:
        """Take up the challenge of a 401; False if there is none that can be answered."""
        await _error_body(response)
        if self._credentials is not None and self._credentials.registry_token:
            return False
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                self._challenge = challenge
                self._tokens.forget(scope)
                return True
        if any(challenge.scheme == "basic" for challenge in challenges) and self._credentials is not None \
                and self._credentials.has_password and self._challenge is None:
            self._challenge = Challenge("basic", {})
            return True
        return False

    async def manifest(self, selector: str) -> tuple[bytes, str, Digest]:
        """The manifest of a tag or digest: its bytes, its Content-Type and its verified digest."""
        async with self.request("GET", self.url(f"manifests/{selector}"), headers={"Accept": ACCEPT}) as response:
            body = await _read(response, MAX_MANIFEST_SIZE, "manifest")
            content_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if ":" in selector:
            digest = Digest.parse(selector)
            if Digest.of(body, digest.algorithm) != digest:
                raise ManifestVerificationFailed(digest=digest)
            return body, content_type, digest
        return body, content_type, Digest.of(body)

    async def head_manifest(self, selector: str) -> Digest | None:
        """The digest that the registry claims for a tag, ``None`` if it does not exist or the registry does not say."""
        try:
            async with self.request("HEAD", self.url(f"manifests/{selector}"), headers={"Accept": ACCEPT}) as response:
                claimed = response.headers.get("Docker-Content-Digest", "")
        except RegistryRefused as error:
            if error.http_status == 404:
                return None
            raise
        return Digest.parse(claimed) if claimed else None

    async def referrers(self, digest: Digest, artifact_type: str) -> list[Descriptor]:
        """The manifests of that type that refer to ``digest`` (distribution-spec, "Listing Referrers"); from the index
        under the tag that stands for them where the registry does not know the question.
        """
        found: list[Descriptor] = []
        url: str | None = self.url(f"referrers/{digest}?{urlencode({'artifactType': artifact_type})}")
        try:
            while url is not None:
                async with self.request("GET", url) as response:
                    page = go_json.decode(await _read(response, MAX_MANIFEST_SIZE, "referrers"), Index)
                    found += page.manifests
                    following = _NEXT.search(response.headers.get("Link", ""))
                url = urljoin(url, following[1]) if following and page.manifests else None
        except RegistryRefused as error:
            if error.http_status != 404:
                raise
            found = await self._tagged_referrers(digest)
        return [entry for entry in found if entry.artifact_type == artifact_type]

    async def _tagged_referrers(self, digest: Digest) -> list[Descriptor]:
        try:
            document = parse(*(await self.manifest(f"{digest.algorithm}-{digest.hex}"))[:2])
        except RegistryRefused as error:
            if error.http_status != 404:
                raise
            return []
        return list(document.manifests) if isinstance(document, Index) else []

    async def small_blob(self, digest: Digest) -> bytes:
        """A blob read whole, not verified (up to :data:`MAX_CONFIG`)."""
        async with self.request("GET", self.url(f"blobs/{digest}")) as response:
            return await _read(response, MAX_CONFIG, str(digest))

    async def has_blob(self, digest: Digest) -> bool:
        try:
            async with self.request("HEAD", self.url(f"blobs/{digest}")):
                return True
        except RegistryRefused as error:
            if error.http_status == 404:
                return False
            raise

    async def tags(self) -> list[str]:
        """All tags, page by page."""
        found: list[str] = []
        url: str | None = self.url("tags/list?n=1000")
        while url is not None:
            async with self.request("GET", url) as response:
                page = go_json.decode(await _read(response, MAX_CONFIG, "tags"), _Tags)
                found += page.tags
                following = _NEXT.search(response.headers.get("Link", ""))
            url = urljoin(url, following[1]) if following and page.tags else None
        return found

    @asynccontextmanager
    async def blob(self, digest: Digest, offset: int = 0) -> AsyncIterator[tuple[int, aiohttp.StreamReader]]:
        """The blob's bytes from the yielded position on: ``offset``, or 0 where the server knows no ranges."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.request("GET", self.url(f"blobs/{digest}"), headers=headers,
                                accept=(200, 206)) as response:
            begin = 0
            if response.status == 206:
                match = _RANGE.match(response.headers.get("Content-Range", ""))
                if match is None or int(match[1]) != offset:
                    raise BrokenTransfer
                begin = offset
            yield begin, response.content


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.content.read(ERROR_BODY)
    except (aiohttp.ClientError, OSError):
        return b""


async def _read(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        while data := await response.content.readany():
            size += len(data)
            if size > limit:
                raise TooLarge(what=what, limit=limit)
            parts.append(data)
    except (aiohttp.ClientError, OSError) as error:
        raise BrokenTransfer from error
    return b"".join(parts)
