"""What every cgroup manager must do, whatever the version: run against each of them by the modules that import this."""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from barque.oci.runtime_spec import CPU, DeviceCgroup, Memory, Pids, Resources
from barque.runtime import cgroups, security
from barque.runtime.cgroups import CgroupManager, InvalidResources

MIB = 1 << 20
NEVER_REFUSED = 250
KMSG = DeviceCgroup(allow=True, type="c", major=1, minor=11, access="rw")


class Child:
    """A process in the cgroup that runs ``body`` and exits with what it returns; always reaped by :meth:`wait`."""

    def __init__(self, group: CgroupManager, body: Callable[[], int]) -> None:
        ready, ready_end = os.pipe()
        go, self.go_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.close(self.go_end)
                group.add(0)
                os.write(ready_end, b"r")
                os.read(go, 1)
                code = body()
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(code)
        os.close(go)
        os.close(ready_end)
        joined = os.read(ready, 1)
        os.close(ready)
        if joined != b"r":
            self.wait()
            raise AssertionError("the child could not join")

    def go(self) -> Child:
        os.write(self.go_end, b"g")
        return self

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self.go_end)
        return os.waitstatus_to_exitcode(status)


def touch_memory(size: int) -> int:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    return 0


def open_device(path: str) -> int:
    """0, or the errno of the attempt."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 255
    return 0


def fork_until_refused() -> int:
    """The number of children that could be had, or NEVER_REFUSED."""
    made = []
    try:
        while len(made) < 50:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            made.append(pid)
    except BlockingIOError:
        return len(made)
    finally:
        for pid in made:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return NEVER_REFUSED


class CgroupCases:
    """The subclass's module has the fixture ``group``: a manager whose cgroup is made, and destroyed afterwards."""

    def test_processes_are_listed_with_those_below(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        for path in set(group.paths().values()):
            os.mkdir(path + "/below")
            # A new cpuset of version 1 takes no process.
            if not os.path.exists(path + "/below/cpuset.mem_hardwall"):
                Path(path, "below/cgroup.procs").write_text(str(child.pid))
        assert child.pid in group.pids()
        assert os.getpid() not in group.pids()
        assert child.go().wait() == 0
        assert group.pids() == []

    def test_a_saved_state_finds_it_again(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        again = cgroups.load(group.paths())
        assert again.pids() == [child.pid]
        assert again.paths() == group.paths()
        child.go().wait()

    def test_too_much_memory_is_killed_and_told(self, group: CgroupManager) -> None:
        assert group.apply(Resources(memory=Memory(limit=32 * MIB, swap=32 * MIB))) == []
        notice = group.oom_fd()
        assert notice is not None
        poll = select.poll()
        poll.register(notice, select.POLLIN)
        before = group.oom_kills()
        assert Child(group, lambda: touch_memory(64 * MIB)).go().wait() == -signal.SIGKILL
        assert poll.poll(10_000), "no notice of the OOM kill"
        assert os.read(notice, 4096)
        assert (before, group.oom_kills()) == (0, 1)
        os.close(notice)

    def test_limits_can_be_raised_and_lowered(self, group: CgroupManager) -> None:
        for limit, swap in ((64, 128), (128, 256), (32, 32), (256, -1), (48, 96), (-1, 0), (16, 16)):
            memory = Memory(limit=limit * MIB if limit > 0 else limit, swap=swap * MIB if swap > 0 else swap)
            assert group.apply(Resources(memory=memory)) == []
            assert group.stats().memory.limit == (limit * MIB if limit > 0 else (1 << 64) - 1)

    def test_a_limit_within_holds(self, group: CgroupManager) -> None:
        group.apply(Resources(memory=Memory(limit=64 * MIB, reservation=32 * MIB)))
        assert Child(group, lambda: touch_memory(24 * MIB)).go().wait() == 0
        memory = group.stats().memory
        assert memory.limit == 64 * MIB
        assert group.oom_kills() == 0

    def test_swap_below_memory_is_refused(self, group: CgroupManager) -> None:
        with pytest.raises(InvalidResources, match="memoryswap limit should be larger than memory limit"):
            group.apply(Resources(memory=Memory(limit=64 * MIB, swap=32 * MIB)))

    def test_forks_end_at_the_limit(self, group: CgroupManager) -> None:
        assert group.apply(Resources(pids=Pids(limit=6))) == []
        assert group.stats().pids.limit == 6
        # The child itself is one of the six.
        assert Child(group, fork_until_refused).go().wait() == 5
        group.apply(Resources(pids=Pids(limit=-1)))
        assert Child(group, fork_until_refused).go().wait() == NEVER_REFUSED

    def test_devices_are_denied_until_allowed(self, group: CgroupManager) -> None:
        assert group.apply(Resources(devices=security.default_device_rules())) == []
        assert Child(group, lambda: open_device("/dev/kmsg")).go().wait() == errno.EPERM
        for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"):
            assert Child(group, lambda path=path: open_device(path)).go().wait() == 0, path
        group.apply(Resources(devices=[*security.default_device_rules(), KMSG]))
        assert Child(group, lambda: open_device("/dev/kmsg")).go().wait() == 0
        assert Child(group, lambda: open_device("/dev/null")).go().wait() == 0
        group.apply(Resources(devices=security.default_device_rules()))
        assert Child(group, lambda: open_device("/dev/kmsg")).go().wait() == errno.EPERM
        group.apply(Resources(devices=security.privileged_device_rules()))
        assert Child(group, lambda: open_device("/dev/kmsg")).go().wait() == 0

    def test_a_device_may_be_read_but_not_written(self, group: CgroupManager) -> None:
        rule = DeviceCgroup(allow=True, type="c", major=1, minor=11, access="r")
        group.apply(Resources(devices=[*security.default_device_rules(), rule]))
        assert Child(group, lambda: open_device("/dev/kmsg")).go().wait() == 0

        def write() -> int:
            try:
                os.close(os.open("/dev/kmsg", os.O_WRONLY))
            except OSError as error:
                return error.errno or 255
            return 0
        assert Child(group, write).go().wait() == errno.EPERM

    def test_frozen_processes_stand_still_until_thawed(self, group: CgroupManager) -> None:
        answer, answer_end = os.pipe()

        def reply() -> int:
            os.write(answer_end, b"x")
            return 7
        child = Child(group, reply)
        assert not group.frozen()
        group.freeze()
        assert group.frozen()
        child.go()
        readable, _, _ = select.select([answer], [], [], 0.2)
        assert not readable
        group.thaw()
        assert not group.frozen()
        assert os.read(answer, 1) == b"x"
        assert child.wait() == 7
        os.close(answer)
        os.close(answer_end)

    def test_kill_takes_forks_and_daemons(self, group: CgroupManager) -> None:
        group.apply(Resources(pids=Pids(limit=30)))
        alive, alive_end = os.pipe()

        def bomb() -> int:
            while True:
                try:
                    if os.fork() == 0:
                        os.setsid()
                except BlockingIOError:
                    os.sched_yield()
        child = Child(group, bomb)
        os.close(alive_end)
        child.go()
        while group.stats().pids.current < 25:
            os.sched_yield()
        group.kill()
        assert child.wait() == -signal.SIGKILL
        # End of file: nobody holds the other end any more.
        assert os.read(alive, 1) == b""
        os.close(alive)
        group.destroy()
        assert not any(os.path.exists(path) for path in group.paths().values())

    def test_a_frozen_container_can_be_killed(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        group.freeze()
        group.kill()
        if group.frozen():
            group.thaw()
        assert child.wait() == -signal.SIGKILL

    def test_other_signals_reach_all(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        group.kill(signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM

    def test_destroy_removes_what_was_made_below_and_may_be_repeated(self, group: CgroupManager) -> None:
        for path in set(group.paths().values()):
            os.makedirs(path + "/a/b")
            os.mkdir(path + "/c")
        group.destroy()
        assert not any(os.path.exists(path) for path in group.paths().values())
        group.destroy()
        group.kill()
        assert group.pids() == []

    def test_destroy_waits_for_the_dying(self, group: CgroupManager) -> None:
        child = Child(group, lambda: touch_memory(64 * MIB) + signal.pause())
        child.go()
        group.kill()
        group.destroy()
        assert not any(os.path.exists(path) for path in group.paths().values())
        assert child.wait() == -signal.SIGKILL

    def test_cpu_limits_and_statistics(self, group: CgroupManager) -> None:
        assert group.apply(Resources(cpu=CPU(shares=512, period=100_000, quota=20_000))) == []
        # Period and quota together change by more than what is legal one after the other.
        assert group.apply(Resources(cpu=CPU(period=20_000, quota=40_000))) == []
        assert group.apply(Resources(cpu=CPU(period=1_000_000, quota=10_000, burst=0))) == []
        assert group.apply(Resources(cpu=CPU(quota=10_000, burst=5_000))) == []
        assert group.apply(Resources(cpu=CPU(quota=5_000, burst=1_000, period=50_000))) == []

        def work() -> int:
            while os.times().user + os.times().system < 0.05:
                pass
            return 0
        assert Child(group, work).go().wait() == 0
        cpu = group.stats().cpu
        assert cpu.total > 20_000_000
        assert cpu.throttled_periods > 0
        assert cpu.throttled_time > 0
        assert cpu.periods >= cpu.throttled_periods

    def test_memory_and_pids_are_counted(self, group: CgroupManager) -> None:
        held, hold = os.pipe()

        def work() -> int:
            memory = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.write(b"x" * (8 * MIB))
            os.write(hold, b"h")
            signal.pause()
            return 0
        child = Child(group, work).go()
        os.read(held, 1)
        stats = group.stats()
        assert stats.memory.usage > 8 * MIB
        assert stats.memory.max_usage == 0 or stats.memory.max_usage >= stats.memory.usage
        assert stats.memory.stat["anon" if "anon" in stats.memory.stat else "rss"] > 7 * MIB
        assert stats.pids.current == 1
        group.kill()
        child.wait()
        os.close(held)
        os.close(hold)

    def test_processors_can_be_chosen(self, group: CgroupManager) -> None:
        assert group.apply(Resources(cpu=CPU(cpus="0", mems="0"))) == []
        assert Child(group, lambda: len(os.sched_getaffinity(0))).go().wait() == 1
        with pytest.raises(OSError, match=r"cpuset\.cpus"):
            group.apply(Resources(cpu=CPU(cpus="4000")))
