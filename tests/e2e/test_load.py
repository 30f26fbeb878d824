"""Many containers at once, many clients at one container, many runs in a row: nobody waits, nothing is left.

``BARQUE_LOAD`` multiplies the counts: 5 makes 200 containers at once, 34 a thousand runs.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.engine_api import Answer, Api, api
from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until

LOAD = int(os.environ.get("BARQUE_LOAD", "1"))
AT_ONCE = min(40 * LOAD, 600)  # the network has a thousand addresses
RUNS = 30 * LOAD
RACERS = 20
RACES = 50 * LOAD
#: Bytes that the daemon may have grown by: its heap is not the same after each run.
GROWTH = 6 << 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("load"), bip="172.31.96.1/22") as made:
        yield made


async def test_many_containers_at_once(world: EngineWorld) -> None:
    async with api(world) as client:
        async def begin(number: int) -> str:
            ident = await client.create(f"many{number}", "sh", "-c", f"echo {number}; exec sleep 1000")
            await client.ok("POST", f"/containers/{ident}/start")
            return ident

        idents = await asyncio.gather(*map(begin, range(AT_ONCE)))
        running = await client.ok("GET", "/containers/json")
        assert {item["Id"] for item in running} == set(idents)
        addresses = [item["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] for item in running]
        assert len(set(addresses)) == AT_ONCE
        told = await asyncio.gather(*(client.ok("GET", f"/containers/{ident}/json") for ident in idents))
        assert all(os.path.exists(f"/proc/{item['State']['Pid']}") for item in told)

        async def said(ident: str) -> int:
            text = b""
            async with asyncio.timeout(PATIENCE):
                while not text:
                    text = await client.ok("GET", f"/containers/{ident}/logs?stdout=1")
            return int(text[8:])

        assert await asyncio.gather(*map(said, idents)) == list(range(AT_ONCE))
        await asyncio.gather(*(client.ok("DELETE", f"/containers/{ident}?force=1") for ident in idents))
        assert await client.ok("GET", "/containers/json?all=1") == []
    nothing_runs(world)


def nothing_runs(world: EngineWorld) -> None:
    """Neither monitors nor files of containers are left."""
    for path in (world.root / "data" / "containers", world.root / "run" / "containers"):
        wait_until(lambda path=path: not os.listdir(path))  # type: ignore[misc]


#: What any client may be told while others do things to the same container.
FINE = {200, 201, 204, 304, 404, 409}
ROLLS = (*["start"] * 6, *["exec"] * 6, *["unpause"] * 3, "pause", "stop?t=0", "kill", "restart?t=0", "rm", "json",
         "rename", "update", "archive", "stats", "resize?h=1&w=1")
READS = {"json": ("GET", "json"), "archive": ("HEAD", "archive?path=/etc/passwd"),
         "stats": ("GET", "stats?stream=0&one-shot=1")}
SLEEPER = {"Image": "busybox", "Cmd": ["sleep", "1000"]}


async def _exec(client: Api) -> Answer:
    made = await client.call("POST", "/containers/raced/exec", {"Cmd": ["true"], "AttachStdout": True})
    if made.status != 201:
        return made
    return await client.call("POST", f"/exec/{made.body['Id']}/start", {"Detach": False})


async def _race(client: Api, rolls: random.Random) -> list[tuple[str, Answer]]:
    told = []
    for _ in range(RACES):
        what = rolls.choice(ROLLS)
        if what == "exec":
            answer = await _exec(client)
        elif what == "rm":
            answer = await client.call("DELETE", "/containers/raced?force=1")
            await client.call("POST", "/containers/create?name=raced", SLEEPER)
        elif what in READS:
            method, path = READS[what]
            answer = await client.call(method, f"/containers/raced/{path}")
        elif what == "update":
            answer = await client.call("POST", "/containers/raced/update", {"Memory": 100 << 20, "MemorySwap": -1})
        elif what == "rename":
            answer = await client.call("POST", "/containers/raced/rename?name=raced")
        else:
            answer = await client.call("POST", f"/containers/raced/{what}")
        told.append((what, answer))
    return told


async def test_clients_racing_for_one_container(world: EngineWorld) -> None:
    """Each gets an answer that makes sense; at the end the container is what the engine says it is."""
    async with api(world) as client:
        await client.create("raced", "sleep", "1000")
        told = await asyncio.gather(*(_race(client, random.Random(seed)) for seed in range(RACERS)))
        for what, answer in (item for part in told for item in part):
            expected = FINE | {400, 500} if what in ("unpause", "rename") else FINE
            assert answer.status in expected, (what, answer)
        assert {"start", "rm", "json"} <= {what for part in told for what, answer in part if answer.status < 300}
        answer = await client.call("GET", "/containers/raced/json")
        if answer.status == 200:
            state = answer.body["State"]
            assert state["Running"] == bool(state["Pid"])
            assert not state["Pid"] or os.path.exists(f"/proc/{state['Pid']}")
            await client.ok("DELETE", "/containers/raced?force=1")
        await client.create("raced", "true")
        await client.ok("POST", "/containers/raced/start")
        assert (await client.ok("POST", "/containers/raced/wait"))["StatusCode"] == 0
        await client.ok("DELETE", "/containers/raced")
        assert await client.ok("GET", "/containers/json?all=1") == []
    nothing_runs(world)


async def test_no_volume_is_removed_under_a_container_that_is_made(world: EngineWorld) -> None:
    async with api(world) as client:
        async def remove_again_and_again() -> None:
            while not making.done():
                answer = await client.call("DELETE", "/volumes/raced")
                assert answer.status in (204, 404, 409), answer

        for number in range(RACERS):
            making = asyncio.ensure_future(client.create(f"made{number}", "true", Binds=["raced:/v"]))
            await remove_again_and_again()
            ident = await making
            await client.ok("GET", "/volumes/raced")
            await client.ok("DELETE", f"/containers/{ident}")


def counts(world: EngineWorld) -> dict[str, int]:
    """What a run could leave behind in the daemon, on this host and on disk."""
    assert world.process is not None
    pid = world.process.pid
    with closing(sqlite3.connect(f"file:{world.root}/data/meta.db?mode=ro", uri=True)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {f"rows of {name}": db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    return {
        **rows,
        "mounts": len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        "own mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "namespaces": len(os.listdir(world.root / "run" / "netns")),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "links": len(os.listdir("/sys/class/net")),
        "snapshots": len(os.listdir(world.root / "data" / "snapshots")),
    }


def memory(pid: int) -> int:
    """Bytes that are the process's alone."""
    return sum(int(line.split()[1]) << 10 for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
               if line.startswith("Private_"))


def grown(world: EngineWorld, before: dict[str, int]) -> dict[str, tuple[int, int]]:
    """What is not as it was: rows exactly, the rest but for the warm namespaces and their links, which come and go."""
    return {name: (before[name], count) for name, count in counts(world).items()
            if abs(count - before[name]) > (0 if name.startswith("rows") else 2)}


async def test_runs_leave_the_counts_as_they_were(world: EngineWorld) -> None:
    assert world.process is not None
    async with api(world) as client:
        for number in range(15):
            await client.run_and_remove(f"warm{number}")
        nothing_runs(world)
        before, weight = counts(world), memory(world.process.pid)
        idents = {await client.run_and_remove(f"run{number}") for number in range(RUNS)}
    nothing_runs(world)
    deadline = time.monotonic() + PATIENCE
    while left := grown(world, before):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)
    cgroups = {path.name for path in Path("/sys/fs/cgroup").glob("*/barque/*")}
    assert not idents & cgroups
    assert memory(world.process.pid) - weight < GROWTH
