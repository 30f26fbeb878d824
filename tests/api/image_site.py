"""An application with the image routes over a real store, and a registry on loopback to pull from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from barque.api.app import build
from barque.api.routes import image_contents as content_routes
from barque.api.routes.images import routes
from barque.engine.commit import apply_changes
from barque.engine.image_archives import ImageArchives
from barque.engine.image_attestations import Attestations
from barque.engine.image_explorer import Explorer
from barque.engine.image_removal import ImageUser
from barque.engine.images import ImageService
from barque.image.client.auth import Credentials
from barque.image.client.download import download
from barque.image.client.login import login
from barque.image.imports import Importer
from barque.image.load import Loader
from barque.image.save import Saver
from barque.oci.platform import Platform
from barque.oci.reference import Reference
from barque.store.gc import GcReport
from barque.store.workers import SubprocessWorkers
from tests.image_world import FaultyRegistry, World, faulty_registry, world


class Site:
    """An application with nothing but the image routes."""

    session: aiohttp.ClientSession

    def __init__(self, here: World, registry: FaultyRegistry) -> None:
        self.here = here
        self.registry = registry
        self.users: dict[str, list[ImageUser]] = {}
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self.collected = asyncio.Event()

    async def collect(self) -> GcReport:
        report = await self.here.collect()
        self.collected.set()
        return report

    def users_of_image(self, image_id: str) -> Sequence[ImageUser]:
        return self.users.get(image_id, [])

    def emit(self, kind: str, action: str, actor: str, attributes: Mapping[str, str]) -> None:
        assert kind == "image"
        self.events.append((action, actor, dict(attributes)))

    async def flatten(self, text: str, platform: Platform | None, ref: Reference | None) -> str:
        raise NotImplementedError("flattening needs a supervisor: see tests/e2e")

    async def ask(self, method: str, path: str, version: str = "1.45", **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, f"/v{version}{path}", **options) as response:
            text = await response.text()
            if "\r\n" in text:
                return response.status, [json.loads(line) for line in text.splitlines()]
            return response.status, json.loads(text) if text else None

    async def pull(self, name: str, tag: str = "latest") -> list[dict[str, Any]]:
        status, lines = await self.ask("POST", "/images/create", params={"fromImage": f"{self.registry.address}/{name}",
                                                                         "tag": tag})
        assert status == 200, lines
        return lines  # type: ignore[no-any-return]

    def name(self, rest: str) -> str:
        return f"{self.registry.address}/{rest}"


def archives(here: World, found: Site) -> ImageArchives:
    return ImageArchives(
        Saver(here.content, here.images, here.names),
        Loader(here.content, here.snapshots, here.leases, here.names, SubprocessWorkers(), here.slots),
        Importer(here.made, here.snapshots, apply_changes), partial(download, here.transport), found.collect,
        found.emit)


@asynccontextmanager
async def _serve(here: World, registry: FaultyRegistry) -> AsyncIterator[Site]:
    async def prove(credentials: Credentials) -> str:
        return await login(here.transport, credentials)

    found = Site(here, registry)
    service = ImageService(here.images, here.names, here.snapshots, here.puller, here.pusher, found, found.collect,
                           found.emit)
    # As the daemon serves it: a client that goes away cancels its request.
    known = [*content_routes.routes(Attestations(here.images, here.content), Explorer(here.images, here.snapshots),
                                      found),
             *routes(service, archives(here, found), prove)]
    runner = web.AppRunner(build(known), access_log=None,
                           handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as found.session:
            yield found
    finally:
        await runner.cleanup()




@asynccontextmanager
async def image_site(root: Path) -> AsyncIterator[Site]:
    async with faulty_registry() as registry, world(root) as here, _serve(here, registry) as found:
        yield found
