"""Hooks of the OCI document (config.md#posix-platform-hooks): programs run at set points with the state on stdin."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NoReturn

from barque.oci.runtime_spec import Hook
from barque.runtime.failure import RuntimeFailure
from barque.sys import fds, process

_EXEC_FAILED = 127
_MAX_OUTPUT = 4096


def run(stage: str, hooks: Sequence[Hook], state: bytes) -> None:
    """Run ``hooks`` in order; the first one that fails or takes too long raises RuntimeFailure and ends it."""
    for index, hook in enumerate(hooks):
        _run(f"hook {stage}", index, hook, state)


def _run(stage: str, index: int, hook: Hook, state: bytes) -> None:
    stdin, feed = os.pipe2(os.O_CLOEXEC)
    output, stderr = os.pipe2(os.O_CLOEXEC)
    child = process.clone(0)
    if child is None:
        _become(hook, stdin, stderr)
    os.close(stdin)
    os.close(stderr)
    try:
        try:
            os.write(feed, state)
        except BrokenPipeError:
            # A hook need not read its state.
            pass
        os.close(feed)
        deadline = None if hook.timeout is None else time.monotonic() + hook.timeout
        if not process.ended(child.pidfd, -1 if deadline is None else max(0.0, deadline - time.monotonic())):
            process.pidfd_signal(child.pidfd, 9)
            process.wait(child.pidfd)
            raise RuntimeFailure(stage, path=hook.path, detail=f"error running {stage} #{index}: hook ran past "
                                                               f"specified timeout of {hook.timeout}s")
        code = process.wait(child.pidfd)
        if code:
            os.set_blocking(output, False)
            raise RuntimeFailure(stage, path=hook.path, detail=f"error running {stage} #{index}: exit status {code}, "
                                                               f"stderr: {_read(output)}")
    finally:
        os.close(output)
        os.close(child.pidfd)


def _read(fd: int) -> str:
    try:
        return os.read(fd, _MAX_OUTPUT).decode(errors="replace").strip()
    except BlockingIOError:
        return ""


def _become(hook: Hook, stdin: int, stderr: int) -> NoReturn:
    try:
        fds.place((stdin, stderr, stderr))
        process.cloexec_from(3)
        process.reset_signals()
        process.Program(hook.args or [hook.path], hook.env).execve(hook.path)
    except OSError as error:
        os.write(2, f"{hook.path}: {os.strerror(error.errno or 0)}".encode())
    finally:
        os._exit(_EXEC_FAILED)
