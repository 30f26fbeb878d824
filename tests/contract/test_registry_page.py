"""The web page in a real browser, headless: what it shows of repositories, tags, layers and sizes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_world import CONFIG, INDEX, MANIFEST, Client, descriptor, digest, registry_over

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
EVIL = '<img src=x onerror="document.title=\'owned\'">'


async def browse(url: str, profile: Path, *more: str) -> str:
    """The page's markup after its scripts have run."""
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
        "--virtual-time-budget=8000", *more, "--dump-dom", url, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL, env={**os.environ, "HOME": str(profile)}, start_new_session=True)
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    return out.decode()


async def fill(client: Client) -> bytes:
    """Two repositories: one with an image for two platforms and a signature, one with a name that needs care."""
    children = []
    made = {"amd64": [b"a" * 5_000_000, b"b" * 1_200_000, b"c" * 4000], "arm64": [b"d" * 2000]}
    for architecture, layers in made.items():
        history = [{"created_by": f"RUN step {number} {EVIL}"} for number in range(len(layers))]
        config = json.dumps({"architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
                             "config": {"Cmd": ["httpd", "-f"]}, "history": history}).encode()
        for data in (config, *layers):
            await client.push_blob("team/web", data)
        body = await client.push_manifest("team/web", f"v1-{architecture}", {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config, CONFIG),
            "layers": [descriptor(layer) for layer in layers]})
        children.append({**descriptor(body, MANIFEST), "platform": {"os": "linux", "architecture": architecture}})
    index = await client.push_manifest("team/web", "v1", {"schemaVersion": 2, "mediaType": INDEX,
                                                          "manifests": children})
    await client.push_image("team/web", "", b"signature", subject=descriptor(index, INDEX),
                            artifactType="application/vnd.example.signature" + EVIL)
    await client.push_image("other", "latest", b"small")
    return index


@needs_browser
async def test_page_shows_repositories_tags_and_layers(tmp_path: Path) -> None:
    storage = FilesystemStorage(str(tmp_path / "data"))
    async with registry_over(storage) as client:
        index = await fill(client)
        base = str(client._session._base_url).rstrip("/") + "/ui/#/"
        profile = tmp_path / "profile"
        home = await browse(base, profile)
        assert re.findall(r'href="#/r/([^"]+)"', home) == ["other", "team/web"]
        tags = await browse(base + "r/team/web", profile)
        assert re.findall(r'href="#/r/team/web/m/([^"]+)"', tags) == ["v1", "v1-amd64", "v1-arm64"]
        assert "linux/amd64, linux/arm64" in tags
        assert "6.20 MB" in tags
        image = await browse(base + "r/team/web/m/v1-amd64", profile)
        for text in ("3 layers", "5.00 MB", "1.20 MB", "4.00 kB", "httpd -f", "2024-01-02 03:04", "linux/amd64"):
            assert text in image
        assert "RUN step 0 &lt;img" in image
        assert "<title>owned" not in image
        whole = await browse(base + f"r/team/web/m/{digest(index)}", profile)
        assert "Referrers" in whole
        assert "application/vnd.example.signature&lt;img" in whole
        missing = await browse(base + "r/none", profile)
        assert "404 repository name not known to registry" in missing
    storage.close()


async def test_page_lets_no_foreign_script_run(tmp_path: Path) -> None:
    storage = FilesystemStorage(str(tmp_path))
    async with registry_over(storage) as client:
        async with client.get("/ui/") as answer:
            policy, text = answer.headers["Content-Security-Policy"], await answer.text()
        assert policy.startswith("default-src 'none'; script-src 'nonce-")
        nonce = policy.split("nonce-")[1].split("'")[0]
        assert re.findall(r'nonce="([^"]+)"', text) == [nonce, nonce]
        assert "innerHTML" not in text
        async with client.get("/", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/ui/")
    storage.close()
