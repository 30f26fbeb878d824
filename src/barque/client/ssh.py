"""Reach an engine through ``ssh HOST barque system dial-stdio``; a host with docker alone answers to docker's name."""

from __future__ import annotations

import shlex
import socket
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.client.http import Socket
    from barque.client.transport import Endpoint


class ProcessSocket:
    """Meets http.Socket over a socket pair whose other end is the standard input and output of ``process``."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._sock = sock
        self._process = process

    def sendall(self, data: bytes, /) -> None:
        self._sock.sendall(data)

    def send(self, data: bytes, flags: int, /) -> int:
        return self._sock.send(data, flags)

    def recv(self, size: int, /) -> bytes:
        return self._sock.recv(size)

    def shutdown(self, how: int, /) -> None:
        self._sock.shutdown(how)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        self._process.terminate()
        self._process.wait()


def command(endpoint: Endpoint) -> list[str]:
    """The ssh command line; the far shell picks whichever of the two programs it has."""
    words = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if endpoint.user:
        words += ["-l", endpoint.user]
    if endpoint.port:
        words += ["-p", str(endpoint.port)]
    host = f"--host {shlex.quote('unix://' + endpoint.path)} " if endpoint.path else ""
    far = (f"if command -v barque >/dev/null 2>&1; then exec barque {host}system dial-stdio; "
           f"else exec docker {host}system dial-stdio; fi")
    return [*words, "--", endpoint.address, "sh -c " + shlex.quote(far)]


def dial(endpoint: Endpoint) -> Socket:
    """Start ssh; its failure shows as the end of the stream, its own message on stderr. Raises OSError without ssh."""
    mine, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(command(endpoint), stdin=theirs.fileno(), stdout=theirs.fileno(),
                                   start_new_session=True)
    except OSError:
        mine.close()
        raise
    finally:
        theirs.close()
    return ProcessSocket(mine, process)
