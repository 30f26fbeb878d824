"""Where ``barque-runtime`` keeps its containers: ``ROOT/ID/state.json``, beside the socket that the start comes over.

The socket is what tells ``created`` from ``running``; a pid counts only with the start time that goes with it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from barque.errors import Conflict, InvalidArgument, NotFound
from barque.oci.runtime_spec import Spec
from barque.runtime import cgroups
from barque.runtime.cgroups import CgroupManager
from barque.sys import process, sockets
from barque.sys.sockets import Socket

_STATE = "state.json"
_SOCKET = "start.sock"
_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")
_MAX_ID = 1024


class InvalidId(InvalidArgument):
    text = "invalid container ID format: {id}"


class ContainerExists(Conflict):
    text = "container with given ID already exists"


class NoSuchContainer(NotFound):
    text = "container does not exist"


class State(msgspec.Struct, rename="camel"):
    """``created`` is an RFC 3339 time, ``start_time`` in clock ticks since boot."""

    id: str
    bundle: str
    rootfs: str
    pid: int
    start_time: int
    created: str
    owner: str
    cgroup_paths: dict[str, str]
    spec: Spec
    #: The mount of the root in a mount namespace that is not the container's own, to be taken away at the end.
    root_mount: int | None = None


class Container:
    """One container of the state directory ``root``."""

    def __init__(self, root: str, state: State) -> None:
        self.root = root
        self.state = state

    @property
    def cgroup(self) -> CgroupManager:
        return cgroups.load(self.state.cgroup_paths)

    def status(self) -> str:
        """OCI's word: creating does not last; created, running or stopped; and runc's paused."""
        if not self.alive():
            return "stopped"
        if self.cgroup.frozen():
            return "paused"
        return "created" if os.path.lexists(os.path.join(self.root, self.state.id, _SOCKET)) else "running"

    def shares_pids(self) -> bool:
        """Whether others are in its PID namespace, which therefore does not end with the first process."""
        linux = self.state.spec.linux
        return linux is None or not any(item.type == "pid" and not item.path for item in linux.namespaces)

    def alive(self) -> bool:
        """Whether the first process is the one that was made, and has not ended (a zombie has)."""
        try:
            with self.pidfd() as pidfd:
                return not process.ended(pidfd)
        except ProcessLookupError:
            return False

    @contextmanager
    def pidfd(self) -> Iterator[int]:
        """A pidfd of the first process; raises ProcessLookupError when that is gone, whoever has its number."""
        fd = process.pidfd_open(self.state.pid)
        try:
            try:
                same = process.start_time(self.state.pid) == self.state.start_time
            except FileNotFoundError:
                same = False
            if not same:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            yield fd
        finally:
            os.close(fd)


def check_id(container_id: str) -> None:
    if container_id in ("", ".", "..") or len(container_id) > _MAX_ID or not _ID_CHARACTERS.issuperset(container_id):
        raise InvalidId(id=container_id)


def reserve(root: str, container_id: str) -> None:
    """Take the id by making its directory; raises :class:`ContainerExists`."""
    check_id(container_id)
    os.makedirs(root, mode=0o711, exist_ok=True)
    try:
        os.mkdir(os.path.join(root, container_id), 0o700)
    except FileExistsError:
        raise ContainerExists from None


def save(root: str, state: State) -> None:
    """Write the state in one go: readers see all of it or none."""
    path = os.path.join(root, state.id, _STATE)
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(state))
    finally:
        os.close(fd)
    os.rename(path + ".new", path)


def load(root: str, container_id: str) -> Container:
    """Raises :class:`NoSuchContainer`."""
    check_id(container_id)
    try:
        with open(os.path.join(root, container_id, _STATE), "rb") as file:
            return Container(root, msgspec.json.decode(file.read(), type=State))
    except FileNotFoundError:
        raise NoSuchContainer from None


def load_all(root: str) -> list[Container]:
    """By id; directories that are only just being made or removed are passed over."""
    found = []
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else ():
        try:
            found.append(load(root, name))
        except (NoSuchContainer, InvalidId):
            continue
    return found


def remove(root: str, container_id: str) -> None:
    directory = os.path.join(root, container_id)
    for name in (_SOCKET, _STATE + ".new", _STATE):
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            pass
    os.rmdir(directory)


@contextmanager
def place_for_root(root: str, container_id: str) -> Iterator[str]:
    """An empty directory beside the state, for as long as the block takes."""
    path = os.path.join(os.path.abspath(root), container_id, "root")
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        os.rmdir(path)


@contextmanager
def _short_path(root: str, container_id: str) -> Iterator[str]:
    """The socket's path through a descriptor: socket addresses hold 107 bytes, roots may be longer."""
    fd = os.open(os.path.join(root, container_id), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{_SOCKET}"
    finally:
        os.close(fd)


def listen_for_start(root: str, container_id: str) -> Socket:
    """The gate that the first process waits at (see :class:`barque.runtime.sync.ChildEnd`)."""
    gate = Socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    with _short_path(root, container_id) as path:
        gate.bind(path)
    gate.listen(1)
    return gate


def connect_to_start(root: str, container_id: str) -> Socket:
    """Connect to the gate and take its name away, so that only one can start the container.

    Raises FileNotFoundError or ConnectionRefusedError when another was faster or the process is gone.
    """
    sock = Socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    try:
        with _short_path(root, container_id) as path:
            sock.connect(path)
            os.unlink(path)
    except OSError:
        sock.close()
        raise
    return sock
