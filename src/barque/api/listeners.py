"""The sockets that the API is served on: ``unix://``, ``tcp://`` and ``fd://`` (systemd's socket activation)."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from barque.config import Tls
from barque.errors import InvalidArgument, Unavailable

log = logging.getLogger("barque.api")

#: systemd passes sockets from this descriptor on (sd_listen_fds(3)).
_FIRST_FD = 3
TLS_PORT, PLAIN_PORT = 2376, 2375
#: The one group that need not exist.
DEFAULT_GROUP = "docker"
#: sun_path of unix(7), without the zero at its end.
_LONGEST_PATH = 107
_MENDS = {errno.EADDRINUSE: "end what listens there, or choose another port",
          errno.EADDRNOTAVAIL: "choose an address of this host",
          errno.EACCES: "choose a port above 1023, or run as root"}


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


def check(host: str, *, verify: bool, allow_insecure_tcp: bool) -> None:
    """Raises InvalidArgument for an address of ``hosts`` that nobody could listen on, or that lets everybody in."""
    scheme, rest = _split(host)
    if scheme == "tcp":
        if not is_tcp_address(rest):
            raise InvalidArgument(f"Invalid bind address format: {host}: want tcp://ADDRESS:PORT")
        if not verify and not allow_insecure_tcp:
            raise InvalidArgument(f"{host}: the API gives root to whoever reaches it: TCP needs --tlsverify with "
                                  "--tlscacert, --tlscert and --tlskey, or --allow-insecure-tcp")
    elif scheme == "unix":
        if not rest.startswith("/"):
            raise InvalidArgument(f"Invalid bind address format: {host}: want unix:///PATH")
        if len(os.fsencode(rest)) > _LONGEST_PATH:
            raise InvalidArgument(f"{host}: the path of a socket has at most {_LONGEST_PATH} bytes")
    elif scheme != "fd":
        raise InvalidArgument(f"Invalid bind address format: {host}: want unix:///PATH, tcp://ADDRESS:PORT or fd://")


def check_group(name: str) -> int:
    """The id of the group, -1 where docker's default one does not exist; raises InvalidArgument for any other."""
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name in ("", DEFAULT_GROUP):
            return -1
        raise InvalidArgument(f"group {name} not found: make it, or name another one") from None


def is_tcp_address(text: str) -> bool:
    """``ADDRESS``, ``ADDRESS:PORT``, ``:PORT``; IPv6 in brackets."""
    _, port = _address(text)
    return not port or (port.isascii() and port.isdecimal() and int(port) < 65536)


def _split(host: str) -> tuple[str, str]:
    scheme, separator, rest = host.partition("://")
    if separator:
        return scheme, rest
    return ("unix", host) if host.startswith("/") else ("tcp", host)


def open_all(hosts: tuple[str, ...], group: str, environment: Mapping[str, str], *, tls: bool, verify: bool,
             allow_insecure_tcp: bool) -> list[Listener]:
    """Listen on all of ``hosts``; raises InvalidArgument, Unavailable or OSError with nothing left open."""
    result: list[Listener] = []
    try:
        for host in hosts:
            check(host, verify=verify, allow_insecure_tcp=allow_insecure_tcp)
            scheme, rest = _split(host)
            if scheme == "unix":
                result.append(_unix(host, rest, group))
            elif scheme == "tcp":
                if not verify:
                    log.warning("[DEPRECATION NOTICE]: %s: API is accessible without client certificates. Access to "
                                "the remote API is equivalent to root access on the host.", host)
                result.append(_tcp("hosts", host, rest, tls=tls))
            else:
                result += _inherited(host, environment)
    except BaseException:
        for listener in result:
            listener.close()
        raise
    return result


def _unix(host: str, path: str, group: str) -> Listener:
    gid = check_group(group)
    _remove_stale(path)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
        if gid >= 0:
            os.chown(path, 0, gid, follow_symlinks=False)
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


def _address(text: str) -> tuple[str, str]:
    """Address and port, either "" where it is left out; the address without its brackets."""
    address, colon, port = ("", "", "") if text.endswith("]") else text.rpartition(":")
    return (address if colon else text).strip("[]"), port


def _tcp(key: str, host: str, rest: str, *, tls: bool) -> Listener:
    """Raises Unavailable where somebody else is on that port, naming the configuration's ``key``, or OSError."""
    address, port = _address(rest)
    number = int(port) if port else (TLS_PORT if tls else PLAIN_PORT)
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address or "127.0.0.1", number))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise Unavailable(f"{key}: cannot listen on {host}: {error.strerror}: "
                          f"{_MENDS.get(error.errno or 0, 'choose another address')}") from None
    return Listener(host, sock, tls=tls)


def open_metrics(address: str) -> Listener:
    """For what anybody may read. Raises Unavailable."""
    return _tcp("metrics-addr", address, address, tls=False)


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises OSError (ssl.SSLError is one) for files that are not there or not what they should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert, tls.key)
    if tls.verify:
        context.load_verify_locations(tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _inherited(host: str, environment: Mapping[str, str]) -> list[Listener]:
    if environment.get("LISTEN_PID") not in (str(os.getpid()), None):
        raise Unavailable(f"{host}: the sockets were passed to another process")
    count = environment.get("LISTEN_FDS", "")
    if not count.isdecimal() or int(count) == 0:
        raise Unavailable(f"{host}: no sockets found via socket activation: was the service started by systemd?")
    return [Listener(host, socket.socket(fileno=fd)) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]
