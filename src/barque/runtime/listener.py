"""Handing the listener of a notifying seccomp filter to whoever stands at ``listenerPath``.

The specification's seccomp agent: one connection, one message of JSON (config-linux.md#containerprocessstate) with the
descriptor attached.
"""

from __future__ import annotations

import os
import signal

import msgspec

from barque.oci.runtime_spec import OCI_VERSION, Seccomp
from barque.runtime.failure import RuntimeFailure
from barque.sys import process, sockets


def hand_over(profile: Seccomp, pidfd: int, pid: int, state: bytes, number: int) -> None:
    """Take descriptor ``number`` of the process behind ``pidfd`` (``pid``) and send it on with ``state``.

    The process waits meanwhile, in a system call that may itself be waiting for the listener: if this fails it is
    killed. Raises RuntimeFailure.
    """
    try:
        fd = process.pidfd_getfd(pidfd, number)
        try:
            message = msgspec.json.encode({"ociVersion": OCI_VERSION, "fds": ["seccompFd"], "pid": pid,
                                           "metadata": profile.listener_metadata, "state": msgspec.Raw(state)})
            with sockets.Socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as sock:
                sock.connect(profile.listener_path)
                sockets.send(sock, message, [fd])
        finally:
            os.close(fd)
    except OSError as error:
        process.pidfd_signal(pidfd, signal.SIGKILL)
        raise RuntimeFailure("seccomp listener", errno=error.errno or 0, path=profile.listener_path,
                             detail=f"cannot hand over the seccomp listener to {profile.listener_path}: "
                                    f"{os.strerror(error.errno or 0).lower()}") from None
