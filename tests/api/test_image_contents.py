"""What layers add, replace, delete and waste, and how images differ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.image_site import Site, image_site
from tests.image_world import digest, make_image

BASE = {"etc/keep": b"k" * 10, "etc/change": b"c" * 100, "old/a": b"a" * 1000, "old/b": b"b" * 2000, "gone": b"g" * 50}
CHANGED = {"etc/change": b"C" * 60, ".wh.gone": b"", "old/.wh..wh..opq": b"", "old/new": b"n" * 7, "top": b"t" * 5}
IMAGE = make_image(BASE, CHANGED)
TWIN = make_image(BASE, {"etc/change": b"D" * 60, "gone/now/a/directory": b""})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with image_site(tmp_path) as found:
        for name, image in (("image", IMAGE), ("twin", TWIN)):
            found.registry.add(name, "latest", image)
            await found.pull(name)
        yield found


async def test_layers(site: Site) -> None:
    status, [base, top] = await site.ask("GET", f"/images/{site.name('image')}/layers?files=3")
    assert status == 200
    assert base["Added"] == {"Files": 5, "Bytes": 3160} and base["Wasted"] == 0
    assert (base["CreatedBy"], base["Digest"], base["Size"]) == ("layer 0", digest(IMAGE.layers[0]), 3160)
    assert base["Largest"][0] == {"Kind": "added", "Path": "/old/b", "Size": 2000}
    assert top["Added"] == {"Files": 2, "Bytes": 12} and top["Replaced"] == {"Files": 1, "Bytes": 60}
    assert top["Deleted"] == {"Files": 3, "Bytes": 3050} and top["Wasted"] == 3150
    assert [item["Path"] for item in top["Largest"]] == ["/old/b", "/old/a", "/etc/change"]
    assert (await site.ask("GET", f"/images/{site.name('image')}/layers?files=-1"))[0] == 400


async def test_differences(site: Site) -> None:
    async def diff(one: str, other: str) -> list[tuple[Any, ...]]:
        status, items = await site.ask("GET", f"/images/{site.name(one)}/diff", params={"to": site.name(other)})
        assert status == 200, items
        return [(item["Kind"], item["Path"], item["What"]) for item in items]

    assert await diff("image", "image") == []
    assert await diff("image", "twin") == [
        ("C", "/etc/change", "content"), ("A", "/gone", ""), ("A", "/gone/now", ""), ("A", "/gone/now/a", ""),
        ("A", "/gone/now/a/directory", ""), ("A", "/old/a", ""), ("A", "/old/b", ""), ("D", "/old/new", ""),
        ("D", "/top", "")]
    assert ("A", "/top", "") in await diff("twin", "image")
    assert (await site.ask("GET", f"/images/{site.name('image')}/diff"))[0] == 400
    assert (await site.ask("GET", f"/images/{site.name('image')}/diff?to=nope"))[0] == 404
