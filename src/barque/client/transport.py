"""Where an engine listens and how to reach it: ``unix://``, ``tcp://`` (plain or TLS), ``ssh://``."""

from __future__ import annotations

import _socket

from barque.client.http import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.client.http import Socket
    from barque.client.tlsfiles import TlsFiles

DEFAULT_PORT = 2375
DEFAULT_TLS_PORT = 2376


class BadHost(ValueError):
    """The host text names no reachable place; the message is docker's."""


class Endpoint:
    """One engine: the URL it is known by, and the pieces to dial it."""

    __slots__ = ("url", "scheme", "address", "port", "user", "path", "tls")

    def __init__(self, url: str, scheme: str, address: str, port: int = 0, user: str = "", path: str = "",
                 tls: TlsFiles | None = None) -> None:
        self.url = url
        self.scheme = scheme
        self.address = address
        self.port = port
        self.user = user
        self.path = path
        self.tls = tls

    @property
    def authority(self) -> str:
        """The Host header; for sockets without a name docker sends ``api.moby.localhost``."""
        return f"{self.address}:{self.port}" if self.scheme == "tcp" else "api.moby.localhost"

    def connect(self) -> Connection:
        """Dial; raises OSError."""
        if self.scheme == "unix":
            sock: Socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            try:
                sock.connect(self.address)  # type: ignore[attr-defined]
            except BaseException:
                sock.close()
                raise
        elif self.scheme == "ssh":
            from barque.client import ssh

            sock = ssh.dial(self)
        else:
            sock = _tcp(self.address, self.port)
            if self.tls is not None:
                from barque.client.tls import TlsSocket

                sock = TlsSocket(sock, self.tls.context(), self.address)
        return Connection(sock)


def _tcp(host: str, port: int) -> _socket.socket:
    failure: OSError = OSError(f"no address for {host}")
    for family, kind, protocol, _, address in _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM):
        sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
        try:
            sock.connect(address)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def parse_host(text: str, tls: TlsFiles | None = None) -> Endpoint:
    """Read a host as ``-H`` takes it; raises :class:`BadHost`. A text without a scheme is a TCP address."""
    scheme, sep, rest = text.strip().partition("://")
    if not sep:
        scheme, rest = "tcp", text.strip()
    if scheme == "unix":
        if "://" in rest:
            raise BadHost(f"invalid proto, expected unix: {text}")
        path = rest or "/run/barque/barque.sock"
        return Endpoint(f"unix://{path}", "unix", path)
    if scheme in ("tcp", "http", "https"):
        return _parse_tcp(rest, tls)
    if scheme == "ssh":
        authority, _, path = rest.partition("/")
        user, _, place = authority.rpartition("@")
        host, port = _split_port(place, 0)
        if not host or host.startswith("-") or user.startswith("-"):
            raise BadHost(f"ssh host is not valid: {text}")
        if ":" in user:
            raise BadHost("ssh host is not valid: plain-text password is not supported")
        return Endpoint(text, "ssh", host, port, user, "/" + path if path else "")
    raise BadHost(f"invalid bind address format: {text}")


def _parse_tcp(rest: str, tls: TlsFiles | None) -> Endpoint:
    place = rest.partition("/")[0]
    default = DEFAULT_TLS_PORT if tls is not None else DEFAULT_PORT
    host, port = _split_port(place, default)
    if "/" in rest and rest.partition("/")[2]:
        raise BadHost(f"invalid bind address ({rest}): should not contain a path element")
    host = host or "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return Endpoint(f"tcp://{shown}:{port}", "tcp", host, port, tls=tls)


def _split_port(place: str, default: int) -> tuple[str, int]:
    """``host:port`` into both; brackets of an IPv6 address go away."""
    if place.startswith("["):
        host, bracket, tail = place[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise BadHost(f"invalid bind address format: {place}")
        port = tail[1:]
    elif place.count(":") > 1:
        raise BadHost(f"invalid bind address format: {place}: too many colons in address")
    else:
        host, _, port = place.partition(":")
    if port and (not port.isdigit() or not 0 < int(port) < 65536):
        raise BadHost(f"invalid bind address format: {place}: invalid port")
    return host, int(port) if port else default
