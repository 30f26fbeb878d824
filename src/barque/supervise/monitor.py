"""The parent of one container: owns its streams, log and clients, and says how it ended. Outlives daemon and zygote.

One thread, one event loop. The life of it::

    Create -> created -> Start -> running -> (PID 1 ends) -> (output drained, exit.json written) -> exited -> Release
                  \\         \\_ Failed: everything is undone, the monitor ends
                   \\_ Failed: the same

The exit is reported only after the container's output was passed on and ``exit.json`` is durable.

A monitor of a running container that has nothing to do ends, and the container's keeper forks another one when that
changes: see :mod:`barque.supervise.keeper`. ``_rest`` and ``wake`` are the two ends of it.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from barque.runtime.failure import RuntimeFailure
from barque.supervise import forkserver, keeper, rest
from barque.supervise import messages as m
from barque.supervise.attach import Attacher
from barque.supervise.backend import REFUSALS, Backend, Backends, Child, Process, as_failure
from barque.supervise.connection import Connection
from barque.supervise.log_sink import Log, Shipped, open_log, reopen_log
from barque.supervise.logfile import Clock
from barque.supervise.loop import IN, Loop
from barque.supervise.oom import OomWatch
from barque.supervise.remains import bury_all
from barque.supervise.rundir import RunDir
from barque.supervise.stdio import Ends, Streams
from barque.sys import prctl, process, signalfd, tty

#: How long a killed process may take to die (seconds): it may hang in the kernel.
KILL_TIMEOUT = 10
#: After how long without anything to do a monitor leaves the container to its keeper (seconds).
REST_AFTER = 2.0
#: Exit codes of processes whose WaitExec may still come.
REMEMBERED_EXITS = 1024
#: Clients that wait for a process are only taken up to this many clients in all.
MAX_ATTACHERS = 512


class Running:
    """A process of the container: PID 1 or an exec'd one."""

    def __init__(self, child: Process, streams: Streams) -> None:
        self.pid = child.pid
        self.pidfd = child.pidfd
        self.streams = streams
        self.waiters: list[tuple[Connection, int]] = []

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Monitor:
    """Holds the state; each method named after a message handles that message."""

    def __init__(self, loop: Loop, exec_root: str, backend: Callable[[m.CreateOrder], Backend],
                 keeper_link: socket.socket) -> None:
        self._loop = loop
        self._keeper = keeper_link
        self._exec_root = exec_root
        self._make_backend = backend
        self._clock = Clock()
        self._backend: Backend | None = None
        self._run_dir: RunDir | None = None
        self._order: m.CreateOrder | None = None
        self._log: Log | None = None
        self._listener: socket.socket | None = None
        self._state = "new"
        self._started_at = ""
        self._init: Running | None = None
        self._execs: dict[str, Running] = {}
        self._exec_exits: dict[str, int] = {}
        #: Of exec'd processes that have ended while others that they left behind held them open.
        self._drains: list[Streams] = []
        self._attachers: set[Attacher] = set()
        self._early: dict[str, list[Attacher]] = {}
        self._connections: set[Connection] = set()
        self._creator: Connection | None = None
        self._oom = OomWatch(loop)
        self._wait_status: tuple[int, int] | None = None
        self._ended_at = ""
        self._record: m.ExitRecord | None = None
        self._clean = False
        self._released = False
        self._children = signalfd.open_for([signal.SIGCHLD])
        loop.watch(self._children, IN, lambda _: self._reap())
        loop.watch(keeper_link.fileno(), IN, lambda _: self._reaped_by_keeper())
        #: Of the process, once the loop has ended.
        self.status = 0

    # Connections

    def serve(self, connection: socket.socket) -> Connection:
        """Take requests from a connection, which is the monitor's from now on; the first one is the creator's."""
        connection.setblocking(False)
        accepted = Connection(self._loop, connection, self._handle, self._gone)
        self._creator = self._creator or accepted
        self._connections.add(accepted)
        return accepted

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return    # the client has given up, or there are no descriptors left: the next one may be luckier
        self.serve(connection)

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection is self._creator and self._state in ("new", "created"):
            # Whoever made it is gone before it ran: nobody would ever start it.
            self._undo()
            self._loop.stop()
        self._oom.forget(connection)
        for running in [*self._execs.values(), *filter(None, [self._init])]:
            running.waiters = [waiter for waiter in running.waiters if waiter[0] is not connection]

    def _handle(self, connection: Connection, serial: int, request: m.Request) -> None:
        handler: Callable[[Connection, int, Any], m.Answer | None] = getattr(self, _HANDLERS[type(request)])
        try:
            answer = handler(connection, serial, request)
        except REFUSALS as error:
            answer = m.Failed(as_failure(type(request).__name__.lower(), error))
        if answer is not None:
            connection.answer(serial, answer)
        if self._released:
            self._leave()

    # Requests

    def hello(self, connection: Connection, serial: int, request: m.Hello) -> m.Answer:
        if request.proto != m.PROTOCOL:
            raise ValueError(f"protocol {request.proto} is not spoken here")
        if self._run_dir is None:
            self._run_dir = RunDir(self._exec_root, request.container_id)
        elif self._order is not None and self._order.id != request.container_id:
            raise ValueError("this is the monitor of another container")
        return m.Welcome(m.PROTOCOL, self._state, self._init.pid if self._init and not self._record else 0,
                         self._started_at, self._backend.cgroup() if self._backend else {})

    def create(self, connection: Connection, serial: int, request: m.Create) -> m.Answer | None:
        order = request.order
        if self._state != "new" or self._run_dir is None:
            raise ValueError("a monitor creates one container, after Hello")
        self._order = order
        self._run_dir = RunDir(self._exec_root, order.id)
        ends: Ends | None = None
        try:
            self._run_dir.make()
            self._listener = self._run_dir.listen()
            if order.log is not None:
                self._log = open_log(order.log, self._loop, self._want_log_work, self._throttle)
            ends = Ends(terminal=order.terminal, stdin=order.open_stdin)
            self._backend = self._make_backend(order)
            child = self._backend.create(order, ends.fds)
            self._init = Running(child, self._open_streams(child, ends, order.console_size, order.stdin_once))
            self._remember()
        except REFUSALS as error:
            if ends is not None:
                ends.close()
            self._undo()
            connection.answer(serial, m.Failed(as_failure("create", error)))
            return None
        self._state = "created"
        self._listen()
        return m.Created(self._init.pid, self._backend.cgroup())

    def start(self, connection: Connection, serial: int, request: m.Start) -> m.Answer | None:
        if self._state != "created":
            raise ValueError("the container was already started")
        assert self._backend is not None and self._init is not None
        try:
            self._backend.start()
            self._started_at = self._clock.now()
            self._state = "running"
            self._remember()
            self._oom.watch(self._backend, self._backend.oom_fd())
        except REFUSALS as error:
            failed = m.Failed(as_failure("start", error))
            self._undo()
            connection.answer(serial, failed)
            return None
        return m.Started(self._init.pid, self._started_at)

    def exec(self, connection: Connection, serial: int, request: m.Exec) -> m.Answer:
        order = request.order.completed()
        if self._state != "running" or self._wait_status is not None or self._backend is None:
            raise RuntimeFailure("exec", detail="the container is not running")
        if order.exec_id in self._execs or order.exec_id in self._exec_exits:
            raise ValueError(f"exec {order.exec_id} was already started")
        ends = Ends(terminal=order.terminal, stdin=order.stdin, stdout=order.stdout, stderr=order.stderr)
        try:
            child = self._backend.exec(order, ends.fds)
        except BaseException:
            ends.close()
            for attacher in self._early.pop(order.exec_id, []):
                attacher.close()
            raise
        early = self._early.pop(order.exec_id, [])
        streams = self._open_streams(child, ends, order.console_size, True, gate=order.attached and not early)
        self._execs[order.exec_id] = Running(child, streams)
        for attacher in early:
            attacher.join(streams)
        return m.Started(child.pid, self._clock.now())

    def attach(self, connection: Connection, serial: int, request: m.Attach) -> m.Answer | None:
        exec_id, running = request.exec_id, self._find(request.exec_id)
        if exec_id in self._exec_exits or (running is not None and running.streams.finished):
            raise RuntimeFailure("attach", detail="the process has ended")
        if running is None and (exec_id is None or len(self._attachers) >= MAX_ATTACHERS):
            raise RuntimeFailure("attach", detail="the process is not running")
        connection.answer(serial, m.Done())
        self._connections.discard(connection)
        sock, rest = connection.detach()
        spool_dir = self._order.spool_dir if self._order is not None else ""
        attacher = Attacher(self._loop, sock, request, early=rest, spool_dir=spool_dir or None, gone=self._detached)
        self._attachers.add(attacher)
        if running is not None:
            attacher.join(running.streams)
        elif exec_id is not None:
            self._early.setdefault(exec_id, []).append(attacher)
        return None

    def signal(self, connection: Connection, serial: int, request: m.Signal) -> m.Answer:
        running = self._find(request.exec_id)
        if running is None or running.pidfd < 0:
            raise ProcessLookupError(3, "no such process in kill")
        process.pidfd_signal(running.pidfd, request.number)
        return m.Done()

    def resize(self, connection: Connection, serial: int, request: m.Resize) -> m.Answer:
        running = self._find(request.exec_id)
        if running is None:
            raise RuntimeFailure("resize", detail="the process is not running")
        running.streams.resize(request.height, request.width)
        return m.Done()

    def wait(self, connection: Connection, serial: int, request: m.Wait) -> m.Answer | None:
        if self._record is not None:
            return self._record
        if self._init is None:
            raise ValueError("there is no container")
        self._init.waiters.append((connection, serial))
        return None

    def wait_exec(self, connection: Connection, serial: int, request: m.WaitExec) -> m.Answer | None:
        if request.exec_id in self._exec_exits:
            return m.ExecExit(self._exec_exits[request.exec_id])
        if request.exec_id not in self._execs:
            raise ProcessLookupError(3, "no such process in wait")
        self._execs[request.exec_id].waiters.append((connection, serial))
        return None

    def wait_oom(self, connection: Connection, serial: int, request: m.WaitOom) -> m.Answer | None:
        self._oom.wait(connection, serial, request.seen)
        return None

    def reship(self, connection: Connection, serial: int, request: m.Reship) -> m.Answer:
        if self._record is not None or not isinstance(self._log, Shipped):
            raise ValueError("there is no output to ship")
        self._log.connect()
        return m.Done()

    def release(self, connection: Connection, serial: int, request: m.Release) -> m.Answer | None:
        if self._state == "running":
            raise ValueError("the container is running")
        if self._state == "created":
            self._undo()
        self._clean_up()
        if self._log is not None:
            self._log.abandon_work()
        self._remove_traces()
        self._released = True
        return m.Done()

    # What happens

    def _reap(self) -> None:
        signalfd.drain(self._children)
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if info is None:
                return
            number = 0 if info.si_code == os.CLD_EXITED else info.si_status
            code = 128 + number if number else info.si_status
            if self._init is not None and info.si_pid == self._init.pid:
                self._init_ended(code, number)
            for exec_id, running in list(self._execs.items()):
                if running.pid == info.si_pid:
                    self._exec_ended(exec_id, running, code)

    def _reaped_by_keeper(self) -> None:
        packet = self._keeper.recv(keeper.STATUS.size)
        if not packet:
            raise ConnectionError("the keeper has died")
        (status,) = keeper.STATUS.unpack(packet)
        code = os.waitstatus_to_exitcode(status)
        self._init_ended(128 - code if code < 0 else code, max(0, -code))

    def _init_ended(self, code: int, number: int) -> None:
        assert self._init is not None and self._backend is not None
        if self._wait_status is not None or self._released:
            return
        self._wait_status = code, number
        self._ended_at = self._clock.now()
        # With a PID namespace of its own the kernel has killed the rest; without one it is up to us.
        self._backend.kill_all()
        self._init.close()
        self._init.streams.process_ended(self._report_exit)

    def _report_exit(self) -> None:
        assert self._init is not None and self._backend is not None and self._run_dir is not None
        assert self._wait_status is not None
        if self._log is not None:
            self._log.close()
        code, number = self._wait_status
        self._record = m.ExitRecord(exit_code=code, signal=number, oom_killed=self._backend.oom_kills() > 0,
                                    started_at=self._started_at, finished_at=self._ended_at,
                                    log_dropped=self._log.dropped if self._log else 0)
        self._keep(self._record)
        self._state = "exited"
        for connection, serial in self._init.waiters:
            connection.answer(serial, self._record)
        self._init.waiters.clear()
        self._oom.end()
        try:
            self._clean_up()
        except REFUSALS:
            pass    # tried again, and then told, at Release

    def _keep(self, record: m.ExitRecord) -> None:
        """Write the record down for whoever looks when this process is gone. With a full disk it is only told."""
        assert self._run_dir is not None
        try:
            self._run_dir.write_exit(record)
        except OSError:
            self._note()

    def _exec_ended(self, exec_id: str, running: Running, code: int) -> None:
        running.close()

        def report() -> None:
            del self._execs[exec_id]
            self._exec_exits[exec_id] = code
            self._drains = [streams for streams in (*self._drains, running.streams) if streams.open]
            if len(self._exec_exits) > REMEMBERED_EXITS:
                del self._exec_exits[next(iter(self._exec_exits))]
            for connection, serial in running.waiters:
                connection.answer(serial, m.ExecExit(code))

        running.pid = 0
        running.streams.process_ended(report)

    # Parts of the above

    def _find(self, exec_id: str | None) -> Running | None:
        return self._init if exec_id is None else self._execs.get(exec_id)

    def _detached(self, attacher: Attacher) -> None:
        self._attachers.discard(attacher)
        for exec_id, waiting in list(self._early.items()):
            if attacher in waiting:
                waiting.remove(attacher)
            if not waiting:
                del self._early[exec_id]
        if self._released:
            self._leave()

    def _open_streams(self, child: Process, ends: Ends, size: tuple[int, int] | None, close_on_eof: bool,
                      gate: bool = False) -> Streams:
        ends.close_theirs()
        if child.console is not None:
            ends.take_console(child.console)
            if size is not None and all(size):
                tty.set_size(child.console, *size)
        log = self._log if self._init is None else None
        return Streams(self._loop, ends.give_away(), terminal=ends.terminal, log=log, close_on_eof=close_on_eof,
                       gate=gate)

    def _remember(self) -> None:
        assert self._init is not None and self._backend is not None and self._run_dir is not None
        self._run_dir.write_monitor(m.MonitorRecord(
            proto=m.PROTOCOL, monitor_pid=os.getppid(), pid=self._init.pid,
            start_time=process.start_time(self._init.pid), cgroup=self._backend.cgroup(), started_at=self._started_at))

    def rest_when_quiet(self, seconds: float) -> None:
        """Leave the container to the keeper, and end the loop, once there was nothing to do for ``seconds``."""
        self._loop.call_when_quiet(seconds, self._rest)

    def _rest(self) -> None:
        if self._state != "running" or self._execs or self._attachers \
                or not all(connection.idle for connection in self._connections):
            return
        assert self._init is not None and self._order is not None and self._backend is not None
        assert self._listener is not None
        if not self._init.streams.idle or (self._log is not None and not self._log.idle):
            return
        luggage = rest.Luggage()
        value = rest.encoder.encode(rest.Rest(
            order=replace(self._order, rootfs=()), pid=self._init.pid, pidfd=luggage.silent(self._init.pidfd),
            started_at=self._started_at, cgroup=self._backend.cgroup(), exec_exits=self._exec_exits,
            listener=luggage.waking(self._listener.fileno()),
            callers=[self._pack_caller(connection, luggage) for connection in self._connections],
            streams=self._init.streams.pack(luggage),
            drains=[drain.pack(luggage) for drain in self._drains if drain.open],
            oom=luggage.waking(self._oom.fd) if self._oom.fd >= 0 else None,
            log=self._log.pack(luggage) if self._log is not None else None, backend=self._backend.pack(luggage)))
        if keeper.leave(self._keeper, self._init.pid, value, luggage):
            self.status = keeper.RESTS
            self._loop.stop()

    def _pack_caller(self, connection: Connection, luggage: rest.Luggage) -> rest.Caller:
        assert self._init is not None
        return rest.Caller(luggage.waking(connection.fileno()),
                           [serial for waiter, serial in self._init.waiters if waiter is connection],
                           [(serial, seen) for waiter, serial, seen in self._oom.waiters if waiter is connection])

    def wake(self, value: bytes, fds: list[int]) -> None:
        """Go on where an earlier monitor rested."""
        left = rest.decoder.decode(value)
        order = self._order = left.order
        self._state, self._started_at, self._exec_exits = "running", left.started_at, left.exec_exits
        self._run_dir = RunDir(self._exec_root, order.id)
        child = Child(left.pid, fds[left.pidfd])
        self._backend = self._make_backend(order)
        self._backend.unpack(order, child, left.cgroup, [fds[place] for place in left.backend])
        if order.log is not None and left.log is not None:
            self._log = reopen_log(order.log, self._loop, self._want_log_work, self._throttle, left.log, fds)
        self._init = Running(child, Streams(self._loop, rest.unpack(left.streams, fds), terminal=order.terminal,
                                            log=self._log, close_on_eof=order.stdin_once))
        self._drains = [Streams.of_ended(self._loop, rest.unpack(drain, fds)) for drain in left.drains]
        for caller in left.callers:
            connection = self.serve(socket.socket(fileno=fds[caller.place]))
            self._init.waiters += [(connection, serial) for serial in caller.waits]
            self._oom.waiters += [(connection, serial, seen) for serial, seen in caller.oom_waits]
        self._listener = socket.socket(fileno=fds[left.listener])
        self._listen()
        self._oom.watch(self._backend, None if left.oom is None else fds[left.oom])

    def _listen(self) -> None:
        assert self._listener is not None
        self._loop.watch(self._listener.fileno(), IN, lambda _: self._accept())

    def _want_log_work(self) -> None:
        self._loop.idle = lambda: self._log is not None and self._log.work()

    def _throttle(self, full: bool) -> None:
        """Read no output of the container while its log takes no more."""
        if self._init is not None:
            (self._init.streams.hold if full else self._init.streams.relax)(self._log)

    def _undo(self) -> None:
        """Leave nothing of a container that never ran, and end the monitor."""
        self._released = True
        if self._backend is not None:
            try:
                self._backend.kill_all()
                self._kill_init()
                self._clean_up()
                self._reap()
            except REFUSALS:
                self._note()
        if self._init is not None:
            self._init.streams.close()
        for attacher in list(self._attachers):
            attacher.close()
        if self._log is not None:
            self._log.close()
            self._log = None
        self._remove_traces()

    def _kill_init(self) -> None:
        if self._init is None or self._init.pidfd < 0:
            return
        try:
            process.pidfd_signal(self._init.pidfd, signal.SIGKILL)
            process.ended(self._init.pidfd, KILL_TIMEOUT)
        except ProcessLookupError:
            pass
        self._init.close()

    def _clean_up(self) -> None:
        if self._backend is not None and not self._clean:
            self._oom.close()
            self._backend.cleanup()
            self._clean = True

    def _remove_traces(self) -> None:
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._run_dir is not None and self._order is not None:
            self._run_dir.remove()

    def _leave(self) -> None:
        """End once the last client has taken its output; what it still reads is in its own buffer."""
        if not self._attachers:
            self._loop.stop()

    def close(self) -> None:
        """For a monitor whose loop has ended without its process."""
        self._loop.forget(self._children)
        os.close(self._children)

    def panic(self, text: str) -> None:
        """A bug was met: end the container rather than leave it without a parent, and say so in its record."""
        if self._backend is None or self._run_dir is None:
            return
        self._note()
        for step in (self._backend.kill_all, self._kill_init):
            try:
                step()
            except Exception:    # no step may keep the others from their work
                self._note()
        if self._record is None:
            self._keep(m.ExitRecord(exit_code=255, started_at=self._started_at, finished_at=self._clock.now(),
                                    error=text))
        self._run_dir.remove_socket()
        self._clean_up()

    def _note(self) -> None:
        """Keep the traceback of the exception at hand for the daemon's log, if there is room for it."""
        if self._run_dir is not None and self._run_dir.exists:
            with suppress(OSError):
                self._run_dir.note(traceback.format_exc())


_HANDLERS = {m.Hello: "hello", m.Create: "create", m.Start: "start", m.Exec: "exec", m.Attach: "attach",
             m.Signal: "signal", m.Resize: "resize", m.Wait: "wait", m.WaitExec: "wait_exec", m.WaitOom: "wait_oom",
             m.Reship: "reship", m.Release: "release"}


def kind(exec_root: str, backends: Backends, rest_after: float = REST_AFTER) -> forkserver.Lasting:
    """What a zygote forks for each container: its keeper, which forks the monitors."""
    children = signalfd.open_for([signal.SIGCHLD])

    def serve(link: socket.socket, value: bytes, fds: list[int]) -> int:
        return run(link, value, fds, exec_root, backends, rest_after)

    return lambda fds: keeper.keep(fds, children, serve, lambda: bury_all(exec_root, os.getpid()))


def run(keeper_link: socket.socket, value: bytes, fds: list[int], exec_root: str,
        backends: Backends, rest_after: float) -> int:
    """Be a monitor for :func:`barque.supervise.keeper.keep`; ``fds`` of the first one are what the zygote gave."""
    prctl.set_death_signal(signal.SIGKILL)
    prctl.set_subreaper()
    loop = Loop()
    monitor = Monitor(loop, exec_root, backends.make, keeper_link)
    monitor.rest_when_quiet(rest_after)
    try:
        if value:
            monitor.wake(value, fds)
        else:
            connection = forkserver.take(fds, os.getppid())
            backends.prepare()
            monitor.serve(connection)
        loop.run()
        backends.close()
    except Exception as error:    # the boundary of this process: whatever it is, the container must not outlive it
        monitor.panic("".join(traceback.format_exception_only(error)).strip())
        return 1
    return monitor.status
