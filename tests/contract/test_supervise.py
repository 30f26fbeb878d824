"""The contract of supervise.client, over the fake (processes of the host) and, with the runtime, real containers."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import shutil
import signal
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from barque.errors import BarqueError
from barque.oci.runtime_spec import Process
from barque.runtime.failure import RuntimeFailure
from barque.supervise import forkserver
from barque.supervise.client import Disconnected, Monitor, MonitorGone, Supervisor, WorkerDied
from barque.supervise.messages import CreateOrder, ExecOrder, ExitRecord, LogConfig, RuntimeChoice
from barque.supervise.zygote_client import ZygoteClient
from barque.sys import inotify

FAKE = (str(Path(__file__).with_name("fake_zygote.py")),)
RESTING = (str(Path(__file__).with_name("resting_zygote.py")), "0")
WAKEFUL = (*RESTING[:1], "3600")
PATH = ["PATH=/bin:/usr/bin"]


ROOT_DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp")
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]


class World:
    """A supervisor on an exec root of its own, and bundles to run on it: plain processes in place of containers."""

    name = "fake"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.supervisor: Supervisor
        self._count = 0

    def spawn(self, exec_root: str) -> forkserver.ZygoteHandle:
        return forkserver.spawn(exec_root, FAKE)

    async def connect(self) -> Supervisor:
        self.supervisor = await Supervisor.start(str(self.root), spawn=self.spawn)
        return self.supervisor

    def order(self, *args: str, terminal: bool = False, log: bool = True, **options: Any) -> CreateOrder:
        self._count += 1
        container_id = f"{self._count:02}" + "c0ffee" * 10
        bundle = self.root / "containers" / container_id / "bundle"
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_bytes(json.dumps(self.spec(list(args), terminal, bundle)).encode())
        path = str(self.root / f"{container_id}-json.log")
        return CreateOrder(container_id, str(bundle), terminal=terminal, log=LogConfig(path) if log else None,
                           spool_dir=str(self.root), **options)

    def spec(self, args: list[str], terminal: bool, bundle: Path) -> dict[str, Any]:
        return {"ociVersion": "1.3.0", "process": {"args": args, "env": PATH, "cwd": "/", "terminal": terminal}}

    async def create(self, *args: str, **options: Any) -> Monitor:
        return await self.supervisor.create(self.order(*args, **options))

    async def run(self, *args: str, **options: Any) -> ExitRecord:
        monitor = await self.create(*args, **options)
        await monitor.start()
        record = await monitor.wait_exit()
        await monitor.release()
        return record

    def exec_order(self, exec_id: str, *args: str, **options: Any) -> ExecOrder:
        return ExecOrder(exec_id, Process(args=list(args), env=PATH), **options)

    def log(self, monitor: Monitor) -> list[dict[str, str]]:
        text = (self.root / f"{monitor.id}-json.log").read_text()
        return [json.loads(line) for line in text.splitlines()]


class RealWorld(World):
    """Containers of the built-in runtime, on a root file system that is busybox."""

    name = "real"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.rootfs = root / "rootfs"
        for name in ROOT_DIRECTORIES:
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.rootfs / "bin/busybox")
        for name in ("sh", "sleep", "true", "cat", "wc", "seq", "stty", "head", "tr", "fold", "echo", "dd", "yes"):
            (self.rootfs / "bin" / name).symlink_to("busybox")

    def spawn(self, exec_root: str) -> forkserver.ZygoteHandle:
        return forkserver.spawn(exec_root)

    def spec(self, args: list[str], terminal: bool, bundle: Path) -> dict[str, Any]:
        return {
            "ociVersion": "1.3.0",
            "process": {"args": args, "env": ["PATH=/bin"], "cwd": "/", "terminal": terminal,
                        "user": {"uid": 0, "gid": 0}},
            "root": {"path": str(self.rootfs)},
            "mounts": MOUNTS,
            "linux": {"cgroupsPath": f"/barque-supervise-{os.getpid()}-{bundle.parent.name[:12]}",
                      "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")]},
        }


class RestingWorld(RealWorld):
    """The same containers, whose monitors rest at every chance."""

    name = "resting"

    def spawn(self, exec_root: str) -> forkserver.ZygoteHandle:
        return forkserver.spawn(exec_root, RESTING)


class RuncWorld(RestingWorld):
    """The same again, run by runc."""

    name = "runc"

    def order(self, *args: str, **options: Any) -> CreateOrder:
        return super().order(*args, runtime=RuntimeChoice("runc"), **options)


@pytest.fixture(params=[World, RealWorld, RestingWorld, RuncWorld], ids=lambda kind: kind.name)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async for world in open_world(request.param, tmp_path):
        yield world


@pytest.fixture
async def fake_world(tmp_path: Path) -> AsyncIterator[World]:
    async for world in open_world(World, tmp_path):
        yield world


async def open_world(kind: type[World], tmp_path: Path) -> AsyncIterator[World]:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    world = kind(tmp_path)
    await world.connect()
    try:
        yield world
    finally:
        await world.supervisor.close()
    assert os.listdir(tmp_path / "containers") == os.listdir(tmp_path / "m") == []
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def frames(data: bytes) -> dict[int, bytes]:
    """Undo docker's multiplexing: stream -> bytes."""
    parts: dict[int, list[bytes]] = {1: [], 2: []}
    at = 0
    while at < len(data):
        stream, length = struct.unpack_from("!BxxxI", data, at)
        parts[stream].append(data[at + 8:at + 8 + length])
        at += 8 + length
    return {stream: b"".join(found) for stream, found in parts.items()}


async def attached(monitor: Monitor, exec_id: str | None = None, *, stdin: bool = False) -> tuple[
        asyncio.StreamReader, asyncio.StreamWriter]:
    return await monitor.attach(exec_id, stdin=stdin, stdout=True, stderr=True)


async def finish(monitor: Monitor, number: int = signal.SIGKILL) -> ExitRecord:
    try:
        await monitor.signal(number)
    except RuntimeFailure:
        pass
    record = await monitor.wait_exit()
    await monitor.release()
    return record


def pid_is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_exit_code(world: World) -> None:
    record = await world.run("sh", "-c", "exit 7")
    assert (record.exit_code, record.signal, record.error) == (7, 0, "")
    assert record.started_at <= record.finished_at
    assert record.started_at.endswith("Z")


async def test_signal_is_128_plus_its_number(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    record = await finish(monitor, signal.SIGKILL)
    assert (record.exit_code, record.signal) == (137, 9)


async def test_create_failure_leaves_nothing(world: World) -> None:
    with pytest.raises(RuntimeFailure):
        await world.create()
    monitor_dirs = os.listdir(world.root / "containers")
    assert monitor_dirs == []


async def test_program_that_is_not_there_says_so_at_create_or_start_and_leaves_nothing(world: World) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        monitor = await world.create("/does/not/exist")
        await monitor.start()
    assert raised.value.errno == 2
    assert raised.value.exit_code == 127
    for left in world.supervisor.monitors:
        await left.disconnect()


async def test_output_is_complete_in_the_log_when_the_exit_is_known(world: World) -> None:
    monitor = await world.create("sh", "-c", "echo out; echo err >&2; printf tail")
    await monitor.start()
    await monitor.wait_exit()
    entries = world.log(monitor)
    assert {(entry["stream"], entry["log"]) for entry in entries} == {
        ("stdout", "out\n"), ("stderr", "err\n"), ("stdout", "tail")}
    await monitor.release()


async def test_attach_before_start_gets_everything_in_frames(world: World) -> None:
    monitor = await world.create("sh", "-c", "echo out; echo err >&2")
    reader, writer = await attached(monitor)
    await monitor.start()
    assert frames(await reader.read()) == {1: b"out\n", 2: b"err\n"}
    writer.close()
    await monitor.wait_exit()
    await monitor.release()


async def test_only_the_wanted_streams(world: World) -> None:
    monitor = await world.create("sh", "-c", "echo out; echo err >&2")
    reader, writer = await monitor.attach(None, stdin=False, stdout=False, stderr=True)
    await monitor.start()
    assert frames(await reader.read()) == {1: b"", 2: b"err\n"}
    writer.close()
    await finish(monitor)


async def test_several_readers_get_the_same(world: World) -> None:
    monitor = await world.create("sh", "-c", "seq 1 50000")
    readers = [await attached(monitor) for _ in range(3)]
    await monitor.start()
    outputs = await asyncio.gather(*(reader.read() for reader, _ in readers))
    expected = "".join(f"{i}\n" for i in range(1, 50001)).encode()
    assert [frames(output)[1] == expected for output in outputs] == [True] * 3
    for _, writer in readers:
        writer.close()
    await finish(monitor)


async def test_half_close_ends_the_input_and_output_goes_on(world: World) -> None:
    monitor = await world.create("sh", "-c", "wc -c; echo done", open_stdin=True, stdin_once=True)
    reader, writer = await attached(monitor, stdin=True)
    await monitor.start()
    writer.write(b"x" * 1_000_000)
    writer.write_eof()
    assert frames(await reader.read())[1].split() == [b"1000000", b"done"]
    writer.close()
    await finish(monitor)


async def test_input_that_came_before_the_start_is_kept(world: World) -> None:
    monitor = await world.create("cat", open_stdin=True, stdin_once=True)
    reader, writer = await attached(monitor, stdin=True)
    writer.write(b"early")
    writer.write_eof()
    await writer.drain()
    await monitor.start()
    assert frames(await reader.read())[1] == b"early"
    writer.close()
    await finish(monitor)


async def test_open_stdin_survives_its_clients(world: World) -> None:
    monitor = await world.create("sh", "-c", "read a; read b; echo $a$b", open_stdin=True)
    await monitor.start()
    reader, writer = await attached(monitor, stdin=True)
    writer.write(b"one\n")
    writer.write_eof()
    # As with dockerd, the end of the input is the end of this attachment, not of the process's input.
    assert await reader.read() == b""
    writer.close()
    reader, writer = await attached(monitor, stdin=True)
    writer.write(b"two\n")
    assert frames(await reader.read())[1] == b"onetwo\n"
    writer.close()
    await finish(monitor)


async def test_no_input_means_dev_null(world: World) -> None:
    monitor = await world.create("cat")
    reader, writer = await attached(monitor, stdin=True)
    writer.write(b"for nobody")
    await monitor.start()
    assert await reader.read() == b""
    writer.close()
    await finish(monitor)


async def test_input_that_nobody_reads_holds_up_only_its_sender(world: World) -> None:
    monitor = await world.create("sh", "-c", "sleep 1000 & echo ready; wait", open_stdin=True)
    reader, writer = await attached(monitor, stdin=True)
    await monitor.start()
    assert frames(await reader.readexactly(14))[1] == b"ready\n"
    writer.write(bytes(8 << 20))
    blocked = asyncio.create_task(writer.drain())
    other_reader, other_writer = await attached(monitor)
    await monitor.signal(0)
    assert not blocked.done()
    record = await finish(monitor)
    assert record.exit_code == 137
    await asyncio.gather(blocked, return_exceptions=True)
    assert await other_reader.read() == b""
    writer.close()
    other_writer.close()


async def test_terminal_is_raw_and_has_the_size(world: World) -> None:
    monitor = await world.create("sh", "-c", "stty size; read line; stty size", terminal=True, open_stdin=True,
                                 console_size=(33, 101))
    reader, writer = await attached(monitor, stdin=True)
    await monitor.start()
    assert await reader.readline() == b"33 101\r\n"
    await monitor.resize(44, 102)
    writer.write(b"x\n")
    assert await reader.read() == b"x\r\n44 102\r\n"
    writer.close()
    record = await monitor.wait_exit()
    assert record.exit_code == 0
    assert [entry["log"] for entry in world.log(monitor)] == ["33 101\r\n", "x\r\n", "44 102\r\n"]
    await monitor.release()


async def test_reader_that_stops_neither_blocks_the_log_nor_the_others(world: World) -> None:
    script = "head -c 8000000 /dev/zero | tr '\\0' a | fold -w 99"
    monitor = await world.create("sh", "-c", script)
    _, stuck_writer = await attached(monitor)
    stuck_writer.transport.pause_reading()  # type: ignore[attr-defined]
    reader, writer = await attached(monitor)
    await monitor.start()
    output, record = await asyncio.gather(reader.read(), monitor.wait_exit())
    assert record.exit_code == 0
    assert len(frames(output)[1]) == 8_000_000 + 8_000_000 // 99
    await monitor.release()
    stuck_writer.close()
    writer.close()


async def test_readers_that_stop_hold_up_nobody_where_there_is_no_log(fake_world: World) -> None:
    monitor = await fake_world.create("sh", "-c", "head -c 8000000 /dev/zero | tr '\\0' a", log=False)
    stuck = [await attached(monitor) for _ in range(2)]
    for _, writer in stuck:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    reader, writer = await attached(monitor)
    await monitor.start()
    output, record = await asyncio.gather(reader.read(), monitor.wait_exit())
    assert (record.exit_code, frames(output)[1]) == (0, b"a" * 8_000_000)
    writer.close()
    await monitor.release()
    for reader, writer in stuck:
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert frames(await reader.read())[1] == b"a" * 8_000_000    # had they been held on to, they would be cut off
        writer.close()


async def test_slow_reader_gets_everything(world: World) -> None:
    monitor = await world.create("sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' a")
    reader, writer = await attached(monitor)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await monitor.start()
    await monitor.wait_exit()
    await monitor.release()
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert frames(await reader.read())[1] == b"a" * 20_000_000
    writer.close()


async def test_exec(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    pid = await monitor.exec(world.exec_order("e1", "sh", "-c", "echo out; echo err >&2; exit 3", stdout=True,
                                              stderr=True))
    assert pid > 0
    reader, writer = await attached(monitor, "e1")
    assert frames(await reader.read()) == {1: b"out\n", 2: b"err\n"}
    assert await monitor.wait_exec("e1") == 3
    assert await monitor.wait_exec("e1") == 3
    writer.close()
    with pytest.raises(RuntimeFailure):
        await attached(monitor, "e1")
    assert world.log(monitor) == []
    await finish(monitor)


async def test_exec_with_input_attached_before(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    reader, writer = await attached(monitor, "e1", stdin=True)
    writer.write(b"hello")
    writer.write_eof()
    await monitor.exec(world.exec_order("e1", "cat", stdin=True, stdout=True, stderr=True))
    assert frames(await reader.read())[1] == b"hello"
    assert await monitor.wait_exec("e1") == 0
    writer.close()
    await finish(monitor)


async def test_exec_on_a_terminal(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    order = world.exec_order("e1", "sh", "-c", "stty size; read line", terminal=True, stdin=True, stdout=True,
                             console_size=(20, 30))
    await monitor.exec(order)
    reader, writer = await attached(monitor, "e1", stdin=True)
    assert await reader.readline() == b"20 30\r\n"
    await monitor.resize(21, 31, "e1")
    await monitor.signal(signal.SIGKILL, "e1")
    assert await monitor.wait_exec("e1") == 137
    assert await reader.read() == b""
    writer.close()
    await finish(monitor)


async def test_exec_that_cannot_run(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    with pytest.raises(RuntimeFailure) as raised:
        await monitor.exec(world.exec_order("e1", "/does/not/exist"))
    assert raised.value.exit_code == 127
    await finish(monitor)


async def test_exec_end_is_told_though_a_child_holds_the_output(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    await monitor.exec(world.exec_order("e1", "sh", "-c", "sleep 1000 & echo here", stdout=True))
    reader, writer = await attached(monitor, "e1")
    assert await monitor.wait_exec("e1") == 0
    assert frames(await reader.read())[1] == b"here\n"
    writer.close()
    await finish(monitor)


async def test_no_exec_after_the_end(world: World) -> None:
    monitor = await world.create("true")
    await monitor.start()
    await monitor.wait_exit()
    with pytest.raises(RuntimeFailure):
        await monitor.exec(world.exec_order("e1", "true"))
    with pytest.raises(RuntimeFailure) as raised:
        await monitor.signal(15)
    assert raised.value.errno == 3
    await monitor.release()


async def test_running_container_cannot_be_released(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    with pytest.raises(RuntimeFailure):
        await monitor.release()
    await finish(monitor)


async def test_release_before_the_start(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.release()
    assert not pid_is_alive(monitor.pid)


async def test_container_that_was_not_started_goes_with_its_creator(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    pidfd = os.pidfd_open(monitor.pid)
    await monitor.disconnect()
    await readable(pidfd)
    os.close(pidfd)
    await until(world.root / "containers" / monitor.id, exists=False)


async def readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    async with asyncio.timeout(60):
        await event.wait()
    loop.remove_reader(fd)


async def until(path: Path, *, exists: bool) -> None:
    """Wait until ``path`` is there, or no more."""
    watcher = inotify.Inotify()
    watcher.add(str(path.parent), inotify.CREATE | inotify.MOVED_TO | inotify.DELETE)
    while path.exists() != exists:
        await readable(watcher.fileno())
        watcher.read()
    watcher.close()


async def test_adopt_a_running_container(world: World) -> None:
    monitor = await world.create("sh", "-c", "read line; echo got $line; exit 4", open_stdin=True)
    await monitor.start()
    await world.supervisor.close()
    await world.connect()
    adopted = await world.supervisor.adopt(monitor.id)
    assert isinstance(adopted, Monitor)
    assert (adopted.pid, adopted.state, adopted.started_at) == (monitor.pid, "running", monitor.started_at)
    reader, writer = await attached(adopted, stdin=True)
    writer.write(b"it\n")
    assert frames(await reader.read())[1] == b"got it\n"
    writer.close()
    assert (await adopted.wait_exit()).exit_code == 4
    await adopted.release()
    assert await world.supervisor.adopt(monitor.id) is None


async def test_waiting_daemon_that_lets_go_does_not_end_the_container(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    waiting = asyncio.create_task(monitor.wait_exit())
    await monitor.signal(0)
    await world.supervisor.close()
    with pytest.raises(Disconnected):
        await waiting
    await world.connect()
    adopted = await world.supervisor.adopt(monitor.id)
    assert isinstance(adopted, Monitor)
    assert (await finish(adopted)).exit_code == 137


async def test_broken_connection_alone_does_not_end_the_container(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    waiting = asyncio.create_task(monitor.wait_exit())
    await monitor.signal(0)
    with socket.socket(fileno=os.dup(monitor.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    await asyncio.wait([waiting], timeout=0.1)
    assert pid_is_alive(monitor.pid)
    os.kill(monitor.pid, signal.SIGKILL)
    record = await waiting
    assert (record.exit_code, record.error) == (137, "")
    await monitor.release()


async def test_adopt_one_that_ended_meanwhile(world: World) -> None:
    monitor = await world.create("sh", "-c", "exit 5")
    await monitor.start()
    exit_file = world.root / "containers" / monitor.id / "exit.json"
    await world.supervisor.close()
    await until(exit_file, exists=True)
    await world.connect()
    adopted = await world.supervisor.adopt(monitor.id)
    assert isinstance(adopted, Monitor)
    assert adopted.state == "exited"
    assert (await adopted.wait_exit()).exit_code == 5
    await adopted.release()


def monitor_pid(world: World, monitor: Monitor) -> int:
    return int(json.loads((world.root / "containers" / monitor.id / "monitor.json").read_text())["monitor_pid"])


def acting_monitors(keeper: int) -> list[int]:
    """The children of a keeper that are like itself: at most one."""
    return [pid for pid in children(keeper) if command(pid) == command(keeper)]


def command(pid: int) -> bytes:
    """Empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def ended(*pids: int) -> None:
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        await readable(pidfd)
        os.close(pidfd)


async def at_rest(world: World, monitor: Monitor) -> int:
    """Wait until the container's keeper is alone with it; the keeper's pid."""
    keeper = monitor_pid(world, monitor)
    async with asyncio.timeout(60):
        while acting := acting_monitors(keeper):
            await ended(*acting)
    return keeper


async def kill_supervision(keeper: int) -> None:
    acting = acting_monitors(keeper)
    os.kill(keeper, signal.SIGKILL)
    await ended(keeper, *acting)


async def test_killed_monitor_takes_the_container_along(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    pidfd = os.pidfd_open(monitor.pid)
    os.kill(monitor_pid(world, monitor), signal.SIGKILL)
    record = await monitor.wait_exit()
    assert record.exit_code == 255
    assert record.error
    await readable(pidfd)
    os.close(pidfd)
    assert await monitor.wait_exit() == record
    with pytest.raises(MonitorGone):
        await monitor.signal(15)
    await monitor.release()


async def test_adopt_after_the_monitor_was_killed(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    pidfd = os.pidfd_open(monitor.pid)
    await world.supervisor.close()
    await kill_supervision(monitor_pid(world, monitor))
    await world.connect()
    record = await world.supervisor.adopt(monitor.id)
    assert isinstance(record, ExitRecord)
    assert record.error
    await readable(pidfd)
    os.close(pidfd)
    assert await world.supervisor.adopt(monitor.id) == record
    await world.supervisor.forget(monitor.id)
    assert await world.supervisor.adopt(monitor.id) is None


async def test_bug_in_the_monitor_ends_the_container_with_a_record(fake_world: World) -> None:
    order = fake_world.order("sh", "-c", "sleep 1000 & exit 3")
    config = Path(order.bundle, "config.json")
    config.write_text(config.read_text().replace('"PATH=', '"BUG=1", "PATH='))
    monitor = await fake_world.supervisor.create(order)
    await monitor.start()
    record = await monitor.wait_exit()
    assert (record.exit_code, record.error) == (255, "AttributeError: a bug")
    assert "in oom_kills" in monitor.run_dir.read_notes()
    await monitor.release()


async def test_killed_zygote_harms_no_container_and_is_replaced(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    first = world.supervisor.zygote_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert (await world.run("sh", "-c", "exit 6")).exit_code == 6
    assert world.supervisor.zygote_pid != first
    assert (await finish(monitor)).exit_code == 137


async def test_zygote_that_cannot_fork_says_so_and_lives(fake_world: World) -> None:
    zygote = fake_world.supervisor.zygote_pid
    assert zygote is not None
    assert await fake_world.supervisor.run("shout", b"x", []) == b"X"    # it has started
    soft, hard = resource.prlimit(zygote, resource.RLIMIT_NOFILE)
    # Room for the channel that it is sent, and no more.
    used = set(map(int, os.listdir(f"/proc/{zygote}/fd")))
    free = next(number for number in range(soft) if number not in used)
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, (free + 1, hard))
    order = fake_world.order("true")
    with pytest.raises(RuntimeFailure):
        await fake_world.supervisor.create(order)
    shutil.rmtree(Path(order.bundle).parent)
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, (soft, hard))
    assert (await fake_world.run("sh", "-c", "exit 3")).exit_code == 3
    assert fake_world.supervisor.zygote_pid == zygote


#: A zygote whose first monitor is killed when it has taken the request, before or after it has told the zygote so.
DYING = """
import os, signal, socket, sys
from barque.supervise import forkserver, wire
def serve(fds):
    mark = sys.argv[1] + "/mark"
    if os.path.exists(mark):
        return len(forkserver.take(fds, os.getpid()).recv(1))
    open(mark, "w").close()
    wire.receive_packet(socket.socket(fileno=fds[0]), wire.ZYGOTE_REQUESTS)
    if {told}:
        os.write(fds[1], b"x")
    os.kill(os.getpid(), signal.SIGKILL)
import encodings.ascii, encodings.utf_8
forkserver.serve(serve, {{}})
"""


@pytest.mark.parametrize("told", [False, True])
async def test_monitor_that_is_killed_before_its_first_word_is_replaced(tmp_path: Path, told: bool) -> None:
    program = ("-c", DYING.format(told=told))
    client = ZygoteClient(forkserver.spawn(str(tmp_path), program), lambda: forkserver.spawn(str(tmp_path), program))
    async with asyncio.timeout(60):
        pid, channel = await client.fork("monitor")
    assert (tmp_path / "mark").exists()
    pidfd = os.pidfd_open(pid)
    channel.close()
    await readable(pidfd)
    os.close(pidfd)
    client.close()


async def test_zygote_ends_with_the_daemon(fake_world: World) -> None:
    handle = fake_world.spawn(str(fake_world.root))
    pidfd = os.pidfd_open(handle.pid)
    handle.control.close()
    await readable(pidfd)
    os.close(pidfd)
    handle.close()


async def test_worker(fake_world: World) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"world")
    os.close(writing)
    assert await fake_world.supervisor.run("shout", b"hello ", [reading]) == b"HELLO WORLD"
    os.close(reading)


async def test_worker_that_dies(fake_world: World) -> None:
    with pytest.raises(WorkerDied):
        await fake_world.supervisor.run("shout", b"die", [])
    assert await fake_world.supervisor.run("shout", b"x", []) == b"X"


async def test_unknown_worker(fake_world: World) -> None:
    with pytest.raises(RuntimeFailure):
        await fake_world.supervisor.run("sing", b"x", [])


async def test_cancelled_worker_is_killed(fake_world: World) -> None:
    ours, theirs = socket.socketpair()
    task = asyncio.create_task(fake_world.supervisor.run("shout", b"hang", [theirs.fileno()]))
    await readable(ours.fileno())
    assert ours.recv(10) == b"started"
    theirs.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Its copy of the descriptor closes with it.
    await readable(ours.fileno())
    assert ours.recv(10) == b""
    ours.close()


async def test_many_at_once(world: World) -> None:
    async def one(number: int) -> int:
        return (await world.run("sh", "-c", f"exit {number}")).exit_code

    assert await asyncio.gather(*(one(number) for number in range(20))) == list(range(20))


async def test_cancelled_create_leaves_nothing(world: World) -> None:
    order = world.order("sleep", "1000")
    task = asyncio.create_task(world.supervisor.create(order))
    container = world.root / "containers" / order.id
    await until(container / "monitor.json", exists=True)
    task.cancel()
    try:
        await (await task).release()
    except asyncio.CancelledError:
        pass
    await until(container, exists=False)


async def test_garbage_on_the_socket_closes_that_connection_only(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    connection = monitor.run_dir.connect()
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    await monitor.signal(0)
    await finish(monitor)


async def spare_of(world: World) -> int:
    """The pid of the monitor that waits: the zygote's child that has no container."""
    refill, zygote = world.supervisor.refill, world.supervisor.zygote_pid
    assert refill is not None
    await refill
    assert zygote is not None
    busy = {json.loads(path.read_text())["monitor_pid"] for path in world.root.glob("containers/*/monitor.json")}
    (spare,) = set(children(zygote)) - busy
    return spare


async def test_next_container_gets_the_spare_monitor(world: World) -> None:
    first = await world.create("sleep", "1000")
    spare = await spare_of(world)
    second = await world.create("sleep", "1000")
    assert monitor_pid(world, second) == spare
    await first.release()
    await second.release()


async def test_dead_spare_monitor_is_replaced(world: World) -> None:
    first = await world.create("sleep", "1000")
    await kill_supervision(await spare_of(world))
    assert (await world.run("sh", "-c", "exit 3")).exit_code == 3
    await first.release()


async def test_socket_is_private(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    socket_path = world.root / "m" / (monitor.id[:12] + ".sock")
    assert socket_path.stat().st_mode & 0o777 == 0o600
    await monitor.release()


def test_errors_have_a_status() -> None:
    assert issubclass(MonitorGone, BarqueError)
