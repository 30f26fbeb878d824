"""Learning a seccomp profile from what a container does: ``--security-opt seccomp=learn:FILE``.

The container runs under its profile with each "allow" turned into "notify": what the profile denies stays denied, what
it allows is first told to a process of ours, which notes the name and lets it through. When the last process of the
container has ended, the profile is written with only the names that were seen. A file that is there already is added
to, so several runs, or the same container restarted, learn together.

    python -m barque.runtime.learn SOCKET FILE < PROFILE

listens at SOCKET for the listeners that the runtime hands over (the first process's and those of exec), which it says
on standard output, and takes the profile as JSON. It ends by itself.
"""

from __future__ import annotations

import os
import select
import socket
import sys

import msgspec

from barque.oci import go_json
from barque.oci.runtime_spec import Seccomp, SeccompSyscall
from barque.runtime.seccomp_compile import ARCHES, InvalidProfile, tables
from barque.sys import prctl, seccomp_notify, sockets

#: Not to be asked about: the runtime tells of the listener by it.
_TELLS = "write"
#: What leads to the program, and what any program may come to at any time, seen or not.
ALWAYS = frozenset(("write", "read", "execve", "exit", "exit_group", "rt_sigreturn", "sigreturn", "restart_syscall",
                    "capset"))
_ALLOW, _NOTIFY = "SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY"
_MAX_MESSAGE = 1 << 16
#: How long the first listener may take to come (seconds): the container is about to start.
_PATIENCE = 300


def asking(profile: Seccomp, listener_path: str) -> Seccomp:
    """``profile`` with notification in the place of permission; InvalidProfile for one that allows by default."""
    if profile.default_action in (_ALLOW, "SCMP_ACT_LOG"):
        raise InvalidProfile("seccomp=learn needs a profile that denies by default to begin with")
    asked = []
    for entry in profile.syscalls:
        if entry.action != _ALLOW:
            asked.append(entry)
            continue
        names = [name for name in entry.names if name != _TELLS]
        if names:
            asked.append(msgspec.structs.replace(entry, names=names, action=_NOTIFY))
        if _TELLS in entry.names:
            asked.append(msgspec.structs.replace(entry, names=[_TELLS]))
    return msgspec.structs.replace(profile, syscalls=asked, listener_path=listener_path)


def learned(profile: Seccomp, seen: frozenset[str]) -> Seccomp:
    """``profile`` with only the permissions for ``seen`` and :data:`ALWAYS`, and with all that it denies."""
    kept = []
    for entry in profile.syscalls:
        names = entry.names if entry.action != _ALLOW else [name for name in entry.names if name in seen | ALWAYS]
        if names:
            kept.append(msgspec.structs.replace(entry, names=names))
    return msgspec.structs.replace(profile, syscalls=_merged(kept))


def _merged(entries: list[SeccompSyscall]) -> list[SeccompSyscall]:
    """One sorted entry for all that is allowed without conditions."""
    plain = sorted({name for entry in entries if entry.action == _ALLOW and not entry.args for name in entry.names})
    return [SeccompSyscall(names=plain, action=_ALLOW)] + [
        entry for entry in entries if entry.action != _ALLOW or entry.args]


def names_in(document: bytes) -> frozenset[str]:
    """What an earlier run has written; raises InvalidJSON for a file that is none of ours."""
    profile = go_json.decode(document, Seccomp)
    return frozenset(name for entry in profile.syscalls if entry.action == _ALLOW for name in entry.names)


class Learner:
    """Serves the listeners that come in over ``server`` until all of them have ended."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._listeners: set[int] = set()
        self._seen: set[tuple[int, int]] = set()
        self._poll = select.poll()

    def run(self) -> frozenset[str]:
        """The names of the calls that were made."""
        self._poll.register(self._server, select.POLLIN)
        first = True
        while first or self._listeners:
            events = self._poll.poll(_PATIENCE * 1000 if first else None)
            if not events:
                break
            for fd, event in events:
                if fd == self._server.fileno():
                    self._accept()
                    first = False
                elif event & select.POLLIN:
                    self._answer(fd)
                else:
                    self._end(fd)
        return self._names()

    def _accept(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            _, passed = sockets.receive(connection, _MAX_MESSAGE)
        for fd in passed:
            self._listeners.add(fd)
            self._poll.register(fd, select.POLLIN)

    def _answer(self, fd: int) -> None:
        call = seccomp_notify.receive(fd)
        if call is not None:
            self._seen.add((call.arch, call.number))
            seccomp_notify.let_through(fd, call)

    def _end(self, fd: int) -> None:
        """Hung up: nobody is left who runs under this filter."""
        self._poll.unregister(fd)
        self._listeners.discard(fd)
        os.close(fd)

    def _names(self) -> frozenset[str]:
        known = {(arch.audit, number): name for arch in ARCHES.values() for name, number in tables()[arch.table].items()
                 if arch.table != "x32"}
        return frozenset(known[call] for call in self._seen if call in known)


def write(path: str, profile: Seccomp, seen: frozenset[str]) -> None:
    """Write what was learned to ``path``, adding to what is there, whole or not at all."""
    try:
        with open(path, "rb") as file:
            seen |= names_in(file.read())
    except FileNotFoundError:
        pass
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(msgspec.json.format(go_json.encode(learned(profile, seen)), indent=2) + b"\n")
    os.rename(temporary, path)


def main(argv: list[str]) -> int:
    prctl.set_dumpable(False)
    path, target = argv
    profile = go_json.decode(sys.stdin.buffer.read(), Seccomp)
    if not os.access(os.path.dirname(target), os.W_OK):
        print(f"{os.path.dirname(target)} is not a directory that can be written to", file=sys.stderr)
        return 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen(16)
        print("listening", flush=True)
        try:
            write(target, profile, Learner(server).run())
        finally:
            os.unlink(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
