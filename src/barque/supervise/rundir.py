"""What the monitor and the daemon share on disk: ``containers/<id>/`` and ``m/<id12>.sock`` under the exec root."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from barque.supervise.messages import ExitRecord, MonitorRecord

T = TypeVar("T")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MAX_RECORD = 1 << 20


def by_short_name(path: str, call: Callable[[str], None]) -> None:
    """Call with a short name of ``path``: a socket's address has room for 107 bytes, an exec root's for more."""
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


class RunDir:
    """The run directory of the container ``container_id``; raises ValueError if that is no file name."""

    def __init__(self, exec_root: str, container_id: str) -> None:
        if not _ID.fullmatch(container_id):
            raise ValueError(f"not a container id: {container_id!r}")
        self.path = f"{exec_root}/containers/{container_id}"
        self.container_id = container_id
        #: Where a foreign runtime keeps its state.
        self.runtime_state = self.path + "/oci"
        #: Where a shipper takes the container's output, if there is one.
        self.log_socket = self.path + "/log.sock"
        #: Where that shipper is found by a daemon that did not start it.
        self.shipper_socket = self.path + "/shipper.sock"
        self._socket_dir = f"{exec_root}/m"
        self._socket_name = container_id[:12] + ".sock"

    def make(self) -> None:
        os.makedirs(self.path, 0o700, exist_ok=True)
        os.makedirs(self._socket_dir, 0o700, exist_ok=True)

    @property
    def exists(self) -> bool:
        return os.path.isdir(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with what a dead monitor has left; where there is no directory there is nothing to be alone with."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def listen(self) -> socket.socket:
        """Listen on the monitor's socket; the caller closes it."""
        return _listen(f"{self._socket_dir}/{self._socket_name}")

    @contextmanager
    def listen_for_log(self) -> Iterator[tuple[int, int]]:
        """Descriptors that listen on a shipper's two sockets, for the length of the block."""
        with _listen(self.log_socket) as log, _listen(self.shipper_socket) as shipper:
            yield log.fileno(), shipper.fileno()

    def connect(self) -> socket.socket:
        """A non-blocking connection; raises FileNotFoundError or ConnectionRefusedError where no monitor listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            by_short_name(f"{self._socket_dir}/{self._socket_name}", sock.connect)
        except OSError:
            sock.close()
            raise
        return sock

    def remove_socket(self) -> None:
        _unlink_if_there(f"{self._socket_dir}/{self._socket_name}")

    def write_monitor(self, record: MonitorRecord) -> None:
        self._write("monitor.json", record)

    def read_monitor(self) -> MonitorRecord | None:
        return self._read("monitor.json", MonitorRecord)

    def write_exit(self, record: ExitRecord) -> None:
        """Whole, and there for whoever looks once this returns, even if every process of ours is killed then."""
        self._write("exit.json", record)

    def read_exit(self) -> ExitRecord | None:
        return self._read("exit.json", ExitRecord)

    def note(self, text: str) -> None:
        """Add to ``monitor.log``: a monitor has no standard error, it would keep the daemon's open for its life."""
        fd = os.open(f"{self.path}/monitor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text.encode(errors="replace"))
        finally:
            os.close(fd)

    def read_notes(self) -> str:
        """What monitors had to say, empty if nothing."""
        try:
            with open(f"{self.path}/monitor.log", encoding="utf-8") as file:
                return file.read(_MAX_RECORD)
        except FileNotFoundError:
            return ""

    def remove(self) -> None:
        """Remove the socket, the files, the bundle. A root directory in it is only removed while it is empty."""
        self.remove_socket()
        for directory in (f"{self.runtime_state}/{self.container_id}", self.runtime_state, self.path + "/bundle",
                          self.path):
            _remove_directory(directory)

    def _write(self, name: str, record: msgspec.Struct) -> None:
        """Without fsync: of a machine that goes down no container is left for the records to speak of."""
        temporary = f"{self.path}/{name}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(record))
        finally:
            os.close(fd)
        os.rename(temporary, f"{self.path}/{name}")

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            fd = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(os.read(fd, _MAX_RECORD), type=kind)
        except msgspec.DecodeError:
            # Renamed into place only when whole: a file that does not parse was damaged, and says nothing.
            return None
        finally:
            os.close(fd)


def _listen(path: str) -> socket.socket:
    """A non-blocking socket, mode 0600, in place of one that a dead process left."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        _unlink_if_there(path)
        by_short_name(path, sock.bind)
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _unlink_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _remove_directory(path: str) -> None:
    """Remove a directory of plain files and empty directories; what is not empty (a mount, a root) stays."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        os.rmdir(entry.path)
                    else:
                        os.unlink(entry.path)
                except OSError:
                    continue
        os.rmdir(path)
    except OSError:
        return
