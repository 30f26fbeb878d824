"""Checkpoint and restore by the real criu, which not every kernel takes. Run in the virtual machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from barque.supervise.checkpoint import CheckpointRequest, CheckpointResult
from barque.supervise.client import Monitor
from barque.supervise.messages import Checkpoint
from tests.contract.test_supervise import RealWorld, open_world
from tests.runtime.conftest import CGROUPS, Bundle, Runtime, living

#: How long anything may take under emulation, on a host that is busy with other things (seconds).
PATIENCE = 200
#: Of version 1, each in a hierarchy of its own. Version 2 knows neither, so they can be had at any time.
CONTROLLERS = ("freezer", "devices")
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


@contextmanager
def mounted_tmpfs(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextmanager
def hierarchies(*, unified: bool) -> Iterator[None]:
    """Cgroups of version 1, and with ``unified`` the others beside them, in place of version 2 alone."""
    places = [(name, ["-t", "cgroup", "-o", name]) for name in CONTROLLERS]
    places += [("unified", ["-t", "cgroup2"])] if unified else []
    with ExitStack() as undo:
        # Not covered, but gone: mountinfo lists what is covered, too.
        subprocess.run(["umount", str(CGROUPS)], check=True)
        undo.callback(subprocess.run, ["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
        undo.enter_context(mounted_tmpfs(CGROUPS))
        for name, words in places:
            (CGROUPS / name).mkdir()
            subprocess.run(["mount", *words, "cgroup", str(CGROUPS / name)], check=True)
            undo.callback(subprocess.run, ["umount", str(CGROUPS / name)], check=True)
        yield


def moved(barque: Runtime, bundle: Bundle, folder: Path, before_restore: Sequence[str] = ("true",)) -> int:
    """Run the bundle as "first", write that to files and make "second" of them; the number of its first process."""
    bundle.save("sh", "-c", COUNT)
    detached(barque, folder, "run", "--detach", "--bundle", str(bundle.path), "first")
    counted(bundle.rootfs, 2)
    images = str(folder / "images")
    barque.ok("checkpoint", "--image-path", images, "first", timeout=PATIENCE)
    last = counted(bundle.rootfs)
    subprocess.run(before_restore, check=True)
    detached(barque, folder, "restore", "--detach", "--image-path", images, "--bundle", str(bundle.path), "second")
    counted(bundle.rootfs, last + 2)
    return int(barque.state("second")["pid"])


def detached(barque: Runtime, folder: Path, *args: str) -> None:
    """The container keeps the file of the errors open, which a pipe would make us wait for."""
    with (folder / "errors").open("w+") as errors:
        done = subprocess.run([*barque.base, *args], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                              check=False, timeout=PATIENCE)
        errors.seek(0)
        assert done.returncode == 0, errors.read()


def assert_in_cgroup(pid: int, path: str) -> None:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    for name in CONTROLLERS:
        assert any(line.endswith(f":{name}:{path}") for line in lines), lines


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

    def test_a_user_namespace_with_devices_and_directories_of_the_host(self, barque: Runtime, bundle: Bundle,
                                                                       tmp_path: Path) -> None:
        """On version 1 alone. Device nodes are the host's there, and a network device has to be there again."""
        outside = tmp_path / "outside"
        (outside / "within").mkdir(parents=True)
        bundle.spec["mounts"] += [
            {"destination": "/outside", "type": "bind", "source": str(outside), "options": ["rbind", "rw"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/tmp/again", "type": "bind", "source": str(outside), "options": ["bind", "ro"]}]
        bundle.linux["namespaces"].append({"type": "user"})
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1000}]
        bundle.linux["netDevices"] = {"outer0": {"name": "inner0"}}
        with hierarchies(unified=False):
            subprocess.run(["ip", "link", "add", "outer0", "type", "dummy"], check=True)
            pid = moved(barque, bundle, tmp_path, before_restore=["ip", "link", "add", "outer0", "type", "dummy"])
            assert_in_cgroup(pid, bundle.cgroup)
            done = barque("exec", "second", "sh", "-c", "cat /proc/self/uid_map; ip link show inner0 >/dev/null && "
                          "echo x >/outside/within/x && ls /tmp/again; echo >/tmp/again/x; echo y >/dev/null && echo y",
                          timeout=PATIENCE)
            assert done.stdout.split() == ["0", "0", "1000", "within", "y"]
            assert "Read-only file system" in done.stderr
            assert (outside / "within/x").read_text() == "x\n"
            barque.ok("delete", "--force", "second", timeout=PATIENCE)

    def test_a_network_that_was_joined(self, barque: Runtime, bundle: Bundle, tmp_path: Path) -> None:
        """On a host that is half version 1."""
        with hierarchies(unified=True), living("-n") as keeper:
            network = next(item for item in bundle.linux["namespaces"] if item["type"] == "network")
            network["path"] = f"/proc/{keeper}/ns/net"
            pid = moved(barque, bundle, tmp_path)
            assert_in_cgroup(pid, bundle.cgroup)
            assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink(network["path"])
            barque.ok("delete", "--force", "second", timeout=PATIENCE)

    def test_roots_of_other_users_are_refused(self, barque: Runtime, bundle: Bundle) -> None:
        bundle.linux["namespaces"].append({"type": "user"})
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 9, "size": 1000}]
        bundle.save("true")
        assert "a user namespace whose root is not the host's cannot be" in self.refusal(barque, bundle)

    def test_mounts_that_a_user_namespace_holds_fast_are_refused(self, barque: Runtime, bundle: Bundle,
                                                                 tmp_path: Path) -> None:
        bundle.linux["namespaces"].append({"type": "user"})
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1000}]
        (tmp_path / "outside/within").mkdir(parents=True)
        bundle.spec["mounts"].append({"destination": "/outside", "type": "bind", "source": str(tmp_path / "outside"),
                                      "options": ["rbind"]})
        bundle.save("true")
        with mounted_tmpfs(tmp_path / "outside/within"):
            said = self.refusal(barque, bundle)
        assert "a user namespace and something mounted below the source of /outside cannot be" in said

    def refusal(self, barque: Runtime, bundle: Bundle) -> str:
        done = barque("restore", "--bundle", str(bundle.path), "refused", timeout=PATIENCE)
        assert done.returncode == 1
        return done.stderr

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
