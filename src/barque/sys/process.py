"""Processes: clone3(2), pidfds, waiting, execveat(2), and what must be reset before an exec."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from barque.sys.libc import CLONE3, CLOSE_RANGE, PIDFD_GETFD, PIDFD_OPEN, check, libc, number, syscall

CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

_CLOSE_RANGE_CLOEXEC = 4
_MAX_FD = 0xFFFFFFFF
_P_PIDFD = 3
_NSIG = 64
_SIG_BLOCK_NOTHING = bytes(128)
_SIG_SETMASK = 2

#: The child returns from the call on a copy of this very stack, so the interpreter lock must stay held across it:
#: PyDLL does not release it.
_held = ctypes.PyDLL(None, use_errno=True)
_held.syscall.restype = ctypes.c_long


class _CloneArgs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
        "set_tid_size", "cgroup")]


class Clone(msgspec.Struct, frozen=True):
    """What the parent got: ``pid`` as its own PID namespace sees it, and an O_CLOEXEC ``pidfd`` that it owns."""

    pid: int
    pidfd: int


def clone(flags: int, cgroup_fd: int | None = None) -> Clone | None:
    """Fork with new namespaces (CLONE_NEW* in ``flags``); returns ``None`` in the child.

    Signal handlers are back at their defaults in the child (ignored signals stay ignored), so that the parent's
    handlers and wake-up descriptors see nothing of what hits the child. ``cgroup_fd`` is a v2 directory to be born in.
    With CLONE_PARENT the child is one of the caller's parent (and has the caller's own exit signal).
    Only for a single-threaded process: no atfork handler runs. Raises OSError (ENOMEM: the PID namespace that children
    go to has lost its first process).
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD | CLONE_CLEAR_SIGHAND | (CLONE_INTO_CGROUP if cgroup_fd is not None else 0)
    args = _CloneArgs(flags=flags, pidfd=ctypes.addressof(pidfd),
                      exit_signal=0 if flags & CLONE_PARENT else signal.SIGCHLD, cgroup=cgroup_fd or 0)
    size = ctypes.c_size_t(ctypes.sizeof(args))
    pid = check(_held.syscall(ctypes.c_long(CLONE3), ctypes.byref(args), size), "clone3")
    return Clone(pid, pidfd.value) if pid else None


def pidfd_open(pid: int) -> int:
    """A descriptor of the process ``pid`` (O_CLOEXEC); raises ProcessLookupError."""
    try:
        return syscall(PIDFD_OPEN, pid, 0, what="pidfd_open")
    except OSError as error:
        # A number that is held after its process was reaped, or is of a thread: EINVAL, since Linux 6.16 ENOENT.
        if error.errno in (errno.EINVAL, errno.ENOENT):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        raise


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy (O_CLOEXEC) of descriptor ``fd`` of that process; needs the right to trace it."""
    return syscall(PIDFD_GETFD, pidfd, fd, 0, what="pidfd_getfd")


def pidfd_signal(pidfd: int, signum: int) -> None:
    """Send ``signum``; raises ProcessLookupError when the process is gone."""
    signal.pidfd_send_signal(pidfd, signum)


def wait(pidfd: int, options: int = os.WEXITED) -> int | None:
    """Wait for the child behind ``pidfd``; returns its exit code, 128+n for signal n, ``None`` if it lives (WNOHANG).

    Without ``os.WNOWAIT`` the child is reaped. Raises ChildProcessError if it is not (or no longer) a child.
    """
    result = os.waitid(_P_PIDFD, pidfd, options)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def ended(pidfd: int, timeout: float = 0) -> bool:
    """Whether the process behind ``pidfd`` has ended, waiting at most ``timeout`` seconds. It need not be a child."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def cloexec_from(first: int) -> None:
    """Let no descriptor from ``first`` on survive an exec (close_range(2))."""
    syscall(CLOSE_RANGE, first, _MAX_FD, _CLOSE_RANGE_CLOEXEC, what="close_range")


def reset_signals() -> None:
    """Default disposition for every signal and an empty mask: ignored and blocked ones would be inherited by exec."""
    default = ctypes.c_void_p(None)
    for signum in range(1, _NSIG + 1):
        libc.signal(signum, default)
    libc.sigprocmask(_SIG_SETMASK, _SIG_BLOCK_NOTHING, None)


class Program:
    """Arguments of an exec, laid out beforehand so that nothing but the call is left to do.

    Strings are encoded as file names are; none may hold a NUL (validate refuses those).
    """

    def __init__(self, argv: Sequence[str], env: Sequence[str]) -> None:
        self._argv = _vector(argv)
        self._env = _vector(env)

    def execve(self, path: str) -> NoReturn:
        """Become ``path``; only ever returns by raising OSError."""
        check(libc.execve(os.fsencode(path), self._argv, self._env), "execve", path)
        raise AssertionError("unreachable")

    def execveat(self, fd: int) -> NoReturn:
        """Become the program file that ``fd`` (O_PATH will do) is open on."""
        syscall(number("execveat"), fd, b"", self._argv, self._env, AT_EMPTY_PATH, what="execveat")
        raise AssertionError("unreachable")


def _vector(items: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(items) + 1))(*map(os.fsencode, items), None)


def kill_and_reap(child: Clone) -> None:
    """SIGKILL the child and wait for its end; closes the pidfd. A child that is gone already is no error."""
    try:
        pidfd_signal(child.pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        wait(child.pidfd)
    except ChildProcessError:
        pass
    os.close(child.pidfd)


def start_time(pid: int) -> int:
    """When ``pid`` started, in clock ticks since boot: tells a process from a later one of the same number.

    Raises FileNotFoundError or ProcessLookupError.
    """
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    if not text:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    # The command name is the program's own choice and may hold spaces and parentheses: count from the last one.
    return int(text.rpartition(b")")[2].split()[19])
