"""``POST /system/fsck``: the engine checks what it has on the disk, and mends it. Docker has no such thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from aiohttp import web

from barque.api.requests import flag, json
from barque.store.fsck import Damage


class Check(Protocol):
    async def __call__(self, *, repair: bool, deep: bool) -> Sequence[Damage]:
        """``deep``: unpack each layer a second time to compare its files."""


def routes(check: Check) -> list[web.RouteDef]:
    async def fsck(request: web.Request) -> web.StreamResponse:
        found = await check(repair=flag(request, "repair"), deep=flag(request, "deep"))
        return json([{key.capitalize(): value for key, value in asdict(damage).items()} for damage in found])

    return [web.post("/system/fsck", fsck)]
