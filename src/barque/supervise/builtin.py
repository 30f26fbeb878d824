"""The built-in runtime behind a monitor.

Creating a container touches most of the runtime's code, and with its reference counts some 3 MB of pages that fork had
shared. So a helper, forked for the purpose, does it and is gone after the start; the container's first process then
becomes the child of the monitor, which is a subreaper. Over a SOCK_SEQPACKET pair::

    monitor   helper                       when
    -------   --------------------------   ----------------------------------------------------------------
              Created + pidfd [, console]  the first process waits to be started
    Start                                  let it exec
              Done                         the program runs; the helper ends
              Failed                       instead of either of the helper's; it has undone its work, and ends

A helper that loses its monitor ends, and with it a first process that was not started.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from typing import NoReturn

import msgspec

from barque.oci import runtime_spec
from barque.runtime import cgroups, hooks
from barque.runtime.create import Created, CreateRequest, Stdio, create, state_document
from barque.runtime.criu.options import Options
from barque.runtime.criu.restore import Restored, RestoreRequest, restore
from barque.runtime.failure import RuntimeFailure
from barque.runtime.process import Target, exec_process
from barque.supervise import messages as m
from barque.supervise.backend import REFUSALS, Child, Fds, Process, as_error, as_failure
from barque.supervise.rest import Luggage
from barque.supervise.wire import ANSWERS, REQUESTS, receive_packet, send_packet

MAX_CONFIG = 16 << 20
#: The engine wrote the document, so the lenient decoder, which inspects all types first (50 ms), is a second choice.
#: Made here, before the zygote forks.
_spec_decoder = msgspec.json.Decoder(runtime_spec.Spec)


class BuiltinBackend:
    """See :class:`barque.supervise.backend.Backend`."""

    def __init__(self) -> None:
        self._order: m.CreateOrder | None = None
        self._child: Process | None = None
        self._cgroup: cgroups.CgroupManager | None = None
        self._helper: tuple[int, socket.socket] | None = None

    def create(self, order: m.CreateOrder, fds: Fds) -> Process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _help(order, fds, theirs)
        theirs.close()
        self._helper = pid, ours
        created, descriptors = self._ask()
        assert isinstance(created, m.Created)
        self._order = order
        self._cgroup = cgroups.load(created.cgroup)
        self._child = Child(created.pid, descriptors[0], descriptors[1] if len(descriptors) > 1 else None)
        return self._child

    def start(self) -> None:
        assert self._helper is not None
        try:
            send_packet(self._helper[1], 0, m.Start())
        except OSError as error:
            raise RuntimeFailure.of("start", error) from None
        self._ask()
        self._dismiss()

    def exec(self, order: m.ExecOrder, fds: Fds) -> Process:
        assert self._child is not None and self._cgroup is not None
        target = Target(self._child.pid, self._child.pidfd, self._spec(), self._cgroup)
        return exec_process(target, order.process, Stdio(fds))

    def kill_all(self) -> None:
        if self._cgroup is not None:
            self._cgroup.kill(signal.SIGKILL)

    def oom_fd(self) -> int | None:
        return self._cgroup.oom_fd() if self._cgroup is not None else None

    def oom_kills(self) -> int:
        return self._cgroup.oom_kills() if self._cgroup is not None else 0

    def cgroup(self) -> dict[str, str]:
        return self._cgroup.paths() if self._cgroup is not None else {}

    def pack(self, luggage: Luggage) -> list[int]:
        return []

    def unpack(self, order: m.CreateOrder, child: Process, cgroup: dict[str, str], fds: list[int]) -> None:
        self._order, self._child, self._cgroup = order, child, cgroups.load(cgroup)

    def cleanup(self) -> None:
        self._dismiss()
        if self._cgroup is None or self._order is None:
            return
        self._cgroup.destroy()
        # Decoding it takes a millisecond, and few have hooks.
        document = _read(f"{self._order.bundle}/config.json")
        spec = decode_spec(document) if b'"poststop"' in document else None
        if spec is not None and spec.hooks is not None and spec.hooks.poststop:
            request = _request(self._order, spec, None)
            hooks.run("poststop", spec.hooks.poststop, state_document(request, "stopped", 0))

    def _spec(self) -> runtime_spec.Spec:
        """Read anew where it is needed, rather than kept: few containers see an exec."""
        assert self._order is not None
        return read_spec(self._order.bundle)

    def _ask(self) -> tuple[m.Answer, list[int]]:
        """The helper's next message and descriptors; raises RuntimeFailure for Failed, or when it died."""
        assert self._helper is not None
        received = receive_packet(self._helper[1], ANSWERS)
        if received is None:
            self._dismiss()
            raise RuntimeFailure("create", detail="the process that makes the container has died")
        _, answer, descriptors = received
        if isinstance(answer, m.Failed):
            self._dismiss()
            raise as_error(answer.failure)
        return answer, descriptors

    def _dismiss(self) -> None:
        """Wait for the helper's end; one that has not been told to start takes the first process along."""
        if self._helper is not None:
            pid, channel = self._helper
            self._helper = None
            channel.close()
            os.waitpid(pid, 0)


def _help(order: m.CreateOrder, fds: Fds, channel: socket.socket) -> NoReturn:
    """Be the helper."""
    try:
        try:
            spec = read_spec(order.bundle)
            request = _request(order, spec, fds)
            created = create(request) if order.checkpoint is None else _restore(order.checkpoint, request)
            _offer(created, request, channel)
        except REFUSALS as error:
            send_packet(channel, 0, m.Failed(as_failure("create", error)))
    except BaseException:    # the boundary of this process: nothing may run on in the monitor's code
        send_packet(channel, 0, m.Failed(m.Failure("create", detail=traceback.format_exc())))
    finally:
        os._exit(0)


def _restore(checkpoint: m.Checkpoint, request: CreateRequest) -> Restored:
    """The bundle's document is the restored container's then, for processes that join it."""
    restored = restore(RestoreRequest(
        id=request.id, bundle=request.bundle, spec=request.spec, rootfs=request.rootfs, stdio=request.stdio,
        cgroup=request.cgroup, options=Options(images=checkpoint.images, work=checkpoint.work),
        place=f"{request.bundle}/rootfs"))
    if restored.spec is not request.spec:
        with open(f"{request.bundle}/config.json", "wb") as file:
            file.write(msgspec.json.encode(restored.spec))
    return restored


def _offer(created: Created | Restored, request: CreateRequest, channel: socket.socket) -> None:
    descriptors = [created.pidfd] + ([created.console] if created.console is not None else [])
    send_packet(channel, 0, m.Created(created.pid, request.cgroup.paths()), descriptors)
    if receive_packet(channel, REQUESTS) is not None:
        created.start()
        send_packet(channel, 0, m.Done())


def _request(order: m.CreateOrder, spec: runtime_spec.Spec, fds: Fds) -> CreateRequest:
    path = spec.linux.cgroups_path if spec.linux is not None else ""
    return CreateRequest(id=order.id, bundle=order.bundle, spec=spec, rootfs=order.rootfs, stdio=Stdio(fds),
                         cgroup=cgroups.manager(path or f"/barque/{order.id}", driver=order.cgroup_driver,
                                                layout=cgroups.known_layout()))


def read_spec(bundle: str) -> runtime_spec.Spec:
    """Raises InvalidJSON, OSError."""
    return decode_spec(_read(f"{bundle}/config.json"))


def decode_spec(data: bytes) -> runtime_spec.Spec:
    """Raises InvalidJSON."""
    try:
        return _spec_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return runtime_spec.decode(data)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = bytearray()
        while len(data) < MAX_CONFIG and (part := os.read(fd, 1 << 16)):
            data += part
        return bytes(data)
    finally:
        os.close(fd)
