"""The built-in runtime behind a monitor: a thin layer over ``barque.runtime``."""

from __future__ import annotations

import os
import signal

from barque.oci import runtime_spec
from barque.runtime import cgroups, hooks
from barque.runtime.create import Created, CreateRequest, Stdio, create
from barque.runtime.failure import RuntimeFailure
from barque.runtime.process import Target, exec_process
from barque.supervise.backend import Fds, Process
from barque.supervise.messages import CreateOrder, ExecOrder
from barque.sys import namespaces

MAX_CONFIG = 16 << 20


class BuiltinBackend:
    """See :class:`barque.supervise.backend.Backend`. Puts the calling process's children into a new PID namespace
    where the bundle asks for one, so it serves one container per process.
    """

    def __init__(self) -> None:
        self._spec: runtime_spec.Spec | None = None
        self._created: Created | None = None
        self._cgroup: cgroups.CgroupManager | None = None

    def create(self, order: CreateOrder, fds: Fds) -> Process:
        spec = self._spec = runtime_spec.decode(_read(f"{order.bundle}/config.json"))
        if spec.linux is None:
            raise RuntimeFailure("config", detail="the bundle is not one for Linux")
        self._cgroup = cgroups.manager(spec.linux.cgroups_path or f"barque/{order.id}", driver=order.cgroup_driver)
        fresh = any(space.type == "pid" and not space.path for space in spec.linux.namespaces)
        if fresh:
            namespaces.unshare(namespaces.CLONE_NEWPID)
        self._created = create(CreateRequest(
            id=order.id, bundle=order.bundle, spec=spec, rootfs=order.rootfs, stdio=Stdio(fds), cgroup=self._cgroup,
            pid_namespace_ready=fresh))
        return self._created

    def start(self) -> None:
        assert self._created is not None
        self._created.start()

    def exec(self, order: ExecOrder, fds: Fds) -> Process:
        assert self._created is not None and self._spec is not None and self._cgroup is not None
        return exec_process(Target(self._created.pid, self._created.pidfd, self._spec, self._cgroup), order.process,
                            Stdio(fds))

    def kill_all(self) -> None:
        if self._cgroup is not None:
            self._cgroup.kill(signal.SIGKILL)

    def oom_fd(self) -> int | None:
        return self._cgroup.oom_fd() if self._cgroup is not None else None

    def oom_kills(self) -> int:
        return self._cgroup.oom_kills() if self._cgroup is not None else 0

    def cgroup(self) -> dict[str, str]:
        return self._cgroup.paths() if self._cgroup is not None else {}

    def cleanup(self) -> None:
        if self._cgroup is not None:
            self._cgroup.destroy()


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = bytearray()
        while len(data) < MAX_CONFIG and (part := os.read(fd, 1 << 16)):
            data += part
        return bytes(data)
    finally:
        os.close(fd)
