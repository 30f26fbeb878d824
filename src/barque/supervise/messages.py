"""What the daemon, the zygote and the monitors say to each other: values only, one struct per message.

Client -> monitor, over ``m/<id12>.sock`` (or, for the first connection, the channel that the zygote passed on)::

    request                        answer                       when
    -----------------------------  ---------------------------  ------------------------------------------------------
    Hello(proto, container_id)     Welcome                      first on every connection
    Create(order)                  Created | Failed             once, on the first connection; Failed ends the monitor
    Start                          Started | Failed             once, after Created
    Exec(order)                    Started | Failed             after Start, until the container has ended
    Attach(exec_id, ...)           Done | Failed                after Done the connection is the byte stream
    Signal(number, exec_id)        Done | Failed
    Resize(height, width, exec_id) Done | Failed
    Wait                           ExitRecord                   answered when the container's output was drained
    WaitExec(exec_id)              ExecExit | Failed            answered when the process's output was drained
    WaitOom(seen)                  OomCount                     answered when the kernel killed more than ``seen``
    Reship                         Done | Failed                another shipper listens where the last one did
    Release                        Done | Failed                after the exit: the monitor removes its directory, ends

Client -> zygote, over SOCK_SEQPACKET, one message a packet::

    Fork(kind) + fds               Forked(pid) | Failed         fds[0] is the child's channel, the rest is its work
    Kill(pid)                      Done | Failed                only pids that Forked named and that are not reaped yet

Every message travels with the serial of the request that it belongs to (see :mod:`barque.supervise.wire`); answers may
overtake each other. A monitor keeps the code that it was forked with, so ``PROTOCOL`` grows with each change that an
older monitor would not understand, and a daemon speaks the older versions that it may still meet.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from barque.oci.mount import Mount
from barque.oci.runtime_spec import Box, Process

PROTOCOL = 1

STDOUT = 1
STDERR = 2


class Failure(msgspec.Struct, omit_defaults=True, frozen=True):
    """An error as data: the step, the call and the errno that failed; prose is made at the edge of the API."""

    stage: str
    syscall: str = ""
    errno: int = 0
    path: str = ""
    detail: str = ""


class Shipping(msgspec.Struct, frozen=True):
    """Where a shipper (:mod:`barque.supervise.shippers`) takes the output: the path of its socket.

    ``buffer`` 0 makes the container wait for a slow shipper. Otherwise that much is kept for it, in bytes or, with
    ``count_lines``, in lines, and what comes on top of that is dropped. ``wait`` for the shipper at the end.
    """

    socket: str
    buffer: int = 0
    count_lines: bool = False
    wait: bool = False


class LogConfig(msgspec.Struct, frozen=True):
    """The log of a container: a file at ``path`` (absolute; empty for none), a shipper, or both.

    0 bytes means no rotation; ``attrs`` go into each entry.
    """

    path: str = ""
    max_size: int = 0
    max_files: int = 1
    compress: bool = False
    attrs: dict[str, str] = {}
    format: Literal["json-file", "local"] = "json-file"
    shipping: Shipping | None = None


class RuntimeChoice(msgspec.Struct, frozen=True):
    """An empty ``path`` means the built-in runtime, else a command that speaks the OCI command line."""

    path: str = ""
    args: tuple[str, ...] = ()


class Checkpoint(msgspec.Struct, frozen=True):
    """The state of a container on disk: a directory of criu's images, and one for criu's log."""

    images: str
    work: str


class CreateOrder(msgspec.Struct, frozen=True):
    """All that a monitor has to know; ``bundle`` holds a ``config.json`` that the engine wrote.

    ``checkpoint`` is what the container is made of, instead of running its program anew.
    ``console_size`` is (height, width). ``stdin_once`` closes the process's standard input when the first client that
    attached it has closed its end. Output that an attached client does not take waits in ``spool_dir``, on a disk.
    """

    id: str
    bundle: str
    rootfs: tuple[Mount, ...] = ()
    terminal: bool = False
    console_size: tuple[int, int] | None = None
    open_stdin: bool = False
    stdin_once: bool = False
    log: LogConfig | None = None
    cgroup_driver: Literal["cgroupfs", "systemd"] = "cgroupfs"
    runtime: RuntimeChoice = RuntimeChoice()
    spool_dir: str = ""
    checkpoint: Checkpoint | None = None


class ExecOrder(msgspec.Struct, frozen=True):
    """A further process. A stream that is not attached is ``/dev/null``.

    With one of the three flags set, output waits for the first ``Attach`` that names ``exec_id`` (for ten seconds),
    which may also come before the order.
    """

    exec_id: str
    process: Process
    terminal: bool = False
    console_size: tuple[int, int] | None = None
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False

    def completed(self) -> ExecOrder:
        """With what the order says about the terminal also in its process: a runtime sets the size before the start."""
        size = Box(*self.console_size) if self.console_size else self.process.console_size
        return replace(self, process=replace(self.process, terminal=self.terminal, console_size=size))

    @property
    def attached(self) -> bool:
        return self.stdin or self.stdout or self.stderr


class ExitRecord(msgspec.Struct, omit_defaults=True, frozen=True, tag="exit"):
    """How a container ended; also the content of ``exit.json``. Times are RFC 3339 with nanoseconds, or empty.

    ``exit_code`` is 128 + ``signal`` for one that a signal ended; ``error`` says what went wrong in the supervision
    itself. ``log_dropped`` counts the bytes that could not be written to the log.
    """

    exit_code: int
    signal: int = 0
    oom_killed: bool = False
    started_at: str = ""
    finished_at: str = ""
    error: str = ""
    log_dropped: int = 0


class MonitorRecord(msgspec.Struct, frozen=True):
    """``monitor.json``: what the daemon needs to end a container whose monitor died.

    ``start_time`` is field 22 of ``/proc/PID/stat`` of the container's PID 1, which tells a reused pid.
    """

    proto: int
    monitor_pid: int
    pid: int
    start_time: int
    cgroup: dict[str, str]
    started_at: str = ""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    proto: int
    container_id: str


class Create(msgspec.Struct, frozen=True, tag="create"):
    order: CreateOrder


class Start(msgspec.Struct, frozen=True, tag="start"):
    pass


class Exec(msgspec.Struct, frozen=True, tag="exec"):
    order: ExecOrder


class Attach(msgspec.Struct, frozen=True, tag="attach"):
    exec_id: str | None = None
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class Signal(msgspec.Struct, frozen=True, tag="signal"):
    number: int
    exec_id: str | None = None


class Resize(msgspec.Struct, frozen=True, tag="resize"):
    height: int
    width: int
    exec_id: str | None = None


class Wait(msgspec.Struct, frozen=True, tag="wait"):
    pass


class WaitExec(msgspec.Struct, frozen=True, tag="wait-exec"):
    exec_id: str


class WaitOom(msgspec.Struct, frozen=True, tag="wait-oom"):
    seen: int


class Reship(msgspec.Struct, frozen=True, tag="reship"):
    pass


class Release(msgspec.Struct, frozen=True, tag="release"):
    pass


Request = Hello | Create | Start | Exec | Attach | Signal | Resize | Wait | WaitExec | WaitOom | Reship | Release


class Welcome(msgspec.Struct, omit_defaults=True, frozen=True, tag="welcome"):
    """``state`` is one of new, created, running, exited; ``pid`` is 0 before Created and after the exit."""

    proto: int
    state: str
    pid: int = 0
    started_at: str = ""
    cgroup: dict[str, str] = {}


class Created(msgspec.Struct, frozen=True, tag="created"):
    pid: int
    cgroup: dict[str, str]


class Started(msgspec.Struct, frozen=True, tag="started"):
    pid: int
    started_at: str


class ExecExit(msgspec.Struct, frozen=True, tag="exec-exit"):
    exit_code: int


class OomCount(msgspec.Struct, frozen=True, tag="oom"):
    count: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    pass


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    failure: Failure


Answer = Welcome | Created | Started | ExitRecord | ExecExit | OomCount | Done | Failed


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """``kind`` is "monitor" or one of the worker kinds."""

    kind: str


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    pid: int


ZygoteRequest = Fork | Kill


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    pid: int


ZygoteAnswer = Forked | Done | Failed
