"""Containers whose monitors have left them to the keeper, and come back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from barque.supervise import forkserver
from barque.supervise.client import Monitor
from barque.supervise.log_sink import PIECE
from barque.supervise.messages import ExitRecord, LogConfig, Shipping
from tests.contract.test_supervise import (
    WAKEFUL,
    RealWorld,
    RestingWorld,
    RuncWorld,
    World,
    acting_monitors,
    at_rest,
    attached,
    ended,
    finish,
    frames,
    monitor_pid,
    open_world,
    readable,
    until,
)


@pytest.fixture(params=[RestingWorld, RuncWorld], ids=lambda kind: kind.name)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async for world in open_world(request.param, tmp_path):
        yield world


class WakefulWorld(RealWorld):
    """The same containers, whose monitors do not rest within a test."""

    def spawn(self, exec_root: str) -> forkserver.ZygoteHandle:
        return forkserver.spawn(exec_root, WAKEFUL)


@pytest.fixture
async def wakeful(tmp_path: Path) -> AsyncIterator[World]:
    async for world in open_world(WakefulWorld, tmp_path):
        yield world


async def type_in(monitor: Monitor, line: bytes) -> None:
    _, writer = await monitor.attach(None, stdin=True, stdout=False, stderr=False)
    writer.write(line)
    writer.write_eof()
    await writer.drain()
    writer.close()


async def logged(world: World, monitor: Monitor, size: int) -> None:
    """Wait until the log has ``size`` lines."""
    async with asyncio.timeout(60):
        while len(world.log(monitor)) < size:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_log_goes_on_where_it_was(world: World) -> None:
    script = ("printf par; read x; echo tial; read x; head -c 16390 /dev/zero | tr '\\0' a; read x; echo b; "
              "echo err >&2; read x; printf end")
    monitor = await world.create("sh", "-c", script, open_stdin=True)
    await monitor.start()
    await at_rest(world, monitor)
    for lines in (1, 2, 4):
        await type_in(monitor, b"\n")
        await logged(world, monitor, lines)
        await at_rest(world, monitor)
    await type_in(monitor, b"\n")
    await monitor.wait_exit()
    entries = world.log(monitor)
    assert [entry["log"] for entry in entries if entry["stream"] == "stdout"] == [
        "partial\n", "a" * 16384, "a" * 6 + "b\n", "end"]
    assert [entry["log"] for entry in entries if entry["stream"] == "stderr"] == ["err\n"]
    pieces = [entry["time"] for entry in entries if "aa" in entry["log"]]
    assert pieces[0] == pieces[1]
    await monitor.release()


async def run_in_two_halves(world: World, log: LogConfig) -> None:
    """A container that writes a line in two pieces, with a rest in between."""
    order = world.order("sh", "-c", "printf par; read x; echo tial", open_stdin=True)
    monitor = await world.supervisor.create(replace(order, log=log))
    await monitor.start()
    await at_rest(world, monitor)
    await type_in(monitor, b"\n")
    assert (await monitor.wait_exit()).log_dropped == 0
    await monitor.release()


async def test_local_log_goes_on_where_it_was(world: World) -> None:
    path = world.root / "local.log"
    await run_in_two_halves(world, LogConfig(str(path), format="local"))
    assert path.read_bytes().count(b"partial") == 1


async def test_shipper_is_kept(world: World) -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def ship(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read(-1))
        writer.close()

    path = str(world.root / "shipper.sock")
    async with await asyncio.start_unix_server(ship, path):
        await run_in_two_halves(world, LogConfig(shipping=Shipping(path)))
        data = await asyncio.wait_for(received, 60)
    pieces = []
    while data:
        _, length, _ = PIECE.unpack_from(data)
        pieces.append(data[PIECE.size:PIECE.size + length])
        data = data[PIECE.size + length:]
    assert b"".join(pieces) == b"partial\n"


async def test_terminal_is_kept(world: World) -> None:
    monitor = await world.create("sh", "-c", "read line; stty size; read line", terminal=True, open_stdin=True,
                                 console_size=(33, 101))
    await monitor.start()
    await at_rest(world, monitor)
    await monitor.resize(44, 102)
    await at_rest(world, monitor)
    reader, writer = await attached(monitor, stdin=True)
    writer.write(b"\n")
    assert await reader.readline() == b"\r\n"
    assert await reader.readline() == b"44 102\r\n"
    writer.close()
    await finish(monitor)


async def test_input_that_was_closed_stays_closed(world: World) -> None:
    monitor = await world.create("sh", "-c", "cat; sleep 1000", open_stdin=True, stdin_once=True)
    await monitor.start()
    await type_in(monitor, b"all of it\n")
    await logged(world, monitor, 1)
    await at_rest(world, monitor)
    reader, writer = await attached(monitor, stdin=True)
    writer.write(b"too late")
    await monitor.signal(signal.SIGKILL)
    assert await reader.read() == b""
    writer.close()
    await finish(monitor)


async def test_end_at_rest_is_told_with_its_code(world: World) -> None:
    monitor = await world.create("sh", "-c", "trap 'exit 7' TERM; echo; while :; do read x; done", open_stdin=True)
    await monitor.start()
    await logged(world, monitor, 1)
    waiting = asyncio.create_task(monitor.wait_exit())
    await at_rest(world, monitor)
    os.kill(monitor.pid, signal.SIGTERM)
    record = await waiting
    assert (record.exit_code, record.signal, record.error) == (7, 0, "")
    assert record.started_at == monitor.started_at
    await monitor.release()


async def test_exec_at_rest_and_its_code_afterwards(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    await at_rest(world, monitor)
    await monitor.exec(world.exec_order("e1", "sh", "-c", "echo out; exit 3", stdout=True))
    reader, writer = await attached(monitor, "e1")
    assert frames(await reader.read())[1] == b"out\n"
    writer.close()
    await writer.wait_closed()
    await at_rest(world, monitor)
    assert await monitor.wait_exec("e1") == 3
    await finish(monitor)


async def test_what_an_exec_leaves_behind_may_go_on_writing(world: World) -> None:
    assert isinstance(world, RealWorld)
    os.mkfifo(world.rootfs / "gate")
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    script = "(read x < /gate; echo late; echo > /wrote) &"
    await monitor.exec(world.exec_order("e1", "sh", "-c", script, stdout=True))
    reader, writer = await attached(monitor, "e1")
    assert await reader.read() == b""
    writer.close()
    for _ in range(2):
        await at_rest(world, monitor)
        await monitor.signal(0)
    await at_rest(world, monitor)
    (world.rootfs / "gate").write_text("\n")
    await until(world.rootfs / "wrote", exists=True)
    await finish(monitor)


async def test_next_daemon_finds_a_container_at_rest(world: World) -> None:
    monitor = await world.create("sh", "-c", "read line; exit 4", open_stdin=True)
    await monitor.start()
    await at_rest(world, monitor)
    await world.supervisor.close()
    await at_rest(world, monitor)
    await world.connect()
    adopted = await world.supervisor.adopt(monitor.id)
    assert isinstance(adopted, Monitor)
    assert (adopted.pid, adopted.state, adopted.started_at) == (monitor.pid, "running", monitor.started_at)
    await type_in(adopted, b"\n")
    assert (await adopted.wait_exit()).exit_code == 4
    await adopted.release()


async def test_keeper_killed_at_rest_takes_the_container_along(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    keeper = await at_rest(world, monitor)
    pidfd = os.pidfd_open(monitor.pid)
    os.kill(keeper, signal.SIGKILL)
    record = await monitor.wait_exit()
    assert record.exit_code == 255
    assert record.error
    await readable(pidfd)
    os.close(pidfd)
    await monitor.release()


async def test_keeper_killed_at_rest_while_no_daemon_looks(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    await world.supervisor.close()
    keeper = await at_rest(world, monitor)
    pidfd = os.pidfd_open(monitor.pid)
    os.kill(keeper, signal.SIGKILL)
    await ended(keeper)
    await world.connect()
    record = await world.supervisor.adopt(monitor.id)
    assert isinstance(record, ExitRecord)
    assert record.error
    await readable(pidfd)
    os.close(pidfd)
    await world.supervisor.forget(monitor.id)


async def kill_acting(world: World, monitor: Monitor) -> int:
    keeper = monitor_pid(world, monitor)
    (acting,) = acting_monitors(keeper)
    os.kill(acting, signal.SIGKILL)
    return keeper


async def test_killed_monitor_is_buried_by_its_keeper(wakeful: World) -> None:
    monitor = await wakeful.create("sleep", "1000")
    await monitor.start()
    cgroups = [Path(path) for path in monitor.cgroup.values()]
    await wakeful.supervisor.close()
    exit_file = wakeful.root / "containers" / monitor.id / "exit.json"
    keeper = await kill_acting(wakeful, monitor)
    await until(exit_file, exists=True)
    await ended(keeper, monitor.pid)
    assert not any(path.exists() for path in cgroups)
    await wakeful.connect()
    record = await wakeful.supervisor.adopt(monitor.id)
    assert isinstance(record, ExitRecord)
    assert (record.exit_code, bool(record.error), record.started_at) == (255, True, monitor.started_at)
    await wakeful.supervisor.forget(monitor.id)


async def test_killed_monitor_is_told_to_the_daemon(wakeful: World) -> None:
    monitor = await wakeful.create("sleep", "1000")
    await monitor.start()
    keeper = await kill_acting(wakeful, monitor)
    record = await monitor.wait_exit()
    assert record.exit_code == 255
    await ended(keeper, monitor.pid)
    await monitor.release()


async def test_killed_monitor_of_a_container_that_was_not_started(wakeful: World) -> None:
    monitor = await wakeful.create("sleep", "1000")
    keeper = await kill_acting(wakeful, monitor)
    await ended(keeper, monitor.pid)
    await monitor.release()


async def test_signals_while_the_monitor_comes_and_goes(world: World) -> None:
    monitor = await world.create("sleep", "1000")
    await monitor.start()
    for _ in range(50):
        await monitor.signal(0)
    assert (await finish(monitor)).exit_code == 137
