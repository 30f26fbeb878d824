"""Hooks of the OCI document (config.md#posix-platform-hooks): programs run at set points with the state on stdin."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from io import FileIO
from typing import NoReturn

import msgspec

from barque.oci.runtime_spec import Hook
from barque.runtime.failure import RuntimeFailure
from barque.sys import fds, process

_EXEC_FAILED = 127
_MAX_OUTPUT = 4096


def run(stage: str, hooks: Sequence[Hook], state: bytes, env: Sequence[str] | None = None) -> None:
    """Run ``hooks`` in order; the first one that fails or takes too long raises RuntimeFailure and ends it.

    Those without an environment of their own get ``env``, or without it the caller's, as from runc.
    """
    usual = [f"{name}={value}" for name, value in os.environ.items()] if env is None else list(env)
    for index, hook in enumerate(hooks):
        _run(f"hook {stage}", index, msgspec.structs.replace(hook, env=hook.env or usual), state)


def _run(stage: str, index: int, hook: Hook, state: bytes) -> None:
    stdin, feed = os.pipe2(os.O_CLOEXEC)
    output, stderr = os.pipe2(os.O_CLOEXEC)
    child = process.clone(0)
    if child is None:
        _become(hook, stdin, stderr)
    os.close(stdin)
    os.close(stderr)
    with open(feed, "wb", buffering=0) as pipe, open(output, "rb", buffering=0) as words:
        try:
            said = _attend(child.pidfd, hook.timeout, state, pipe, words)
            if said is None:
                process.pidfd_signal(child.pidfd, 9)
            code = process.wait(child.pidfd)
        finally:
            os.close(child.pidfd)
    if said is None:
        raise RuntimeFailure(stage, path=hook.path, detail=f"error running {stage} #{index}: hook ran past "
                                                           f"specified timeout of {hook.timeout}s")
    if code:
        raise RuntimeFailure(stage, path=hook.path, detail=f"error running {stage} #{index}: exit status {code}, "
                                                           f"stderr: {said.decode(errors='replace').strip()}")


def _attend(pidfd: int, timeout: int | None, state: bytes, pipe: FileIO, words: FileIO) -> bytes | None:
    """Feed the hook and take what it says, which may both be more than a pipe holds; returns the end of its words once
    it has ended, ``None`` when it has not in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    feed, output = pipe.fileno(), words.fileno()
    for fd, event in ((feed, select.POLLOUT), (output, select.POLLIN)):
        os.set_blocking(fd, False)
        poller.register(fd, event)
    said = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = [fd for fd, _ in poller.poll(left)]
        if not ready:
            return None
        if feed in ready:
            state = state[_write(pipe, state):]
            if not state:
                poller.unregister(feed)
                pipe.close()
        piece = words.read(_MAX_OUTPUT) or b""
        said = (said + piece)[-_MAX_OUTPUT:]
        if not piece and pidfd in ready:
            return said
        if not piece and output in ready:
            poller.unregister(output)


def _write(pipe: FileIO, data: bytes) -> int:
    """How much is settled: all of it where nobody reads, as a hook need not."""
    try:
        return pipe.write(data) or 0
    except BrokenPipeError:
        return len(data)


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
