"""Upload routes (distribution-spec, end-4 to end-6, end-11, end-13, end-14).

A session takes its bytes in order: a PATCH or PUT that names a start other than the bytes so far is refused with 416
and the range that is there. An interrupted transfer keeps what arrived, so that a client can ask and go on.
"""

from __future__ import annotations

import asyncio
import mmap
import re

from barque.oci.digest import ALGORITHMS, Digest
from barque.registry.errors import RegistryError
from barque.registry.events import record
from barque.registry.http.body import Body
from barque.registry.http.messages import Request, Response
from barque.registry.http.routes import Route
from barque.registry.names import checked_name, digest_of, repository_of
from barque.registry.quotas import Quotas
from barque.registry.storage.base import BlobStorage, Upload, WrongDigest

#: Bytes that wait to be hashed and written, of all uploads together. The fewer there are, the more each hands over at a
#: time: from 32 KiB up to 512 KiB, with which the trip to a thread is short beside the work there.
_BUFFERED = 2 << 20
_MOST, _LEAST = 512 << 10, 32 << 10
#: How long the status of an upload waits for a transfer that is under way, in seconds.
_SETTLE = 2.0
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]+)-([0-9]+)(?:/[0-9*]+)?\Z", re.ASCII)


class Intake:
    """Takes the bodies of uploads, within a memory that does not grow with their number."""

    def __init__(self) -> None:
        self._active = 0

    async def receive(self, request: Request, upload: Upload) -> None:
        """Append the body of ``request``: the next part is received while the last one is hashed and written."""
        self._active += 1
        try:
            await self._receive(request.body, upload)
        finally:
            self._active -= 1

    async def _receive(self, body: Body, upload: Upload) -> None:
        half = _MOST if body.length is None else min(_MOST, body.length)
        if not half:
            return
        # Fresh from the kernel and back to it: pages that no byte arrives for cost nothing.
        view = memoryview(mmap.mmap(-1, 2 * half))
        if upload.takes_more and body.lends:
            await self._receive_in_thread(body, upload, view)
        else:
            await self._receive_in_turns(body, upload, view[:half], view[half:])

    async def _receive_in_thread(self, body: Body, upload: Upload, view: memoryview) -> None:
        """The thread that hashes and writes also reads, as long as the client keeps up."""
        def pulled() -> memoryview:
            return view[:body.pull(view[:self._batch()])]

        while count := await body.fill(view[:_LEAST]):
            body.lend()
            await upload.write(view[:count], pulled)

    async def _receive_in_turns(self, body: Body, upload: Upload, one: memoryview, other: memoryview) -> None:
        """The next part is received while the last one is hashed and written."""
        writing: asyncio.Task[None] | None = None
        try:
            while count := await body.fill(one[:self._batch()]):
                if writing is not None:
                    await writing
                writing = asyncio.create_task(upload.write(one[:count]))
                one, other = other, one
        finally:
            if writing is not None:
                await writing

    def _batch(self) -> int:
        return max(_LEAST, min(_MOST, _BUFFERED // (2 * self._active)))


def _expected_range(request: Request) -> tuple[int, int] | None:
    text = request.headers.get("content-range")
    if text is None:
        return None
    match = _CONTENT_RANGE.match(text)
    if match is None or int(match[2]) < int(match[1]):
        raise RegistryError("BLOB_UPLOAD_INVALID", {"Content-Range": text})
    return int(match[1]), int(match[2]) + 1


class UploadRoutes:
    """``mount_any``: a mount that names no source takes a blob of any repository, as long as all may read them all."""

    def __init__(self, blobs: BlobStorage, quotas: Quotas, *, mount_any: bool = False) -> None:
        self._blobs = blobs
        self._quotas = quotas
        self._mount_any = mount_any
        self._intake = Intake()

    def routes(self) -> list[Route]:
        session = "/v2/{name}/blobs/uploads/{id}"
        return [
            Route("POST", "/v2/{name}/blobs/uploads/", self.start),
            Route("POST", "/v2/{name}/blobs/uploads", self.start),
            Route("GET", session, self.status, head=False),
            Route("PATCH", session, self.append),
            Route("PUT", session, self.finish),
            Route("DELETE", session, self.cancel),
        ]

    async def start(self, request: Request) -> Response:
        repository = repository_of(request)
        algorithm = request.query.get("digest-algorithm", "sha256")
        if algorithm not in ALGORITHMS:
            raise RegistryError("UNSUPPORTED", {"digest-algorithm": algorithm}, status=400)
        if "mount" in request.query:
            digest = digest_of(request.query["mount"])
            if await self._mount(request, repository, digest):
                record(request, "mount", repository, digest)
                return self._created(repository, digest)
        whole = digest_of(request.query["digest"]) if "digest" in request.query else None
        await self._quotas.admit(repository, request.body.length or 0)
        upload = await self._blobs.start_upload(repository, algorithm)
        if whole is None:
            return self._progress(repository, upload, 202)
        async with upload.lock:
            upload.expect(whole)
            await self._receive(request, upload)
            return await self._commit(request, repository, upload, whole)

    async def _mount(self, request: Request, repository: str, digest: Digest) -> bool:
        source = request.query.get("from")
        if not source and not self._mount_any:
            return False
        return await self._blobs.mount(repository, digest, checked_name(source) if source else None)

    async def _receive(self, request: Request, upload: Upload) -> None:
        try:
            await self._intake.receive(request, upload)
        except BaseException:
            await asyncio.shield(upload.pause())  # a broken transfer keeps what arrived
            raise

    async def status(self, request: Request) -> Response:
        repository, upload = await self._session(request)
        try:
            # A transfer that has just broken is still being written down: its client asks where to go on.
            async with asyncio.timeout(_SETTLE), upload.lock:
                return self._progress(repository, upload, 204)
        except TimeoutError:
            return self._progress(repository, upload, 204)

    async def append(self, request: Request) -> Response:
        repository, upload = await self._session(request)
        async with upload.lock:
            await self._quotas.admit(repository, upload.offset + (request.body.length or 0))
            await self._receive_at(request, repository, upload)
            await upload.pause()
            return self._progress(repository, upload, 202)

    async def finish(self, request: Request) -> Response:
        repository, upload = await self._session(request)
        if "digest" not in request.query:
            raise RegistryError("DIGEST_INVALID", "digest missing")
        digest = digest_of(request.query["digest"])
        async with upload.lock:
            if upload.offset == 0:
                upload.expect(digest)
            await self._receive_at(request, repository, upload)
            return await self._commit(request, repository, upload, digest)

    async def cancel(self, request: Request) -> Response:
        _, upload = await self._session(request)
        await upload.cancel()
        return Response(204)

    async def _session(self, request: Request) -> tuple[str, Upload]:
        repository = repository_of(request)
        upload = await self._blobs.resume_upload(repository, request.values["id"])
        if upload is None:
            raise RegistryError("BLOB_UPLOAD_UNKNOWN", {"upload": request.values["id"]})
        return repository, upload

    async def _receive_at(self, request: Request, repository: str, upload: Upload) -> None:
        expected = _expected_range(request)
        begin = upload.offset
        if expected is not None and expected[0] != begin:
            raise RegistryError("RANGE_INVALID", headers=self._headers(repository, upload))
        await self._receive(request, upload)
        if expected is not None and upload.offset != expected[1]:
            raise RegistryError("SIZE_INVALID", {"received": upload.offset - begin,
                                                 "announced": expected[1] - expected[0]})

    async def _commit(self, request: Request, repository: str, upload: Upload, digest: Digest) -> Response:
        size = upload.offset
        try:
            await self._quotas.admit(repository, size)
        except RegistryError:
            await upload.cancel()
            raise
        try:
            # The client may hang up now, half a commit helps nobody.
            await asyncio.shield(upload.commit(digest))
        except WrongDigest:
            raise RegistryError("DIGEST_INVALID", {"digest": digest}) from None
        self._quotas.add(repository, size)
        record(request, "push", repository, digest, size=size)
        return self._created(repository, digest)

    @staticmethod
    def _created(repository: str, digest: Digest) -> Response:
        return Response(201, {
            "Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": str(digest)})

    @staticmethod
    def _headers(repository: str, upload: Upload) -> dict[str, str]:
        # The range is inclusive, so docker's registry says 0-0 both for none and for one byte; clients know.
        return {"Location": f"/v2/{repository}/blobs/uploads/{upload.id}",
                "Range": f"0-{max(upload.offset - 1, 0)}", "Docker-Upload-UUID": upload.id}

    def _progress(self, repository: str, upload: Upload, status: int) -> Response:
        return Response(status, self._headers(repository, upload))
