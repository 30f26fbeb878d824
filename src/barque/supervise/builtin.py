"""The built-in runtime behind a monitor: a thin layer over ``barque.runtime``."""

from __future__ import annotations

import os
import signal

import msgspec

from barque.oci import runtime_spec
from barque.runtime import cgroups, hooks
from barque.runtime.create import Created, CreateRequest, Stdio, create, state_document
from barque.runtime.process import Target, exec_process
from barque.supervise.backend import Fds, Process
from barque.supervise.messages import CreateOrder, ExecOrder

MAX_CONFIG = 16 << 20
#: The engine wrote the document, so the lenient decoder, which inspects all types first (50 ms), is a second choice.
#: Made here, before the zygote forks.
_spec_decoder = msgspec.json.Decoder(runtime_spec.Spec)


class BuiltinBackend:
    """See :class:`barque.supervise.backend.Backend`."""

    def __init__(self) -> None:
        self._request: CreateRequest | None = None
        self._created: Created | None = None

    def create(self, order: CreateOrder, fds: Fds) -> Process:
        spec = decode_spec(_read(f"{order.bundle}/config.json"))
        path = spec.linux.cgroups_path if spec.linux is not None else ""
        request = CreateRequest(
            id=order.id, bundle=order.bundle, spec=spec, rootfs=order.rootfs, stdio=Stdio(fds),
            cgroup=cgroups.manager(path or f"/barque/{order.id}", driver=order.cgroup_driver))
        self._created = create(request)
        self._request = request    # only now: a failed create has removed all it made
        return self._created

    def start(self) -> None:
        assert self._created is not None
        self._created.start()

    def exec(self, order: ExecOrder, fds: Fds) -> Process:
        assert self._created is not None and self._request is not None
        target = Target(self._created.pid, self._created.pidfd, self._request.spec, self._request.cgroup)
        return exec_process(target, order.process, Stdio(fds))

    def kill_all(self) -> None:
        if self._request is not None:
            self._request.cgroup.kill(signal.SIGKILL)

    def oom_fd(self) -> int | None:
        return self._request.cgroup.oom_fd() if self._request is not None else None

    def oom_kills(self) -> int:
        return self._request.cgroup.oom_kills() if self._request is not None else 0

    def cgroup(self) -> dict[str, str]:
        return self._request.cgroup.paths() if self._request is not None else {}

    def cleanup(self) -> None:
        if self._request is None:
            return
        self._request.cgroup.destroy()
        poststop = self._request.spec.hooks.poststop if self._request.spec.hooks else []
        if poststop:
            hooks.run("poststop", poststop, state_document(self._request, "stopped", 0))


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
