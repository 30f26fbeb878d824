"""The registry killed at each of its failpoints: after a restart nothing is torn, and the same push succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from barque.registry.check import check
from barque.registry.collect import Policy, collect
from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_peers import free_port
from tests.registry_world import Client, digest, registry_over

POINTS = ("registry.upload.written", "registry.blob.synced", "registry.blob.stored", "registry.file.synced",
          "registry.manifest.stored")
SERVE = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"


@contextlib.contextmanager
def armed_registry(root: Path, failpoints: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server that dies at a failpoint: its URL and its process."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, "--addr", f"127.0.0.1:{port}", "--root", str(root), "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE,
                          env={**os.environ, "BARQUE_FAILPOINTS": failpoints}) as server:
        try:
            assert server.stderr is not None
            assert b"registry:" in server.stderr.readline()
            yield f"http://127.0.0.1:{port}", server
        finally:
            server.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


async def push(client: Client) -> bytes:
    return await client.push_image("app", "v1", b"one" * 1000, b"two" * 1000)


@pytest.mark.parametrize("point", POINTS)
async def test_killed_registry_holds_whole_images_or_none(tmp_path: Path, point: str) -> None:
    FilesystemStorage(str(tmp_path)).close()
    with armed_registry(tmp_path, f"{point}=kill") as (url, server):
        async with aiohttp.ClientSession(url) as session:
            with pytest.raises(aiohttp.ClientError):
                await push(Client(session))
        assert await asyncio.to_thread(server.wait, 10) == -9
    storage = FilesystemStorage(str(tmp_path))
    try:
        assert await check(storage) == []
        async with registry_over(storage) as client:
            image = await push(client)
            assert await client.bytes_of("/v2/app/manifests/v1") == image
        report = await collect(storage, Policy(grace=-5, upload_lifetime=-5))
        assert report.skipped == []
        assert await check(storage) == []
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {"version", "_lock", "v1"}
        assert left == {digest(data)[7:] for data in (b"{}", b"one" * 1000, b"two" * 1000, image)}
    finally:
        storage.close()


async def test_disk_full_is_an_error_and_the_upload_goes_on(small_disk: Path) -> None:
    """A write that fails half-way leaves the session with what the writes before it brought."""
    storage = FilesystemStorage(str(small_disk / "data"))
    async with registry_over(storage) as client:
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 1_500_000)
        async with client.post("/v2/app/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        data = os.urandom(1_000_000)
        async with client.patch(location, data=data) as answer:
            assert answer.status == 500
        async with client.get(location) as answer:
            have = int(answer.headers["Range"].removeprefix("0-")) + 1
        assert have < len(data)
        ballast.unlink()
        async with client.put(location, data=data[have:], params={"digest": digest(data)}) as answer:
            assert answer.status == 201
        assert await client.bytes_of(f"/v2/app/blobs/{digest(data)}") == data
    storage.close()
