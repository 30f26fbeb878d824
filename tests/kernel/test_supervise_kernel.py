"""Containers under a monitor at the limits: memory, processes, output, and the interpreter's own file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from barque.oci.mount import Mount
from barque.runtime.failure import RuntimeFailure
from barque.store.tar import messages as tar_messages
from barque.supervise import forkserver
from barque.supervise.client import Monitor
from barque.supervise.messages import CreateOrder, ExitRecord, LogConfig
from tests.contract.test_supervise import (
    RESTING,
    RealWorld,
    RuncWorld,
    acting_monitors,
    attached,
    children,
    ended,
    finish,
    frames,
    monitor_pid,
    open_world,
    pid_is_alive,
    spare_of,
)


class Box(RealWorld):
    """Containers with resources and without namespaces of one's choice."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.resources: dict[str, Any] = {}
        self.without: tuple[str, ...] = ()

    def spec(self, args: list[str], terminal: bool, bundle: Path) -> dict[str, Any]:
        spec = super().spec(args, terminal, bundle)
        spec["linux"]["resources"] = self.resources
        spaces = spec["linux"]["namespaces"]
        spec["linux"]["namespaces"] = [space for space in spaces if space["type"] not in self.without]
        return spec


class RestingBox(Box):
    """Their monitors rest at every chance."""

    def spawn(self, exec_root: str) -> forkserver.ZygoteHandle:
        return forkserver.spawn(exec_root, RESTING)


@pytest.fixture
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    async for world in open_world(getattr(request, "param", Box), tmp_path):
        assert isinstance(world, Box)
        yield world


either_way = pytest.mark.parametrize("box", [Box, RestingBox], indirect=True)


EAT = "a=x; while :; do a=$a$a$a$a; done"


@either_way
async def test_out_of_memory_is_recorded_and_told(box: Box) -> None:
    box.resources = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    monitor = await box.create("sh", "-c", f"sh -c '{EAT}'; sleep 1000")
    await monitor.start()
    assert await asyncio.wait_for(monitor.wait_oom(), 60) >= 1
    record = await finish(monitor)
    assert (record.exit_code, record.oom_killed) == (137, True)


async def test_out_of_memory_of_the_first_process(box: Box) -> None:
    box.resources = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    record = await box.run("sh", "-c", EAT)
    assert (record.exit_code, record.oom_killed) == (137, True)


async def test_killed_is_not_out_of_memory(box: Box) -> None:
    box.resources = {"memory": {"limit": 16 << 20}}
    monitor = await box.create("sleep", "1000")
    await monitor.start()
    waiting = asyncio.create_task(monitor.wait_oom())
    record = await finish(monitor)
    assert not record.oom_killed
    await asyncio.gather(waiting, return_exceptions=True)


async def test_fork_bomb_is_bounded_and_gone_with_the_first_process(box: Box) -> None:
    box.resources = {"pids": {"limit": 30}}
    monitor = await box.create("sh", "-c", "(b() { b | b & }; b) & exec sleep 1000")
    reader, writer = await attached(monitor)
    await monitor.start()
    assert b"can't fork" in await reader.readline()
    pids = Path(monitor.cgroup["pids"], "pids.current")
    assert int(pids.read_text()) <= 30
    record = await finish(monitor)
    assert record.exit_code == 137
    assert not pids.exists()
    writer.close()


async def test_without_a_pid_namespace_all_end_with_the_first_process(box: Box) -> None:
    box.without = ("pid",)
    monitor = await box.create("sh", "-c", "sleep 1000 & echo $!; exit 3")
    reader, writer = await attached(monitor)
    await monitor.start()
    pid = int(frames(await reader.read())[1])
    record = await monitor.wait_exit()
    assert record.exit_code == 3
    await ended(pid)
    async with asyncio.timeout(60):
        while offspring(box, monitor):  # noqa: ASYNC110
            await asyncio.sleep(0.01)    # /proc tells no events
    writer.close()
    await monitor.release()


@either_way
@pytest.mark.parametrize("killed", [False, True])
async def test_an_end_that_cannot_be_written_down_is_told(box: Box, killed: bool) -> None:
    """As on a full disk: what stands where the file would be cannot be opened."""
    monitor = await box.create("sh", "-c", "read x; exit 3", open_stdin=True, stdin_once=True)
    reader, writer = await attached(monitor, stdin=True)
    await monitor.start()
    (box.root / "containers" / monitor.id / "exit.json.tmp").mkdir()
    if killed:
        os.kill(monitor_pid(box, monitor), signal.SIGKILL)
    else:
        writer.write_eof()
    record = await asyncio.wait_for(monitor.wait_exit(), 60)
    assert record.exit_code == (255 if killed else 3)
    await monitor.release()
    await reader.read()
    writer.close()


@either_way
async def test_orphans_of_a_container_without_pid_namespace_are_reaped(box: Box) -> None:
    box.without = ("pid",)
    monitor = await box.create("sh", "-c", "for i in 1 2 3; do (sleep 0 & echo $! ); done; echo end; read x",
                               open_stdin=True)
    reader, writer = await attached(monitor, stdin=True)
    await monitor.start()
    output = b""
    while b"end" not in output:
        output += await reader.read(100)
    await monitor.exec(box.exec_order("e", "true"))
    assert await monitor.wait_exec("e") == 0
    async with asyncio.timeout(60):
        while offspring(box, monitor) != [monitor.pid]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)    # /proc tells no events
    writer.close()
    await finish(monitor)


def offspring(box: Box, monitor: Monitor) -> list[int]:
    """The children of a container's keeper and of its monitor, zombies included."""
    keeper = monitor_pid(box, monitor)
    acting = acting_monitors(keeper)
    return [pid for parent in (keeper, *acting) for pid in children(parent) if pid not in acting]


@pytest.mark.slow
async def test_200_mb_of_output_with_rotation_and_a_reader(box: Box) -> None:
    order = box.order("sh", "-c", "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | "
                                  "head -c 200000000")
    log = LogConfig(str(box.root / "big.log"), max_size=20 << 20, max_files=3)
    monitor = await box.supervisor.create(replace_log(order, log))
    reader, writer = await attached(monitor)
    await monitor.start()
    received = 0
    while data := await reader.read(1 << 20):
        received += len(data)
    record = await monitor.wait_exit()
    assert (record.exit_code, record.log_dropped) == (0, 0)
    assert received >= 200_000_000
    files = [box.root / name for name in ("big.log", "big.log.1", "big.log.2")]
    assert all(file.stat().st_size < (20 << 20) + 200 for file in files)
    for file in files:
        for line in file.read_bytes().splitlines():
            assert line.startswith(b'{"log":"0123')
            assert line.endswith(b'Z"}')
    writer.close()
    await monitor.release()


def replace_log(order: CreateOrder, log: LogConfig) -> CreateOrder:
    return replace(order, log=log)


async def test_full_disk_of_the_log_harms_nobody(box: Box) -> None:
    order = replace_log(box.order("sh", "-c", "yes | head -c 1000000; exit 3"), LogConfig("/dev/full"))
    monitor = await box.supervisor.create(order)
    reader, writer = await attached(monitor)
    await monitor.start()
    assert len(frames(await reader.read())[1]) == 1_000_000
    record = await monitor.wait_exit()
    assert record.exit_code == 3
    assert record.log_dropped > 1_000_000
    writer.close()
    await monitor.release()


async def test_log_that_cannot_be_opened_fails_the_create(box: Box) -> None:
    order = replace_log(box.order("true"), LogConfig("/does/not/exist/log"))
    with pytest.raises(RuntimeFailure, match="no such file"):
        await box.supervisor.create(order)


async def test_crash_of_the_monitor_ends_the_container_with_a_record(box: Box) -> None:
    monitor = await box.create("sleep", "1000")
    await monitor.start()
    exit_file = box.root / "containers" / monitor.id / "exit.json"
    os.kill(monitor_pid(box, monitor), signal.SIGSEGV)
    record = await monitor.wait_exit()
    assert record.error
    assert json.loads(exit_file.read_text())["exit_code"] == 255
    assert not pid_is_alive(monitor.pid)
    await monitor.release()


async def test_monitor_and_zygote_run_from_a_read_only_mount(box: Box) -> None:
    monitor = await box.create("sleep", "1000")
    for pid in (monitor_pid(box, monitor), box.supervisor.zygote_pid):
        assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    await monitor.release()


async def test_monitor_survives_the_group_and_session_of_the_zygote(box: Box) -> None:
    monitor = await box.create("sleep", "1000")
    await monitor.start()
    assert os.getsid(monitor_pid(box, monitor)) == monitor_pid(box, monitor)
    zygote = box.supervisor.zygote_pid
    assert zygote is not None
    os.killpg(os.getpgid(zygote), signal.SIGKILL)
    record = await finish(monitor)
    assert isinstance(record, ExitRecord)
    assert record.exit_code == 137


async def test_no_descriptor_of_ours_in_the_container(box: Box) -> None:
    record_reader = await box.create("sh", "-c", "for f in /proc/self/fd/*; do echo $f; done")
    reader, writer = await attached(record_reader)
    await record_reader.start()
    names = [os.path.basename(line) for line in frames(await reader.read())[1].decode().split()]
    assert names in (["0", "1", "2"], ["0", "1", "2", "3"])    # 3: the shell reads the directory
    writer.close()
    await finish(record_reader)


async def test_dead_helper_of_the_spare_monitor_is_replaced(box: Box) -> None:
    first = await box.create("sleep", "1000")
    (monitor,) = acting_monitors(await spare_of(box))
    async with asyncio.timeout(60):
        while not (helper := children(monitor)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)    # it is forked once the supervisor knows of the monitor
    os.kill(helper[0], signal.SIGKILL)
    await ended(helper[0])
    second = await box.create("sh", "-c", "exit 3")
    assert monitor in acting_monitors(monitor_pid(box, second))
    await second.start()
    assert (await second.wait_exit()).exit_code == 3
    await second.release()
    await first.release()


async def test_a_hundred_in_a_row_leave_nothing(box: Box, tmp_path: Path) -> None:
    async def traces() -> dict[str, object]:
        assert box.supervisor.refill is not None
        await box.supervisor.refill
        pid = box.supervisor.zygote_pid
        assert pid is not None
        with pytest.raises(RuntimeFailure):
            await box.supervisor.run("nothing", b"", [])    # once this is refused it has done all before
        async with asyncio.timeout(60):
            while len(children(pid)) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)    # keepers, but for the spare one, end soon after the release
        return {
            "cgroups": sorted(Path("/sys/fs/cgroup").glob(f"**/barque-supervise-{os.getpid()}-*")),
            "mounts": [Path(f"/proc/{owner}/mountinfo").read_text() for owner in ("self", pid)],
            "files": sorted(path.name for path in [*tmp_path.glob("containers/*"), *tmp_path.glob("m/*")]),
            "descriptors": (len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{pid}/fd")))}

    assert (await box.run("true", log=False)).exit_code == 0
    before = await traces()
    for _ in range(100):
        assert (await box.run("true", log=False)).exit_code == 0
    # The zygote closes what a keeper has left a little after that has ended.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while await traces() != before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert await traces() == before


async def test_zygote_forks_the_unpack_worker(box: Box, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    (tmp_path / "layer.tar").write_bytes(data.getvalue())
    source, target = os.open(tmp_path / "layer.tar", os.O_RDONLY), os.open(tmp_path / "target", os.O_RDONLY)
    answer = await box.supervisor.run("unpack", tar_messages.encode(tar_messages.UnpackRequest()), [source, target])
    result = tar_messages.decode(answer, tar_messages.UnpackResult)
    assert (result.error, result.entries, result.size) == (None, 1, 5)
    assert (tmp_path / "target/etc/motd").read_bytes() == b"hello"
    os.close(source)
    os.close(target)


@pytest.mark.parametrize("kind", [RealWorld, RuncWorld], ids=lambda kind: kind.name)
async def test_overlay_root_and_user_by_name(kind: type[RealWorld], tmp_path: Path) -> None:
    async for world in open_world(kind, tmp_path):
        assert isinstance(world, RealWorld)
        (world.rootfs / "etc/passwd").write_text("app:x:1234:1235::/:/bin/sh\n")
        (world.rootfs / "tmp").chmod(0o1777)
        (world.rootfs / "bin/id").symlink_to("busybox")
        order = world.order("sh", "-c", "id -u; id -g; pwd; echo written > /tmp/file")
        config = Path(order.bundle, "config.json")
        spec = json.loads(config.read_text())
        spec["root"]["path"] = "rootfs"
        spec["process"]["cwd"] = "/made/here"
        spec["annotations"] = {"org.barque.user": "app", "org.barque.cwd.create": "true"}
        config.write_text(json.dumps(spec))
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
        Path(order.bundle, "rootfs").mkdir()
        root = Mount(type="overlay", lower=(str(world.rootfs),), upper=str(tmp_path / "upper"),
                     work=str(tmp_path / "work"))
        monitor = await world.supervisor.create(replace(order, rootfs=(root,)))
        reader, writer = await attached(monitor)
        await monitor.start()
        assert frames(await reader.read()) == {1: b"1234\n1235\n/made/here\n", 2: b""}
        await monitor.wait_exit()
        await monitor.release()
        writer.close()
        await writer.wait_closed()
        assert (tmp_path / "upper/tmp/file").read_text() == "written\n"
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
