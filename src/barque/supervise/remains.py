"""What is to be done about a container whose monitor died: end it, and make sure that there is a record of the end.

Blocking; the daemon calls these in a thread, and a keeper whose monitor died calls ``bury_all``: the lock on the run
directory is between the two.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from datetime import UTC, datetime

from barque.runtime import cgroups
from barque.supervise.messages import ExitRecord, MonitorRecord
from barque.supervise.rundir import RunDir
from barque.sys import process

#: Exit code of a container whose real one nobody saw; dockerd uses the same.
LOST = 255
KILL_TIMEOUT = 10


def bury(run_dir: RunDir) -> ExitRecord:
    """Kill what is left, remove the cgroup and the socket; returns the record, written now if the monitor had not."""
    with run_dir.locked():
        left = run_dir.read_monitor()
        if left is not None:
            _kill(left)
        run_dir.remove_socket()
        record = run_dir.read_exit()
        if record is None:
            now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            record = ExitRecord(exit_code=LOST, started_at=left.started_at if left else "", finished_at=now,
                                error="the container's supervisor died")
            if run_dir.exists:
                with suppress(OSError):  # there may be no room for it: then who asks now is the only one who knows
                    run_dir.write_exit(record)
        return record


def bury_all(exec_root: str, monitor_pid: int) -> None:
    """Bury what the monitor, or keeper, of this number had in its care: one container, or none."""
    for name in os.listdir(f"{exec_root}/containers"):
        run_dir = RunDir(exec_root, name)
        left = run_dir.read_monitor()
        if left is not None and left.monitor_pid == monitor_pid:
            bury(run_dir)


def sweep(run_dir: RunDir) -> None:
    """Remove all that is left of a container without a monitor. Idempotent."""
    with run_dir.locked():
        left = run_dir.read_monitor()
        if left is not None:
            _kill(left)
        run_dir.remove()


def _kill(left: MonitorRecord) -> None:
    cgroup = cgroups.load(left.cgroup) if left.cgroup else None
    if cgroup is not None:
        cgroup.kill(signal.SIGKILL)
    try:
        pidfd = process.pidfd_open(left.pid)
    except ProcessLookupError:
        pidfd = -1
    if pidfd >= 0:
        try:
            # The pidfd is held, so the number cannot change its owner between the look and the signal.
            if process.start_time(left.pid) == left.start_time:
                process.pidfd_signal(pidfd, signal.SIGKILL)
                process.ended(pidfd, KILL_TIMEOUT)
        except (ProcessLookupError, FileNotFoundError):
            pass
        finally:
            os.close(pidfd)
    if cgroup is not None:
        cgroup.destroy()
