"""Checkpoint and restore by the real criu, which not every kernel takes. Run in the virtual machine."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from barque.supervise.checkpoint import CheckpointRequest, CheckpointResult
from barque.supervise.client import Monitor
from barque.supervise.messages import Checkpoint
from tests.contract.test_supervise import RealWorld, open_world

#: How long anything may take under emulation, on a host that is busy with other things (seconds).
PATIENCE = 200
#: Its state is in memory, in an open file and in a tmpfs.
COUNT = ("echo kept >/dev/shm/kept; exec 5>>/counts; i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i >&5; "
         "sleep 0.1; done; exit 7")


def counted(root: Path, more_than: int = 0) -> int:
    """The last number that was counted, once it is greater; they follow each other."""
    end = time.monotonic() + PATIENCE
    while True:
        lines = (root / "counts").read_text().split() if (root / "counts").exists() else []
        if len(lines) > more_than:
            assert lines == [str(number) for number in range(1, len(lines) + 1)]
            return len(lines)
        assert time.monotonic() < end, f"nobody counts beyond {lines[-1:]}"
        time.sleep(0.05)


class TestCriu:
    def test_it_goes_on_where_it_was(self, barque, bundle, tmp_path):
        (tmp_path / "given").write_text("given\n")
        bundle.spec["mounts"].append({"destination": "/etc/given", "type": "bind", "source": str(tmp_path / "given"),
                                      "options": ["bind", "ro"]})
        bundle.save("sh", "-c", COUNT)
        barque.detached("run", "--detach", "--bundle", str(bundle.path), "first")
        counted(bundle.rootfs, 2)
        images = str(tmp_path / "last")
        barque.ok("checkpoint", "--leave-running", "--image-path", str(tmp_path / "one"), "first", timeout=PATIENCE)
        counted(bundle.rootfs, counted(bundle.rootfs))
        barque.ok("checkpoint", "--image-path", images, "first", timeout=PATIENCE)
        assert barque.ok("list", "-q") == ""
        last = counted(bundle.rootfs)

        copy = tmp_path / "copy"
        shutil.copytree(bundle.path, copy, symlinks=True)
        restored = subprocess.Popen([*barque.base, "restore", "--image-path", images, "--bundle", str(copy), "second"],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        counted(copy / "rootfs", last + 2)
        assert counted(bundle.rootfs) == last
        done = barque("exec", "second", "sh", "-c", "cat /dev/shm/kept /etc/given; echo x 2>&1 >/etc/given; "
                                                    "ip link show lo; touch /stop", timeout=PATIENCE)
        assert done.stdout.startswith("kept\ngiven\n")
        assert "Read-only file system" in done.stdout and "LOWER_UP" in done.stdout
        assert restored.wait(PATIENCE) == 7
        assert barque.ok("list", "-q") == ""

    def test_behind_a_monitor(self, tmp_path: Path) -> None:
        """On a terminal: what it says, how it ends and who joins it are as before."""
        async def body(world: RealWorld) -> None:
            order = world.order("sh", "-c", "i=0; while read line; do i=$((i+1)); echo $line $i; done; exit 9",
                                terminal=True, open_stdin=True)
            monitor = await world.supervisor.create(order)
            reader, writer = await monitor.attach(None, stdin=True, stdout=True, stderr=True)
            await monitor.start()
            writer.write(b"one\n")
            assert b"one 1" in await reader.readuntil(b"one 1\r\n")
            writer.close()
            images = await checkpoint(world, monitor, order.bundle)
            assert (await monitor.wait_exit()).exit_code == 137
            await monitor.release()

            again = world.order("sh", terminal=True, open_stdin=True, checkpoint=images)
            Path(again.bundle, "rootfs").mkdir()
            monitor = await world.supervisor.create(again)
            reader, writer = await monitor.attach(None, stdin=True, stdout=True, stderr=True)
            await monitor.start()
            writer.write(b"two\n")
            assert b"two 2" in await reader.readuntil(b"two 2\r\n")
            await monitor.exec(world.exec_order("joined", "sh", "-c", "exit 5"))
            assert await monitor.wait_exec("joined") == 5
            writer.write(b"\x04")
            assert (await monitor.wait_exit()).exit_code == 9
            writer.close()
            await monitor.release()

        in_world(tmp_path, body)


async def checkpoint(world: RealWorld, monitor: Monitor, bundle: str) -> Checkpoint:
    where = Checkpoint(str(world.root / "images"), str(world.root / "work"))
    request = CheckpointRequest(monitor.pid, bundle, monitor.cgroup, where, leave_running=False)
    answer = await world.supervisor.run("checkpoint", msgspec.json.encode(request), [])
    failure = msgspec.json.decode(answer, type=CheckpointResult).failure
    assert failure is None, failure
    return where


def in_world(folder: Path, body: Callable[[RealWorld], Awaitable[None]]) -> None:
    async def run() -> None:
        async for world in open_world(RealWorld, folder):
            assert isinstance(world, RealWorld)
            async with asyncio.timeout(PATIENCE):
                await body(world)

    asyncio.run(run())
