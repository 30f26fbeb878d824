"""Another OCI runtime (runc, crun, runsc) behind a monitor, through the command line that they share.

The monitor is a subreaper, so the processes that ``create`` and ``exec --detach`` leave behind become its children. The
root file system is mounted in a mount namespace of the monitor's own: it goes away with the monitor, whatever happens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from barque.oci import runtime_spec
from barque.runtime import cgroups, rootfs, targets, users
from barque.runtime.failure import RuntimeFailure
from barque.runtime.payload import CWD_ANNOTATION, GROUPS_ANNOTATION, USER_ANNOTATION
from barque.supervise.backend import Child, Fds, Process
from barque.supervise.builtin import decode_spec
from barque.supervise.messages import CreateOrder, ExecOrder
from barque.supervise.rest import Luggage
from barque.sys import mounts, namespaces, process, sockets

#: What runtimes say, and the errno that it stands for; docker derives its exit codes 126 and 127 from these.
_REASONS = (("executable file not found", 2), ("no such file or directory", 2), ("permission denied", 13),
            ("is a directory", 21), ("exec format error", 8))
#: What is of later versions is optional in a document, but crun 1.8 refuses their number.
_OCI_VERSION = "1.0.2"
_MAX_TEXT = 1 << 20
#: How long a runtime may keep us waiting for the terminal after it has returned (seconds).
_CONSOLE_TIMEOUT = 5.0


class ForeignBackend:
    """See :class:`barque.supervise.backend.Backend`."""

    def __init__(self, order: CreateOrder) -> None:
        self._id = order.id
        self._command = [order.runtime.path, *order.runtime.args]
        # Next to the bundle, in the container's run directory: gone with it.
        self._bundle = os.path.abspath(order.bundle)
        self._directory = os.path.dirname(self._bundle)
        self._cgroup: cgroups.CgroupManager | None = None
        self._root = ""
        #: The host's mount namespace, once we have one of our own, and ours.
        self._home = self._away = -1
        self._created = False
        self._execs = 0
        self._groups: tuple[str, ...] = ()

    def create(self, order: CreateOrder, fds: Fds) -> Process:
        text = read(f"{self._bundle}/config.json")
        spec = decode_spec(text.encode())
        self._root = self._root_of(spec)
        if order.rootfs:
            self._home = _own_namespace()
            namespaces.unshare(namespaces.CLONE_NEWNS)
            self._away = _own_namespace()
            mounts.set_propagation_of_all(mounts.PROPAGATION_SLAVE)
            for mount in order.rootfs:
                rootfs.mount_on(mount, self._root)
        self._settle(text, spec)
        self._cgroup = _cgroup_of(spec, order)
        self._created = True    # even of a create that fails there may be something to delete
        return self._launch(["create", "--bundle", self._bundle], [self._id], fds)

    def start(self) -> None:
        self._run(["start", self._id], None)

    def exec(self, order: ExecOrder, fds: Fds) -> Process:
        self._execs += 1
        path = f"{self._directory}/process-{self._execs}.json"
        document = _complete(msgspec.to_builtins(order.process))
        if order.process.user.username:
            document["user"] = self._look_up(order.process.user.username, self._groups)
        _write(path, document)
        try:
            return self._launch(["exec", "--detach", "--process", path], [self._id], fds)
        finally:
            os.unlink(path)

    def kill_all(self) -> None:
        if self._cgroup is not None:
            try:
                self._cgroup.kill(signal.SIGKILL)
            except FileNotFoundError:
                pass    # it was never made, or is gone with its last process

    def oom_fd(self) -> int | None:
        return self._cgroup.oom_fd() if self._cgroup is not None else None

    def oom_kills(self) -> int:
        return self._cgroup.oom_kills() if self._cgroup is not None else 0

    def cgroup(self) -> dict[str, str]:
        return self._cgroup.paths() if self._cgroup is not None else {}

    def pack(self, luggage: Luggage) -> list[int]:
        """Our mount namespace, which nobody is in while the container's keeper is alone with it."""
        return [luggage.silent(self._away)] if self._away >= 0 else []

    def unpack(self, order: CreateOrder, child: Process, cgroup: dict[str, str], fds: list[int]) -> None:
        for fd in fds:
            self._home, self._away = _own_namespace(), fd
            namespaces.setns(fd, namespaces.CLONE_NEWNS)
        spec = decode_spec(read(f"{self._bundle}/config.json").encode())
        self._root = self._root_of(spec)
        self._cgroup = _cgroup_of(spec, order)
        self._created = True

    def cleanup(self) -> None:
        if self._created:
            self._run(["delete", "--force", self._id], None)
        if self._cgroup is not None:
            self._cgroup.destroy()
        if self._home >= 0:
            # Nobody is left in the other one, and it takes its mounts along.
            namespaces.setns(self._home, namespaces.CLONE_NEWNS)
            os.close(self._home)
            os.close(self._away)
            self._home = self._away = -1

    def _root_of(self, spec: runtime_spec.Spec) -> str:
        return os.path.join(self._bundle, spec.root.path if spec.root else "rootfs")

    def _settle(self, text: str, spec: runtime_spec.Spec) -> None:
        """Complete the document, and do what our annotations ask for, of which other runtimes know nothing: find
        out who the user is, make the working directory.
        """
        if spec.process is None:
            return
        document = json.loads(text)
        document["ociVersion"] = _OCI_VERSION
        document["process"] = _complete(document["process"])
        user = spec.annotations.get(USER_ANNOTATION, "")
        self._groups = tuple(filter(None, spec.annotations.get(GROUPS_ANNOTATION, "").split(",")))
        if spec.annotations.get(CWD_ANNOTATION) == "true":
            root = self._open_root()
            try:
                os.close(targets.ensure_directory(root, spec.process.cwd))
            finally:
                os.close(root)
        if user or self._groups:
            document["process"]["user"] = self._look_up(user, self._groups)
        _write(f"{self._bundle}/config.json", document)

    def _look_up(self, user: str, groups: tuple[str, ...]) -> dict[str, Any]:
        root = self._open_root()
        try:
            found = users.resolve(root, user, groups)
        finally:
            os.close(root)
        return {"uid": found.uid, "gid": found.gid, "additionalGids": list(found.groups)}

    def _open_root(self) -> int:
        return os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _launch(self, verb: list[str], target: list[str], fds: Fds) -> Child:
        """Run a verb that leaves a process behind, whose number it writes to a file."""
        pid_file = f"{self._directory}/pid"
        options = ["--pid-file", pid_file]
        console: int | None = None
        if fds is None:
            # A socket's path has room for 107 bytes, so it is a relative one; runc works in the bundle itself.
            os.chdir(self._bundle)
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                    listener.bind("console.sock")
                    listener.listen(1)
                    listener.settimeout(_CONSOLE_TIMEOUT)
                    self._run([*verb, *options, "--console-socket", "console.sock", *target], None)
                    console = _receive_console(listener)
            finally:
                _unlink("console.sock")
                os.chdir("/")
        else:
            self._run([*verb, *options, *target], fds)
        try:
            pid = int(read(pid_file))
            return Child(pid, process.pidfd_open(pid), console)
        finally:
            os.unlink(pid_file)

    def _run(self, arguments: Sequence[str], fds: Fds) -> None:
        """Run one command to its end; raises RuntimeFailure with what it said in its log."""
        log = f"{self._directory}/runtime.log"
        argv = [*self._command, "--root", f"{self._directory}/oci", "--log", log, "--log-format", "json", *arguments]
        actions: list[tuple[object, ...]] = [(os.POSIX_SPAWN_OPEN, 3, os.devnull, os.O_RDWR, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds or (3, 3, 3))]
        actions += [(os.POSIX_SPAWN_CLOSE, 3)]
        try:
            pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setsigmask=[],
                                  setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
        except OSError as error:
            raise RuntimeFailure("runtime", syscall="execve", errno=error.errno or 0, path=argv[0]) from None
        _, status = os.waitpid(pid, 0)
        try:
            if status:
                raise _failure(arguments[0], read(log))
        finally:
            _unlink(log)


def _cgroup_of(spec: runtime_spec.Spec, order: CreateOrder) -> cgroups.CgroupManager | None:
    if spec.linux is None or not spec.linux.cgroups_path:
        return None
    return cgroups.manager(spec.linux.cgroups_path, driver=order.cgroup_driver)


def _own_namespace() -> int:
    return namespaces.open_namespace("/proc/self/ns/mnt", "mount")


def _complete(process: dict[str, Any]) -> dict[str, Any]:
    """What is at its default is left out of an encoded struct, but runtimes insist on the directory and the user."""
    return {"cwd": "/", **process, "user": {"uid": 0, "gid": 0, **process.get("user", {})}}


def _write(path: str, document: dict[str, Any]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(document))


def _failure(verb: str, log: str) -> RuntimeFailure:
    """The last error in a runtime's log, with the errno that its words stand for."""
    text = f"{verb} failed"
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") == "error":
            text = str(entry.get("msg", text))
    lowered = text.lower()
    errno = next((number for reason, number in _REASONS if reason in lowered), 0)
    return RuntimeFailure("exec" if "exec" in lowered and errno else verb, errno=errno, detail=text)


def _receive_console(listener: socket.socket) -> int:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        raise RuntimeFailure("console", detail="the runtime sent no terminal") from None
    with connection:
        _, descriptors = sockets.receive(connection, 4096)
    if not descriptors:
        raise RuntimeFailure("console", detail="the runtime sent no terminal")
    for extra in descriptors[1:]:
        os.close(extra)
    return descriptors[0]


def read(path: str) -> str:
    """The text of a file, empty where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        data = bytearray()
        while len(data) < _MAX_TEXT and (part := os.read(fd, 1 << 16)):
            data += part
        return data.decode(errors="replace")
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
