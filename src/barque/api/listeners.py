"""The sockets that the API is served on: ``unix://``, ``tcp://`` and ``fd://`` (systemd's socket activation)."""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from barque.errors import InvalidArgument, Unavailable

log = logging.getLogger("barque.api")

#: systemd passes sockets from this descriptor on (sd_listen_fds(3)).
_FIRST_FD = 3
TLS_PORT, PLAIN_PORT = 2376, 2375


@dataclass(frozen=True)
class Listener:
    """A listening socket; ``path`` is the file of a unix socket that we made, and remove."""

    host: str
    sock: socket.socket
    tls: bool = False
    path: str = ""

    def close(self) -> None:
        self.sock.close()
        if self.path:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass


def open_all(hosts: tuple[str, ...], group: str, environment: Mapping[str, str], *, tls: bool, verify: bool,
             allow_insecure_tcp: bool) -> list[Listener]:
    """Listen on all of ``hosts``; raises InvalidArgument, Unavailable or OSError with nothing left open."""
    result: list[Listener] = []
    try:
        for host in hosts:
            scheme, separator, rest = host.partition("://")
            if not separator:
                scheme, rest = ("unix", host) if host.startswith("/") else ("tcp", host)
            if scheme == "unix":
                result.append(_unix(host, rest, group))
            elif scheme == "tcp":
                if not verify:
                    _check_insecure(host, allow_insecure_tcp)
                result.append(_tcp(host, rest, tls=tls))
            elif scheme == "fd":
                result += _inherited(host, environment)
            else:
                raise InvalidArgument(f"Invalid bind address format: {host}")
    except BaseException:
        for listener in result:
            listener.close()
        raise
    return result


def _check_insecure(host: str, allowed: bool) -> None:
    if not allowed:
        raise InvalidArgument(f"{host}: the API gives root to whoever reaches it: TCP needs --tlsverify with "
                              "--tlscacert, --tlscert and --tlskey, or --allow-insecure-tcp")
    log.warning("[DEPRECATION NOTICE]: %s: API is accessible without client certificates. Access to the remote API is "
                "equivalent to root access on the host.", host)


def _unix(host: str, path: str, group: str) -> Listener:
    if not path.startswith("/"):
        raise InvalidArgument(f"Invalid bind address format: {host}")
    _remove_stale(path)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
        try:
            os.chown(path, 0, grp.getgrnam(group).gr_gid, follow_symlinks=False)
        except KeyError:
            log.debug("group %s does not exist: the socket belongs to root", group)
        os.chmod(path, 0o660)
        sock.listen(1024)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return Listener(host, sock, path=path)


def _remove_stale(path: str) -> None:
    """A socket that nobody listens on was left by a daemon that died; anything else stays, and is an error."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Unavailable(f"can't create unix socket {path}: a file that is no socket is in the way")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except FileNotFoundError:
        return
    else:
        raise Unavailable(f"can't create unix socket {path}: another process is listening on it")
    finally:
        probe.close()


def _tcp(host: str, rest: str, *, tls: bool) -> Listener:
    address, colon, port = rest.rpartition(":")
    if not colon:
        address, port = rest, ""
    if port and not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InvalidArgument(f"Invalid bind address format: {host}")
    number = int(port) if port else (TLS_PORT if tls else PLAIN_PORT)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.strip("[]") or "127.0.0.1", number))
        sock.listen(1024)
    except BaseException:
        sock.close()
        raise
    return Listener(host, sock, tls=tls)


def open_metrics(address: str) -> Listener:
    """For what anybody may read. Raises InvalidArgument or OSError."""
    return _tcp(address, address, tls=False)


def _inherited(host: str, environment: Mapping[str, str]) -> list[Listener]:
    if environment.get("LISTEN_PID") not in (str(os.getpid()), None):
        raise Unavailable(f"{host}: the sockets were passed to another process")
    count = environment.get("LISTEN_FDS", "")
    if not count.isdecimal() or int(count) == 0:
        raise Unavailable(f"{host}: no sockets found via socket activation: was the service started by systemd?")
    return [Listener(host, socket.socket(fileno=fd)) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]
