"""The least recently used images go when a new one exceeds the budget; uses survive a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

from barque.engine.image_budget import ImageBudget
from barque.image.resolve import ResolvedImage
from barque.image.use import ImageUse
from barque.oci.reference import parse
from tests.image_world import World, faulty_registry, make_image, world

SIZE = 40_000
IMAGES = [make_image({f"file{number}": bytes([number]) * SIZE}) for number in range(4)]


async def test_least_recently_used_images_go(tmp_path: Path) -> None:
    in_use: set[str] = set()
    gone = asyncio.Event()

    async with faulty_registry() as registry, world(tmp_path) as here:
        use = ImageUse(here.db)

        async def discard(image: ResolvedImage) -> None:
            await here.names.remove_image(image.id)
            await here.collect()
            gone.set()

        budget = ImageBudget(3 * SIZE + SIZE // 2, here.db, here.images, use, {"c": IMAGES[0].id}.__getitem__,
                             in_use.__contains__, discard)

        async def pull(number: int) -> None:
            registry.add(f"app{number}", "latest", IMAGES[number])
            await here.puller.pull(parse(f"{registry.address}/app{number}"), None, None, lambda _: None)

        for number in range(3):
            await pull(number)
        await budget.trim()
        assert len(await here.images.all()) == 3, "they fit"
        budget.heard({"Type": "container", "Action": "start", "Actor": {"ID": "c"}})
        await pull(3)
        budget.heard({"Type": "image", "Action": "pull", "Actor": {"ID": "app3"}})
        await asyncio.wait_for(gone.wait(), 60)
        assert await ids(here) == {IMAGES[0].id, IMAGES[2].id, IMAGES[3].id}, "1 was not used for longest"
        await budget.close()
        again = ImageUse(here.db)
        await again.load()
        assert again.last(IMAGES[0].id) == use.last(IMAGES[0].id) > 0

        in_use |= {IMAGES[0].id, IMAGES[2].id}
        tight = ImageBudget(SIZE // 2, here.db, here.images, again, lambda _: "", in_use.__contains__, discard)
        await tight.trim()
        assert await ids(here) == {image.id for image in (IMAGES[0], IMAGES[2], IMAGES[3])}, "used, used, newest"
        in_use.clear()
        await tight.trim()
        assert await ids(here) == {IMAGES[3].id}


async def test_uses_are_written_down_while_the_daemon_runs(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        use, reader = ImageUse(here.db, pause=0), ImageUse(here.db)
        for name in ("first", "second"):
            use.note(name)
            async with asyncio.timeout(60):
                while reader.last(name) != use.last(name):
                    await reader.load()
        await use.save({"second"})
        await reader.load()
        assert reader.last("first") == 0 < reader.last("second")


async def ids(here: World) -> set[str]:
    return {image.id for image in await here.images.all()}
