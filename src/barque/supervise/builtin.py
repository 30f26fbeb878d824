"""The built-in runtime behind a monitor.

Creating a container touches most of the runtime's code, and with its reference counts some 3 MB of pages that fork had
shared. So a helper does it, forked when the monitor begins, and is gone after the start; the container's first process
then becomes the child of the monitor, which is a subreaper. Over a SOCK_SEQPACKET pair::

    monitor   helper                       when
    -------   --------------------------   ----------------------------------------------------------------
    Start + order [, streams]              the order, encoded, is on a memfd: it may be too long for a packet
              Created + pidfd [, console]  the first process waits to be started
    Start                                  let it exec
              Done                         the program runs; the helper ends
              Failed                       instead of either of the helper's; it has undone its work, and ends

A helper that loses its monitor ends, and with it a first process that was not started.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
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
#: A helper without an order for so long (seconds) belongs to a spare monitor: there is time.
REHEARSE_AFTER = 0.02
#: The engine wrote the document, so the lenient decoder, which inspects all types first (50 ms), is a second choice.
#: Made here, before the zygote forks.
_spec_decoder = msgspec.json.Decoder(runtime_spec.Spec)
_order_encoder = msgspec.msgpack.Encoder()
_order_decoder = msgspec.msgpack.Decoder(m.CreateOrder)


class Helper:
    """The process that makes a container, as its monitor has it. Raises OSError when it cannot be forked.

    Until there is an order it uses the time for ``rehearse``: pages that it has copied by then it need not copy later.
    """

    def __init__(self, rehearse: Callable[[], None]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._pid = os.fork()
            if self._pid == 0:
                self._channel.close()
                _help(theirs, rehearse)

    def order(self, order: m.CreateOrder, fds: Fds) -> None:
        """Have it begin; raises OSError when it has died."""
        memory = os.memfd_create("order")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(_order_encoder.encode(order))
            send_packet(self._channel, 0, m.Start(), [memory, *(fds or ())])
        finally:
            os.close(memory)

    def start(self) -> None:
        """Raises OSError when it has died."""
        send_packet(self._channel, 0, m.Start())

    def answer(self) -> tuple[m.Answer, list[int]]:
        """Its next message and descriptors; raises RuntimeFailure for Failed, or when it died."""
        received = receive_packet(self._channel, ANSWERS)
        if received is None:
            raise RuntimeFailure("create", detail="the process that makes the container has died")
        _, answer, descriptors = received
        if isinstance(answer, m.Failed):
            raise as_error(answer.failure)
        return answer, descriptors

    def dismiss(self) -> None:
        """Wait for its end; one that has not been told to start takes the first process along."""
        self._channel.close()
        with suppress(ChildProcessError):    # it died, and was reaped with others
            os.waitpid(self._pid, 0)


class BuiltinBackend:
    """See :class:`barque.supervise.backend.Backend`. ``helper``, if given, is the backend's from now on."""

    def __init__(self, rehearse: Callable[[], None], helper: Helper | None) -> None:
        self._rehearse = rehearse
        self._order: m.CreateOrder | None = None
        self._child: Process | None = None
        self._cgroup: cgroups.CgroupManager | None = None
        self._helper = helper

    def create(self, order: m.CreateOrder, fds: Fds) -> Process:
        self._give(order, fds)
        created, descriptors = self._ask()
        assert isinstance(created, m.Created)
        self._order = order
        self._cgroup = cgroups.load(created.cgroup)
        self._child = Child(created.pid, descriptors[0], descriptors[1] if len(descriptors) > 1 else None)
        return self._child

    def _give(self, order: m.CreateOrder, fds: Fds) -> None:
        if self._helper is not None:
            try:
                return self._helper.order(order, fds)
            except OSError:
                self._dismiss()    # it has died while it waited
        self._helper = Helper(self._rehearse)
        return self._helper.order(order, fds)

    def start(self) -> None:
        assert self._helper is not None
        try:
            self._helper.start()
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
        assert self._helper is not None
        try:
            return self._helper.answer()
        except RuntimeFailure:
            self._dismiss()
            raise

    def _dismiss(self) -> None:
        if self._helper is not None:
            helper, self._helper = self._helper, None
            helper.dismiss()


def _help(channel: socket.socket, rehearse: Callable[[], None]) -> NoReturn:
    """Be the helper."""
    try:
        try:
            if not _comes_soon(channel):
                rehearse()
            received = receive_packet(channel, REQUESTS)
            if received is not None:
                _make(received[2], channel)
        except REFUSALS as error:
            send_packet(channel, 0, m.Failed(as_failure("create", error)))
    except BaseException:    # the boundary of this process: nothing may run on in the monitor's code
        send_packet(channel, 0, m.Failed(m.Failure("create", detail=traceback.format_exc())))
    finally:
        os._exit(0)


def _comes_soon(channel: socket.socket) -> bool:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(REHEARSE_AFTER * 1000))


def _make(descriptors: list[int], channel: socket.socket) -> None:
    """Make the container that the order on the first descriptor wants; the others are its streams."""
    with open(descriptors[0], "rb") as file:
        file.seek(0)
        order = _order_decoder.decode(file.read())
    streams = (descriptors[1], descriptors[2], descriptors[3]) if len(descriptors) == 4 else None
    request = _request(order, read_spec(order.bundle), streams)
    created = create(request) if order.checkpoint is None else _restore(order.checkpoint, request)
    _offer(created, request, channel)


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
