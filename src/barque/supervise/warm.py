"""What the zygote does before it forks anybody, so that its children need not.

A child starts with a copy of all that was worked out here: the host's cgroups, its capabilities, the compiled filter of
containers that ask for no other. And CPython 3.11 writes into the code of functions as it gets to know them (counters
first, then specialised instructions, PEP 659): a page that is written in a child is a page copied for it alone. So what
a monitor and a start do is rehearsed until that has settled.
"""

from __future__ import annotations

import os
import socket

import msgspec

from barque.oci.runtime_spec import OCI_VERSION, Capabilities, Linux, Mount, Namespace, Process, Root, Spec
from barque.runtime import capabilities, cgroups, plan, seccomp_profile, security, validate
from barque.runtime.default_spec import default_mounts
from barque.runtime.payload import Payload
from barque.supervise import backend
from barque.supervise import messages as m
from barque.supervise.backend import Child, Fds
from barque.supervise.builtin import decode_spec
from barque.supervise.loop import IN, Loop
from barque.supervise.monitor import Monitor
from barque.supervise.rest import Luggage
from barque.supervise.wire import ANSWERS, Decoder, encode
from barque.sys import caps, process

#: More than this many change nothing that can be measured.
REHEARSALS = 5


def default_container() -> Spec:
    """A document like the engine's for a container without options."""
    names = [name for name in capabilities.DEFAULT if caps.bounding() >> caps.NUMBERS[name] & 1]
    return Spec(
        oci_version=OCI_VERSION, root=Root("rootfs"), hostname="x",
        process=Process(args=["true"], env=["PATH=/bin"], cwd="/",
                        capabilities=Capabilities(bounding=names, effective=names, permitted=names)),
        mounts=[*default_mounts(), Mount("/etc/hosts", "bind", "/etc/hosts", ["rbind", "rprivate"])],
        linux=Linux(namespaces=[Namespace(kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
                    masked_paths=security.masked_paths(2), readonly_paths=list(security.READONLY_PATHS),
                    devices=security.default_devices(), sysctl=dict(security.DEFAULT_SYSCTLS),
                    seccomp=seccomp_profile.default_profile(frozenset(capabilities.DEFAULT))))


def up(exec_root: str) -> None:
    """Raises OSError where the host has no cgroups or the run directory cannot be written to."""
    document = msgspec.json.encode(default_container())
    for _ in range(REHEARSALS):
        _rehearse_start(document)
        _Play(f"{exec_root}/rehearsal").run()


class _Play:
    """A monitor's whole life with a process that says one word; the requests come from the same loop."""

    def __init__(self, exec_root: str) -> None:
        self._root = exec_root
        self._loop = Loop()
        self._client, theirs = socket.socketpair()
        self._keeper = socket.socketpair()
        self._monitor = Monitor(self._loop, exec_root, lambda _: _Stand(), self._keeper[0])
        self._monitor.serve(theirs)
        self._answers = Decoder(ANSWERS)
        order = m.CreateOrder(id="x", bundle=f"{exec_root}/containers/x/bundle", rootfs=(),
                              log=m.LogConfig(f"{exec_root}/log"))
        requests: list[m.Request] = [m.Hello(m.PROTOCOL, "x"), m.Create(order), m.Start(), m.Wait(), m.Release()]
        self._requests = iter(requests)

    def run(self) -> None:
        os.makedirs(self._root, 0o700, exist_ok=True)
        self._loop.watch(self._client.fileno(), IN, lambda _: self._next())
        self._send()
        self._loop.run()
        self._client.close()
        self._monitor.close()
        for end in self._keeper:
            end.close()
        os.unlink(f"{self._root}/log")
        for name in ("/containers", "/m", ""):
            os.rmdir(self._root + name)

    def _next(self) -> None:
        self._answers.feed(self._client.recv(1 << 16))
        if self._answers.next() is not None:
            self._send()

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._client.sendall(encode(1, request))


class _Stand:
    """A backend whose container is a fork of this process (:class:`barque.supervise.backend.Backend`)."""

    def __init__(self) -> None:
        self._gate = -1

    def create(self, order: m.CreateOrder, fds: Fds) -> Child:
        reading, self._gate = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(self._gate)
            os.read(reading, 1)
            os.write((fds or (0, 1, 2))[1], b"x\n")
            os._exit(0)
        os.close(reading)
        return Child(pid, process.pidfd_open(pid))

    def start(self) -> None:
        os.close(self._gate)

    def exec(self, order: m.ExecOrder, fds: Fds) -> Child:
        raise NotImplementedError

    def kill_all(self) -> None:
        """It has ended."""

    def oom_fd(self) -> int | None:
        return None

    def oom_kills(self) -> int:
        return 0

    def cgroup(self) -> dict[str, str]:
        return {}

    def pack(self, luggage: Luggage) -> list[int]:
        return []

    def unpack(self, order: m.CreateOrder, child: backend.Process, cgroup: dict[str, str], fds: list[int]) -> None:
        raise NotImplementedError

    def cleanup(self) -> None:
        """There is nothing."""


def _rehearse_start(document: bytes) -> None:
    spec = decode_spec(document)
    validate.check(spec)
    assert spec.process is not None and spec.linux is not None
    Payload(spec.process, spec.annotations, spec.linux, keyring="x")
    layout = cgroups.known_layout()
    cgroup = cgroups.manager("/x", layout=layout)
    steps, leaving = plan.build(spec, "/", (), cgroup, layout, make_cwd=True)
    for step in (*steps, *leaving):
        step.describe()
