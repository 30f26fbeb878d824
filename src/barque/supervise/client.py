"""The daemon's side of the supervision, for asyncio: containers through their monitors, workers through the zygote."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from barque.errors import Internal, Unavailable
from barque.runtime.failure import RuntimeFailure
from barque.supervise import messages as m
from barque.supervise.backend import as_error
from barque.supervise.forkserver import ZygoteHandle, spawn
from barque.supervise.remains import LOST, bury, sweep
from barque.supervise.rundir import RunDir
from barque.supervise.shippers.orders import ShipOrder
from barque.supervise.shipping import Shipper, Shippers
from barque.supervise.wire import ANSWERS, HEADER, MAX_MESSAGE, Decoder, ProtocolError, encode
from barque.supervise.zygote_client import ZygoteClient

log = logging.getLogger("barque.supervise")
A = TypeVar("A")

#: For an attached client's reader: twice this is taken from the monitor ahead of who reads here.
STREAM_LIMIT = 256 << 10
#: A spare monitor is forked so many seconds after a create.
SPARE_AFTER = 0.05
#: A monitor that does not greet within this time (seconds) hangs.
GREETING_TIMEOUT = 10


class MonitorGone(Unavailable):
    text = "the supervisor of container {id} has died"


class Disconnected(Unavailable):
    text = "the daemon has let go of the supervisor of container {id}"


class WorkerDied(Internal):
    text = "the {kind} worker died"


class Supervisor:
    """Makes monitors, finds those that are there, and runs workers (:class:`barque.store.tar.child.Workers`)."""

    def __init__(self, exec_root: str, client: ZygoteClient) -> None:
        self._exec_root = exec_root
        self._zygote = client
        self._shippers = Shippers(client)
        self._monitors: set[Monitor] = set()
        #: Pid and channel of a monitor that waits for its container; made after the first container.
        self._spare: tuple[int, socket.socket] | None = None
        #: Makes it; done when it waits.
        self.refill: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def start(cls, exec_root: str, handle: ZygoteHandle | None = None,
                    spawn: Callable[[str], ZygoteHandle] = spawn) -> Supervisor:
        """``handle``: the zygote that was spawned early in the life of this process; else one is spawned now."""
        os.makedirs(f"{exec_root}/containers", 0o700, exist_ok=True)
        os.makedirs(f"{exec_root}/m", 0o700, exist_ok=True)
        return cls(exec_root, ZygoteClient(handle or spawn(exec_root), lambda: spawn(exec_root)))

    @property
    def zygote_pid(self) -> int | None:
        """For statistics; None while there is none."""
        return self._zygote.pid

    @property
    def monitors(self) -> list[Monitor]:
        """Those that this supervisor is connected to."""
        return list(self._monitors)

    async def create(self, order: m.CreateOrder) -> Monitor:
        """Have a container created up to its start. Raises RuntimeFailure and leaves nothing behind then.

        A client that is cancelled abandons the container: the monitor undoes what it has done so far.
        """
        run_dir = RunDir(self._exec_root, order.id)
        pid, monitor = await self._fresh(order.id, run_dir)
        try:
            created = await monitor.call(m.Create(order), m.Created)
        except BaseException as error:
            await asyncio.shield(self._abandon(monitor, pid, graceful=not isinstance(error, MonitorGone)))
            raise
        monitor.pid, monitor.cgroup, monitor.state = created.pid, created.cgroup, "created"
        if self.refill is None or self.refill.done():
            self.refill = asyncio.create_task(self._fork_spare(), name="spare monitor")
        return monitor

    async def _fresh(self, container_id: str, run_dir: RunDir) -> tuple[int, Monitor]:
        """A monitor without a container: the spare one if there is one and it lives, else a new one."""
        spare, self._spare = self._spare, None
        if spare is not None:
            try:
                return spare[0], await self._connect(container_id, run_dir, spare[1])
            except MonitorGone:
                log.warning("the spare monitor (pid %d) has died", spare[0])
        pid, channel = await self._zygote.fork("monitor")
        return pid, await self._connect(container_id, run_dir, channel)

    async def _fork_spare(self) -> None:
        """Have the next monitor ready: its fork, and what it does before it can listen, are a fifth of a start.

        Not at once: the processor is better used for the container that starts now.
        """
        await asyncio.sleep(SPARE_AFTER)
        if self._spare is None and not self._closed:
            try:
                self._spare = await self._zygote.fork("monitor")
            except (Unavailable, RuntimeFailure, OSError) as error:
                log.warning("no spare monitor: %s", error)

    async def adopt(self, container_id: str) -> Monitor | m.ExitRecord | None:
        """What there is of a container that an earlier daemon started.

        Its monitor; or how it ended, after which :meth:`forget` removes the record; or None if nothing is known. What a
        dead monitor left running is killed first.
        """
        run_dir = RunDir(self._exec_root, container_id)
        try:
            connection = run_dir.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            return await asyncio.to_thread(bury, run_dir) if run_dir.exists else None
        try:
            return await self._connect(container_id, run_dir, connection)
        except MonitorGone:
            return await asyncio.to_thread(bury, run_dir)

    async def forget(self, container_id: str) -> None:
        """Remove the record of a container that has no monitor any more. Idempotent."""
        await asyncio.to_thread(sweep, RunDir(self._exec_root, container_id))

    async def run(self, kind: str, request: bytes, fds: Sequence[int]) -> bytes:
        """Have a confined worker do ``request`` with ``fds`` (which stay the caller's). Cancelling kills the worker."""
        pid, channel = await self._zygote.fork(kind, fds)
        reader, writer = await asyncio.open_connection(sock=channel)
        try:
            writer.write(len(request).to_bytes(4, "big") + request)
            length = int.from_bytes(await reader.readexactly(4), "big")
            return await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise WorkerDied(kind=kind) from None
        except asyncio.CancelledError:
            await asyncio.shield(self._zygote.kill(pid))
            raise
        finally:
            writer.close()

    async def ship(self, container_id: str, order: ShipOrder) -> Shipper:
        """Have a shipper wait for the container's monitor (:class:`barque.supervise.messages.Shipping`).

        Raises :class:`LogTargetRefused` with dockerd's reason.
        """
        return await self._shippers.start(RunDir(self._exec_root, container_id), order)

    async def shipper(self, container_id: str) -> Shipper | None:
        """The one that an earlier daemon started; None if it has died."""
        return await self._shippers.find(RunDir(self._exec_root, container_id))

    async def close(self) -> None:
        """Let go of everything: containers and shippers run on, workers are killed."""
        self._closed = True
        await self._shippers.close()
        if self.refill is not None:
            self.refill.cancel()
            await asyncio.wait([self.refill])
        if self._spare is not None:
            # It ends as every monitor does whose creator goes away.
            self._spare[1].close()
            self._spare = None
        for monitor in self.monitors:
            await monitor.disconnect()
        self._zygote.close()
        await asyncio.sleep(0)    # transports close their sockets on the next turn

    async def _connect(self, container_id: str, run_dir: RunDir, connection: socket.socket) -> Monitor:
        reader, writer = await asyncio.open_connection(sock=connection, limit=STREAM_LIMIT)
        monitor = Monitor(container_id, run_dir, reader, writer, self._monitors.discard, self.adopt)
        self._monitors.add(monitor)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT):
                welcome = await monitor.call(m.Hello(m.PROTOCOL, container_id), m.Welcome)
        except BaseException:
            await monitor.disconnect()
            raise
        monitor.pid, monitor.cgroup, monitor.state = welcome.pid, welcome.cgroup, welcome.state
        monitor.started_at = welcome.started_at
        return monitor

    async def _abandon(self, monitor: Monitor, pid: int, *, graceful: bool) -> None:
        """After a create that failed, was cancelled or lost its monitor: see that nothing stays."""
        await monitor.disconnect()
        if not graceful:
            await self._zygote.kill(pid)
            await asyncio.to_thread(sweep, monitor.run_dir)


class Monitor:
    """One container's monitor. ``pid`` is that of PID 1 in the host's namespace (0 once it has ended), ``cgroup`` its
    directories by controller, ``state`` the one at connection time: created, running or exited.
    """

    def __init__(self, container_id: str, run_dir: RunDir, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                 gone: Callable[[Monitor], None],
                 adopt: Callable[[str], Awaitable[Monitor | m.ExitRecord | None]]) -> None:
        self.id = container_id
        self.run_dir = run_dir
        self.pid = 0
        self.cgroup: dict[str, str] = {}
        self.state = "new"
        self.started_at = ""
        self._writer = writer
        self._gone = gone
        self._adopt = adopt
        self._let_go = False
        self._serial = 0
        self._pending: dict[int, asyncio.Future[m.Answer]] = {}
        self._connected = True
        self._burial: asyncio.Task[m.ExitRecord] | None = None
        self._listener = asyncio.create_task(self._listen(reader), name=f"monitor {container_id[:12]}")

    def fileno(self) -> int:
        """Of the control connection."""
        return int(self._writer.get_extra_info("socket").fileno())

    async def start(self) -> int:
        """Let PID 1 run its program; returns its pid. Raises RuntimeFailure: nothing is left of the container then."""
        started = await self.call(m.Start(), m.Started)
        self.state, self.started_at = "running", started.started_at
        return started.pid

    async def exec(self, order: m.ExecOrder) -> int:
        """Run a further process; returns its pid. Raises RuntimeFailure."""
        return (await self.call(m.Exec(order), m.Started)).pid

    async def attach(self, exec_id: str | None, *, stdin: bool, stdout: bool,
                     stderr: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that is the byte stream: input raw, output raw for a terminal, else in docker's frames.

        ``write_eof()`` ends the input. The stream ends when the process has ended and all its output was delivered.
        May be called before ``start`` or ``exec``. The caller closes the writer. Raises RuntimeFailure, MonitorGone.
        """
        try:
            connection = self.run_dir.connect()
        except OSError:
            raise MonitorGone(id=self.id) from None
        reader, writer = await asyncio.open_connection(sock=connection, limit=STREAM_LIMIT)
        try:
            writer.write(encode(1, m.Hello(m.PROTOCOL, self.id)))
            writer.write(encode(2, m.Attach(exec_id, stdin, stdout, stderr)))
            for _ in range(2):
                answer = await _read_answer(reader)
                if isinstance(answer, m.Failed):
                    raise as_error(answer.failure)
        except (asyncio.IncompleteReadError, ConnectionError, ProtocolError):
            writer.close()
            raise MonitorGone(id=self.id) from None
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def signal(self, number: int, exec_id: str | None = None) -> None:
        """Raises RuntimeFailure with errno ESRCH when the process has ended."""
        await self.call(m.Signal(number, exec_id), m.Done)

    async def resize(self, height: int, width: int, exec_id: str | None = None) -> None:
        await self.call(m.Resize(height, width, exec_id), m.Done)

    async def wait_exit(self) -> m.ExitRecord:
        """How the container ended, once it has; also when its monitor died, with ``error`` set then.

        Raises :class:`Disconnected` after :meth:`disconnect`: the container runs on.
        """
        try:
            return await self.call(m.Wait(), m.ExitRecord)
        except MonitorGone:
            if self._burial is None:
                self._burial = asyncio.create_task(self._look_again())
            return await asyncio.shield(self._burial)

    async def _look_again(self) -> m.ExitRecord:
        """The connection broke: that the monitor is dead is only known once another one fails too."""
        log.error("the monitor of container %s has hung up\n%s", self.id, self.run_dir.read_notes())
        found = await self._adopt(self.id)
        if isinstance(found, Monitor):
            return await found.wait_exit()
        return found or m.ExitRecord(exit_code=LOST, error="the container's supervisor and its record are gone")

    async def wait_exec(self, exec_id: str) -> int:
        """The exit code of an exec'd process; raises RuntimeFailure for one that is not known (any more)."""
        return (await self.call(m.WaitExec(exec_id), m.ExecExit)).exit_code

    async def wait_oom(self, seen: int = 0) -> int:
        """Returns the count of processes that the OOM killer took once it is above ``seen``, or at the exit."""
        return (await self.call(m.WaitOom(seen), m.OomCount)).count

    async def reship(self) -> None:
        """Have the output go to a new shipper, which waits for it. Raises RuntimeFailure after the exit."""
        await self.call(m.Reship(), m.Done)

    async def release(self) -> None:
        """Have the monitor of a container that has exited, or never started, go away with its directory."""
        try:
            await self.call(m.Release(), m.Done)
        except MonitorGone:
            found = await self._adopt(self.id)
            if isinstance(found, Monitor):
                await found.release()
            else:
                await asyncio.to_thread(sweep, self.run_dir)
        await self.disconnect()

    async def disconnect(self) -> None:
        """Let go of the monitor, which goes on by itself."""
        self._let_go = True
        self._lose()
        self._listener.cancel()
        try:
            await self._listener
        except asyncio.CancelledError:
            if not self._listener.cancelled():
                raise

    async def call(self, request: m.Request, kind: type[A]) -> A:
        """Send one request and wait for its answer; raises RuntimeFailure for Failed, and :class:`MonitorGone`."""
        if not self._connected:
            raise self._why()
        self._serial += 1
        serial = self._serial
        future: asyncio.Future[m.Answer] = asyncio.get_running_loop().create_future()
        self._pending[serial] = future
        self._writer.write(encode(serial, request))
        try:
            answer = await future
        finally:
            self._pending.pop(serial, None)
        if isinstance(answer, m.Failed):
            raise as_error(answer.failure)
        assert isinstance(answer, kind)
        return answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder = Decoder(ANSWERS)
        try:
            while data := await reader.read(1 << 16):
                decoder.feed(data)
                while (item := decoder.next()) is not None:
                    future = self._pending.get(item[0])
                    if future is not None and not future.done():
                        future.set_result(item[1])
        except (ConnectionError, ProtocolError) as error:
            log.warning("monitor of %s: %s", self.id, error)
        finally:
            self._lose()

    def _lose(self) -> None:
        if not self._connected:
            return
        self._connected = False
        self._writer.close()
        self._gone(self)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(self._why())

    def _why(self) -> Unavailable:
        return Disconnected(id=self.id) if self._let_go else MonitorGone(id=self.id)


async def _read_answer(reader: asyncio.StreamReader) -> m.Answer:
    length, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
    if length > MAX_MESSAGE:
        raise ProtocolError(f"a message of {length} bytes")
    try:
        return ANSWERS.decode(await reader.readexactly(length))
    except msgspec.DecodeError as error:
        raise ProtocolError(str(error)) from None
