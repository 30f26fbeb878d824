"""Another runtime behind our monitor: crun, which refuses hosts that are half version 1. Run in the virtual machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from barque.supervise.messages import CreateOrder, RuntimeChoice
from tests.contract.test_supervise import RealWorld, attached, finish, frames, open_world


class CrunWorld(RealWorld):
    def order(self, *args: str, **options: Any) -> CreateOrder:
        return super().order(*args, runtime=RuntimeChoice("crun"), **options)


def in_world(folder: Path, body: Callable[[CrunWorld], Awaitable[None]]) -> None:
    async def run() -> None:
        async for world in open_world(CrunWorld, folder):
            assert isinstance(world, CrunWorld)
            await body(world)

    asyncio.run(run())


class TestCrun:
    def test_exit_code_and_output(self, tmp_path: Path) -> None:
        async def body(world: CrunWorld) -> None:
            monitor = await world.create("sh", "-c", "echo out; echo err >&2; exit 7")
            reader, writer = await attached(monitor)
            await monitor.start()
            assert frames(await reader.read()) == {1: b"out\n", 2: b"err\n"}
            writer.close()
            assert (await monitor.wait_exit()).exit_code == 7
            await monitor.release()

        in_world(tmp_path, body)

    def test_a_terminal(self, tmp_path: Path) -> None:
        async def body(world: CrunWorld) -> None:
            monitor = await world.create("sh", "-c", "stty size", terminal=True, console_size=(33, 99))
            reader, writer = await attached(monitor)
            await monitor.start()
            assert await reader.read() == b"33 99\r\n"
            writer.close()
            await monitor.wait_exit()
            await monitor.release()

        in_world(tmp_path, body)

    def test_exec_and_signals(self, tmp_path: Path) -> None:
        async def body(world: CrunWorld) -> None:
            monitor = await world.create("sleep", "1000")
            await monitor.start()
            await monitor.exec(world.exec_order("one", "sh", "-c", "exit 5"))
            assert await monitor.wait_exec("one") == 5
            assert (await finish(monitor)).exit_code == 137

        in_world(tmp_path, body)
