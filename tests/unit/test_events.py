"""The event bus: what listeners get, from the past and from now on."""

from __future__ import annotations

import asyncio
import time

import pytest

from barque.engine.events import BACKLOG, HISTORY, EventBus


async def collect(bus: EventBus, filters: dict[str, list[str]] | None = None) -> list[str]:
    return [event["Action"] async for event in bus.stream(filters or {}, 0, time.time_ns())]


def fill(bus: EventBus) -> None:
    bus.emit("container", "create", "abc", {"name": "web", "image": "httpd:2", "k": "v"})
    bus.emit("container", "exec_create: sh", "abc", {"name": "web", "image": "httpd:2", "k": "w"})
    bus.emit("image", "pull", "httpd:2", {"name": "httpd"})
    bus.emit("volume", "create", "data", {"driver": "local"})


@pytest.mark.parametrize(("filters", "actions"), [
    ({}, ["create", "exec_create: sh", "pull", "create"]),
    ({"type": ["container"]}, ["create", "exec_create: sh"]),
    ({"event": ["exec_create"]}, ["exec_create: sh"]),
    ({"container": ["web"]}, ["create", "exec_create: sh"]),
    ({"container": ["ab"]}, ["create", "exec_create: sh"]),
    ({"image": ["httpd"]}, ["create", "exec_create: sh", "pull"]),
    ({"label": ["k=v"]}, ["create"]),
    ({"volume": ["data"]}, ["create"]),
    ({"type": ["image", "volume"], "event": ["create"]}, ["create"]),
])
async def test_filters(filters: dict[str, list[str]], actions: list[str]) -> None:
    bus = EventBus()
    fill(bus)
    assert await collect(bus, filters) == actions


async def test_the_past_is_bounded() -> None:
    bus = EventBus()
    for number in range(HISTORY + 5):
        bus.emit("container", str(number), "a", {})
    assert (await collect(bus))[0] == "5"


async def test_a_listener_hears_what_comes_and_is_forgotten() -> None:
    bus = EventBus()
    stream = bus.stream({}, None, None)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert bus.listeners == 1
    bus.emit("container", "die", "a", {"image": "x"})
    event = await waiting
    assert (event["Action"], event["status"], event["from"], event["id"]) == ("die", "die", "x", "a")
    await stream.aclose()  # type: ignore[attr-defined]
    assert bus.listeners == 0


async def test_a_listener_that_sleeps_is_dropped() -> None:
    bus = EventBus()
    stream = bus.stream({}, None, None)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    for number in range(BACKLOG + 3):
        bus.emit("container", str(number), "a", {})
    assert bus.listeners == 0
    with pytest.raises(StopAsyncIteration):
        await waiting
        await anext(stream)
