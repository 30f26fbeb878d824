"""The web page in a real browser, headless: what it shows of repositories, tags, layers and sizes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from barque.registry.app import Settings
from barque.registry.auth import PasswordFile, TokenAuthority
from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_world import CONFIG, INDEX, MANIFEST, Client, descriptor, digest, registry_over, until

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
EVIL = '<img src=x onerror="document.title=\'owned\'">'


class Browser:
    """One page of a headless Chromium, driven over its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, url: str) -> None:
        self._socket = socket
        self._url = url
        self._serial = 0

    async def call(self, method: str, **params: Any) -> Any:
        self._serial += 1
        await self._socket.send_json({"id": self._serial, "method": method, "params": params})
        async with asyncio.timeout(60):
            while True:
                answer = await self._socket.receive_json()
                if answer.get("id") == self._serial:
                    assert "error" not in answer, answer
                    return answer["result"]

    async def run(self, script: str) -> Any:
        """The value of an expression, once its promise is kept."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
                               userGesture=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def shows(self, script: str, value: Any) -> None:
        """Wait until the expression has the value."""
        found = None

        async def holds() -> bool:
            nonlocal found
            found = await self.run(script)
            return bool(found == value)

        try:
            await until(holds)
        except TimeoutError:
            raise AssertionError(f"{script}: {found!r}, not {value!r}") from None

    async def go(self, place: str) -> str:
        """The text of the place once it is there."""
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=f"{self._url}/ui/#/{place}")
        await self.shows("document.body && document.body.dataset.ready || ''", "1")
        return str(await self.run("document.body.innerText"))


@asynccontextmanager
async def browser(url: str, profile: Path) -> AsyncIterator[Browser]:
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
        "--remote-debugging-port=0", "about:blank", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL, env={**os.environ, "HOME": str(profile)}, start_new_session=True)
    try:
        port = profile / "DevToolsActivePort"

        async def listens() -> bool:
            return port.exists() and port.read_text().count("\n") == 1

        await until(listens, 60)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port.read_text().split()[0]}") as session:
            async with session.get("/json/list") as answer:
                page = next(each for each in await answer.json(content_type=None) if each["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                found = Browser(socket, url)
                await found.call("Browser.grantPermissions",
                                 permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
                await found.call("Emulation.setFocusEmulationEnabled", enabled=True)
                yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


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


def address(client: Client) -> str:
    return str(client._session._base_url).rstrip("/")


@needs_browser
async def test_page_shows_repositories_tags_and_layers(tmp_path: Path) -> None:
    storage = FilesystemStorage(str(tmp_path / "data"))
    async with registry_over(storage) as client, browser(address(client), tmp_path / "profile") as page:
        assert "Nothing here yet." in await page.go("")
        index = await fill(client)
        await page.go("")
        links = await page.run("[...document.querySelectorAll('td a')].map(a => a.hash)")
        assert links == ["#/r/other", "#/r/team/web"]
        await page.go("r/team/web")
        await page.shows("[...document.querySelectorAll('tbody tr')].map(row => [...row.cells].map(c => c.innerText)"
                         ".filter((_, i) => i !== 1))",
                         [["v1", "linux/amd64, linux/arm64", "6.21 MB"], ["v1-amd64", "linux/amd64", "6.20 MB"],
                          ["v1-arm64", "linux/arm64", "2.20 kB"]])
        image = await page.go("r/team/web/m/v1-amd64")
        for text in ("3 layers", "5.00 MB", "1.20 MB", "4.00 kB", "httpd -f", "2024-01-02 03:04", "linux/amd64"):
            assert text in image
        assert f"RUN step 0 {EVIL}" in image
        assert await page.run("document.title") == "team/web/m/v1-amd64"
        await page.run("document.querySelector('.copy').click()")
        await page.shows("document.querySelector('.copy').innerText", "Copied")
        pull = f"docker pull {address(client).removeprefix('http://')}/team/web:v1-amd64"
        assert await page.run("navigator.clipboard.readText()") == pull
        whole = await page.go(f"r/team/web/m/{digest(index)}")
        assert "Referrers" in whole
        assert f"application/vnd.example.signature{EVIL}" in whole
        await page.shows("[...document.querySelectorAll('td.n')].map(cell => cell.innerText).slice(0, 2)",
                         ["6.20 MB", "2.20 kB"])
        assert "404 repository name not known to registry" in await page.go("r/none")
        await page.call("Emulation.setDeviceMetricsOverride", width=375, height=700, deviceScaleFactor=1, mobile=True)
        await client.push_image("team/web", "t" * 128, b"small")
        for place in ("", "r/team/web", "r/team/web/m/v1-amd64", f"r/team/web/m/{digest(index)}", "r/none"):
            await page.go(place)
            assert await page.run("document.documentElement.scrollWidth") == 375, f"{place!r} is wider than the screen"
    storage.close()


@needs_browser
async def test_page_finds_one_of_many(tmp_path: Path) -> None:
    storage = FilesystemStorage(str(tmp_path / "data"))
    rows = "document.querySelectorAll('tbody tr').length"
    said = "document.querySelector('[role=status]').innerText"
    async with registry_over(storage) as client, browser(address(client), tmp_path / "profile") as page:
        image = await client.push_image("app", "v", b"layer")
        for number in range(250):
            (tmp_path / f"data/repositories/app/_tags/build-{number:03}").write_text(digest(image))
        await page.go("r/app")
        assert (await page.run(rows), await page.run(said)) == (100, "100 of 251")
        await page.run("[...document.querySelectorAll('button')].at(-1).click()")
        assert (await page.run(rows), await page.run(said)) == (200, "200 of 251")
        await page.run("filter.value = 'BUILD-24'; filter.oninput()")
        assert (await page.run(rows), await page.run(said)) == (10, "10 of 10 that match, 251 in all")
        assert await page.run("location.hash") == "#/r/app?filter=BUILD-24"
        assert "None of 251 matches." in await page.go("r/app?filter=nothing")
    storage.close()


@needs_browser
async def test_page_tells_who_may_not_look(tmp_path: Path) -> None:
    storage = FilesystemStorage(str(tmp_path / "data"))
    users = PasswordFile("ann:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW")
    settings = Settings(authenticator=TokenAuthority("", "reg", lambda _: None), users=users)
    async with registry_over(storage, settings) as client, browser(address(client), tmp_path / "profile") as page:
        assert "401 authentication required" in await page.go("")
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
        assert "<noscript>" in text
        async with client.get("/", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/ui/")
    storage.close()
